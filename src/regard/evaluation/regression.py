"""Metrics of numbers: errors in the units of the labels, R2, and the overlap of boxes.

Labels are NaN where unknown: such a cell counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from regard.evaluation.calibration import labelled
from regard.evaluation.intervals import (
    Metric,
    bootstrap_errors,
    group_numbers,
    positive_interval,
    share_interval,
    sum_groups,
)
from regard.results import Predictions

BOX = ("x0", "y0", "x1", "y1")
NAMES = ("mae", "rmse", "r2")


class ColumnRow(NamedTuple):
    """One column of numbers over the images whose value is known; None where there is none."""

    name: str
    images: int
    mae: Metric | None
    rmse: Metric | None
    r2: Metric | None


def is_boxes(predictions: Predictions) -> bool:
    """True where the columns are the corners of a box."""
    return predictions.classes == BOX


def ious(predictions: Predictions) -> np.ndarray:
    """(N,) intersection over union of answer and label, 0 to 1; NaN where the label is unknown.

    An answer whose corners are in the wrong order is an empty box.
    """
    answer, truth = predictions.logits.astype(np.float64), predictions.labels.astype(np.float64)
    top_left, bottom_right = np.maximum(answer[:, :2], truth[:, :2]), np.minimum(answer[:, 2:], truth[:, 2:])
    both = np.maximum(bottom_right - top_left, 0.0).prod(axis=1)
    areas = [np.maximum(box[:, 2:] - box[:, :2], 0.0).prod(axis=1) for box in (answer, truth)]
    either = areas[0] + areas[1] - both
    found = np.divide(both, either, out=np.zeros(len(both)), where=either > 0)
    return np.where(np.isnan(truth).any(axis=1), np.nan, found)


def values(predictions: Predictions) -> dict[str, float]:
    """mae, rmse, r2, each the mean over columns, and iou for boxes; without intervals."""
    known = labelled(predictions)
    totals = np.asarray(additive(known).sum(axis=0)).reshape(1, -1)
    found = figures(totals, len(known.classes))[0]
    return dict(zip(_names(known), found[-len(_names(known)) :].tolist(), strict=True))


def summarise(predictions: Predictions, groups: Sequence[Sequence[str]] = ()) -> dict[str, Metric]:
    """The figures of `values` with 95% intervals from a bootstrap over near-duplicate `groups` (of ids).

    On the log scale for mae, rmse and 1 - r2, on the logit scale for iou.
    """
    found = _with_intervals(predictions, groups)
    names = _names(predictions)
    return dict(zip(names, found[-len(names) :], strict=True))


def per_column(predictions: Predictions, groups: Sequence[Sequence[str]] = ()) -> list[ColumnRow]:
    """mae, rmse and r2 of each column, in order."""
    found = _with_intervals(predictions, groups)
    images = (~np.isnan(predictions.labels)).sum(axis=0)
    rows = []
    for number, name in enumerate(predictions.classes):
        own = found[3 * number : 3 * number + 3] if images[number] else (None, None, None)
        rows.append(ColumnRow(name, int(images[number]), *own))
    return rows


def _names(predictions: Predictions) -> tuple[str, ...]:
    return (*NAMES, "iou") if is_boxes(predictions) else NAMES


def _with_intervals(predictions: Predictions, groups: Sequence[Sequence[str]]) -> list[Metric]:
    """A Metric for each figure: mae, rmse, r2 of each column, then their means, then iou for boxes."""
    known = labelled(predictions)
    columns = len(known.classes)
    sums = additive(known)
    plain = figures(np.asarray(sums.sum(axis=0)).reshape(1, -1), columns)[0]
    numbers = group_numbers(known.ids, groups)
    count = int(numbers.max()) + 1
    if count == 1:  # nothing to resample
        return [Metric(float(value)) for value in plain]
    errors = bootstrap_errors(sum_groups(sums, numbers), lambda totals: figures(totals, columns))
    kinds = [*NAMES * (columns + 1), "iou"]
    return [
        _interval(kind, value, error, count)
        for kind, value, error in zip(kinds, plain.tolist(), errors.tolist(), strict=False)
    ]


def _interval(kind: str, value: float, error: float, groups: int) -> Metric:
    if not np.isfinite(value) or not np.isfinite(error):
        return Metric(value)
    if kind == "iou":
        return share_interval(value, error, groups)
    if kind == "r2":  # 1 - r2 is a ratio of sums of squares, above 0
        rest = positive_interval(1 - value, error, groups)
        return Metric(value) if rest.low is None or rest.high is None else Metric(value, 1 - rest.high, 1 - rest.low)
    return positive_interval(value, error, groups)


def additive(predictions: Predictions) -> sparse.csr_array:
    """(N, 5K), or (N, 5K + 2) for boxes: |error|, error^2, y, y^2, 1 per column, and IoU, 1. Sums give every figure.

    y is the label less the mean of its column, so that no digits are lost where the mean is far from 0.
    """
    labels = predictions.labels.astype(np.float64)
    known = ~np.isnan(labels)
    counts = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, labels - np.where(known, labels, 0.0).sum(axis=0) / counts, 0.0)
    errors = np.where(known, predictions.logits - np.where(known, labels, 0.0), 0.0)
    parts = [np.abs(errors), errors**2, centred, centred**2, known]
    if is_boxes(predictions):
        overlap = ious(predictions)
        parts.append(np.stack([np.nan_to_num(overlap), ~np.isnan(overlap)], axis=1))
    return sparse.csr_array(np.concatenate(parts, axis=1, dtype=np.float64))


def figures(totals: np.ndarray, columns: int) -> np.ndarray:
    """(R, 5K) or (R, 5K + 2) totals -> (R, 3K + 3) or (R, 3K + 4).

    mae, rmse, r2 of each column (NaN where no value is known), their means over the columns with values, and the
    mean IoU. r2 of constant labels is 1 where they are met exactly, else 0 (as in scikit-learn).
    """
    absolute, squared, total, squares, known = (totals[:, n * columns : (n + 1) * columns] for n in range(5))
    images = np.where(known > 0, known, np.nan)
    spread = np.maximum(squares - total**2 / images, 0.0)
    exact = np.where(squared == 0, 1.0, 0.0)
    varied = spread > 1e-12 * np.maximum(squares, 1e-300)
    r2 = np.where(varied, 1 - squared / np.where(varied, spread, 1.0), exact)
    r2 = np.where(known > 0, r2, np.nan)
    each = np.stack([absolute / images, np.sqrt(squared / images), r2], axis=2)  # (R, K, 3)
    present = ~np.isnan(each)
    means = np.where(present, each, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    parts = [each.reshape(len(totals), -1), means]
    if totals.shape[1] > 5 * columns:
        overlap, boxes = totals[:, -2:].T
        parts.append((overlap / np.maximum(boxes, 1)).reshape(-1, 1))
    return np.concatenate(parts, axis=1)
