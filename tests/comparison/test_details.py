"""What the report says of its intervals is what simulation has shown."""

from __future__ import annotations

import numpy as np

from regard.comparison.details import interval_note
from regard.results import Cost, Predictions, RunResult


def run_of(photos: int, accuracy: float) -> RunResult:
    logits = np.zeros((photos, 2), np.float32)
    logits[: round(photos * accuracy), 0] = 1
    logits[round(photos * accuracy) :, 1] = 1
    test = Predictions(tuple(map(str, range(photos))), logits, np.zeros(photos, np.int64), ("a", "b"))
    return RunResult("m", "scratch", 0, 1.0, 10, 10, test, test, 1.0, 0.0, Cost(1), "none")


def test_coverage_is_claimed_only_where_it_was_shown() -> None:
    assert "top1, macro F1, balanced accuracy, NLL, Brier: shown" in interval_note(run_of(400, 0.9))
    assert "by simulation: top1: shown" in interval_note(run_of(200, 0.9))
    assert "none of them shown" in interval_note(run_of(20, 0.9))
