"""One door to the metrics of every kind of label: what differs by problem is decided here and nowhere above."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np

from regard.evaluation import metrics, multilabel, regression
from regard.evaluation.intervals import Metric
from regard.results import Predictions, Problem

# The score of one photo that a verdict averages (`photo_scores`, `Verdict.metric`).
METRIC: dict[Problem, Literal["top1", "lrap", "scaled_mae"]] = {
    "single_label": "top1",
    "multi_label": "lrap",
    "regression": "scaled_mae",
}
# The metric by which models are chosen on validation and that a table shows first.
HEADLINE: dict[Problem, str] = {"single_label": "top1", "multi_label": "map", "regression": "mae"}
LOWER_IS_BETTER = frozenset({"nll", "brier", "ece", "mae", "rmse"})

Model = TypeVar("Model")


def values(predictions: Predictions, temperature: float = 1.0, thresholds: Sequence[float] = ()) -> dict[str, float]:
    """Every metric of the problem without its interval. thresholds: of multi_label, 0.5 each where none are given."""
    if predictions.problem == "multi_label":
        return multilabel.values(predictions, temperature, thresholds)
    if predictions.problem == "regression":
        return regression.values(predictions)
    return metrics.values(predictions, temperature)


def summarise(
    predictions: Predictions,
    temperature: float = 1.0,
    groups: Sequence[Sequence[str]] = (),
    thresholds: Sequence[float] = (),
) -> dict[str, Metric]:
    """Every metric of the problem with its 95% interval where one is claimed; `groups` of ids stay together."""
    if predictions.problem == "multi_label":
        return multilabel.summarise(predictions, temperature, groups, thresholds)
    if predictions.problem == "regression":
        return regression.summarise(predictions, groups)
    return metrics.summarise(predictions, temperature, groups)


def headline(predictions: Predictions, temperature: float = 1.0) -> float:
    """The metric that chooses, turned so that more is better."""
    name = HEADLINE[predictions.problem]
    value = values(predictions, temperature)[name]
    return -value if name in LOWER_IS_BETTER else value


def photo_scores(predictions: Predictions, scale: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
    """(N,) float64, one score per photo, more is better; NaN where no label is known.

    top1: 1 where the answer is the label. lrap: label ranking average precision, 0 to 1. scaled_mae: minus the mean
    over columns of |error| / scale. scale: (K,) standard deviations of the training labels (`label_scale`); without
    it those of these labels.
    """
    if predictions.problem == "single_label":
        return np.where(predictions.labels >= 0, predictions.correct, np.nan)
    known = ~np.isnan(predictions.labels)
    some = known.any(axis=1)
    if predictions.problem == "multi_label":
        return np.where(some, multilabel.photo_lrap(predictions), np.nan)
    scales = label_scale(predictions.labels) if scale is None else np.asarray(scale, float)
    errors = np.where(known, np.abs(predictions.logits - np.where(known, predictions.labels, 0.0)) / scales, 0.0)
    return np.where(some, -errors.sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.nan)


def label_scale(labels: np.ndarray) -> np.ndarray:
    """(K,) standard deviation of each column of (N, K) labels over its known values; 1 where it does not vary."""
    known = ~np.isnan(labels)
    counts = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, labels, 0.0).astype(np.float64)
    centred = np.where(known, filled - filled.sum(axis=0) / counts, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=0) / counts)
    return np.where(deviation > 0, deviation, 1.0)


class Evaluator(Generic[Model]):
    """Yields (name, value) for a model: the same object in training, evaluation and comparison.

    predict: answers its images with the model it is given; prefix: put before each name ("val/").
    """

    def __init__(self, predict: Callable[[Model], Predictions], prefix: str = "", temperature: float = 1.0) -> None:
        self.predict = predict
        self.prefix = prefix
        self.temperature = temperature

    def __call__(self, model: Model) -> Iterator[tuple[str, float]]:
        """("val/top1", 0.93), ("val/macro_f1", 0.92), ... of the model as it is now."""
        for name, value in values(self.predict(model), self.temperature).items():
            yield self.prefix + name, value
