"""Slices: each is scored as if it were the whole set."""

from __future__ import annotations

import numpy as np
import pytest

from regard.evaluation.problems import summarise
from regard.evaluation.slices import per_slice, take
from regard.results import Predictions


def make(problem: str) -> Predictions:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(90, 3)).astype(np.float32)
    labels = rng.integers(3, size=90) if problem == "single_label" else (rng.random((90, 3)) < 0.4).astype(np.float32)
    return Predictions(tuple(map(str, range(90))), logits, labels, tuple("abc"), problem)


@pytest.mark.parametrize(
    ("problem", "first"), [("single_label", "top1"), ("multi_label", "map"), ("regression", "mae")]
)
def test_each_slice_is_scored_alone(problem: str, first: str) -> None:
    predictions = make(problem)
    cells = {str(row): "north" if row % 3 else "south" for row in range(90)}
    north, south = per_slice(predictions, cells, temperature=1.5)
    assert (north.value, north.images, south.value, south.images) == ("north", 60, "south", 30)
    alone = summarise(take(predictions, np.flatnonzero(np.arange(90) % 3)), 1.5)
    assert north.metrics == alone
    assert north.headline == alone[first] and north.headline.low is not None


def test_photos_without_value_or_label() -> None:
    predictions = make("single_label")
    predictions.labels[:10] = -1
    rows = per_slice(predictions, {str(row): "west" for row in range(5, 40)} | {"0": "east"})
    assert [(row.value, row.images) for row in rows] == [("", 50), ("west", 30)]
