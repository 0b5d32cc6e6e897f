"""What the verbs print for every kind of labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score

from regard.cli.show import compare_lines, evaluate_lines, train_lines
from regard.evaluation.intervals import Metric
from regard.evaluation.slices import SliceRow
from regard.results import Cost, Predictions, Problem, RunResult
from regard.verbs.compare import Answer, Row


@dataclass
class Finished:
    """A run folder as `train` hands it over."""

    folder: Path
    found: RunResult
    config: dict[str, Any] = field(default_factory=dict)

    def result(self) -> RunResult:
        return self.found


def predictions(problem: Problem, classes: tuple[str, ...] = ("a", "b", "c", "d")) -> Predictions:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (50, len(classes))).astype(np.float32)
    ids = tuple(map(str, range(50)))
    if problem == "single_label":
        return Predictions(ids, logits, rng.integers(0, 4, 50), classes)
    labels = (logits + rng.normal(0, 1, logits.shape)).astype(np.float32)
    return Predictions(
        ids, logits, (labels > 0.5).astype(np.float32) if problem == "multi_label" else labels, classes, problem
    )


def lines(test: Predictions) -> list[str]:
    empty = replace(test, ids=(), logits=test.logits[:0], labels=test.labels[:0])
    run = RunResult("resnet18", "head", 0, 1.0, 900, 900, empty, test, 1.0, 0.0, Cost(1, train_seconds=12.3), "none")
    return train_lines(Finished(Path("nowhere"), run))


def test_train_prints_the_headline_of_the_labels() -> None:
    test = predictions("single_label")
    assert lines(test)[0] == f"test top1 {100 * test.correct.mean():.1f}% (50 images)"
    test = predictions("multi_label")
    mean = np.mean([average_precision_score(test.labels[:, k], test.logits[:, k]) for k in range(4)])
    assert lines(test)[0] == f"test mAP {100 * mean:.1f}% (50 images)"
    test = predictions("regression")
    error, fit = mean_absolute_error(test.labels, test.logits), r2_score(test.labels, test.logits)
    assert lines(test)[0] == f"test MAE {error:.3f}, R² {fit:.3f} (50 images)"
    assert lines(test)[1] == "resnet18, head, 900 training images, 12 s"


def test_train_prints_the_overlap_of_boxes_first() -> None:
    box = np.tile(np.array([[0.0, 0.0, 0.5, 0.5]], np.float32), (50, 1))
    test = replace(predictions("regression", ("x0", "y0", "x1", "y1")), labels=box, logits=box + np.float32(0.25))
    assert lines(test)[0] == "test mean IoU 14.3%, MAE 0.250 (50 images)"


def test_evaluate_prints_numbers_in_their_own_units() -> None:
    @dataclass
    class Evaluation:
        images: int
        source: str
        metrics: dict[str, Any]
        problem: str = "regression"
        slices: dict[str, tuple[SliceRow, ...]] = field(default_factory=dict)

    metrics = {"mae": Metric(1234.5678, 1100.0, 1400.0), "r2": Metric(0.61234), "lrap": Metric(0.9)}
    found = Evaluation(9, "all", metrics)
    assert evaluate_lines(found) == [
        "9 images (all)",
        "mae                  1,235  (1,100 to 1,400)",
        "r2                   0.612",
        "lrap                 0.900",
    ]
    north = SliceRow("north", 5, Metric(1000.4, 900.0, 1200.0), {})
    found.slices = {"place": (SliceRow("", 4, Metric(2.5), {}), north)}
    assert evaluate_lines(found)[4:] == [
        "",
        "by place:",
        "(empty)              2.50, 4 images",
        "north                1,000  (900 to 1,200), 5 images",
    ]


@pytest.mark.parametrize(("metric", "value", "words"), [("top1", 0.914, "top1  91.4%"), ("mae", 3.2149, "MAE   3.21")])
def test_compare_marks_the_reference(metric: str, value: float, words: str) -> None:
    rows = (Row("resnet18", metric, value, value, 3), Row("hog_svm", metric, value, value, 1, reference=True))
    printed = compare_lines(Answer("A beats B.", rows, (), Path("c/report.html")))
    assert printed == [
        "A beats B.",
        "",
        f"resnet18  {words}  (3 runs)",
        f"hog_svm   {words}  (1 run, reference, not tested)",
        "",
        "report: c/report.html",
    ]
