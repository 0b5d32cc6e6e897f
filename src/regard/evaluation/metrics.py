"""Metrics of one class per image with their intervals, per class and per image.

Accuracies and shares are fractions of 1; NLL is in nats; Brier is the sum over classes (0 to 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from regard.errors import RegardError
from regard.evaluation.calibration import (
    confidences,
    ece_if_calibrated,
    expected_calibration_error,
    labelled,
    log_losses,
)
from regard.evaluation.intervals import (
    Metric,
    bootstrap_errors,
    group_numbers,
    grouped_proportion,
    overlap_f1,
    positive_interval,
    proportion,
    share_interval,
    sum_groups,
)
from regard.results import Predictions

__all__ = [
    "ClassRow",
    "Disagreements",
    "Metric",
    "Mistake",
    "additive",
    "confusion",
    "disagreements",
    "figures",
    "interval_of",
    "most_confident_mistakes",
    "per_class",
    "summarise",
    "values",
]

SHARES = ("macro_f1", "balanced_accuracy")
BOOTSTRAPPED = (*SHARES, "nll", "brier")


class ClassRow(NamedTuple):
    """One class; precision is None where nothing was called that, recall where no image is of it."""

    name: str
    images: int
    precision: Metric | None
    recall: Metric | None
    f1: Metric | None


class Mistake(NamedTuple):
    """One wrong answer with the confidence it was given."""

    id: str
    label: str
    predicted: str
    confidence: float


class Disagreements(NamedTuple):
    """Ids that exactly one of two models gets right, and how many both get right or wrong."""

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    both_right: int
    both_wrong: int


def confusion(predictions: Predictions) -> np.ndarray:
    """(K, K) int64: row = label, column = answer."""
    known = labelled(predictions)
    count = len(known.classes)
    cells = known.labels * count + known.logits.argmax(axis=1)
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def values(predictions: Predictions, temperature: float = 1.0) -> dict[str, float]:
    """Every metric without its interval: quick enough for each evaluation of a training run."""
    known = labelled(predictions)
    found = {"top1": float(known.correct.mean())}
    if len(known.classes) > 5:
        found["top5"] = float(_among_top(known, 5).mean())
    totals = np.asarray(additive(known, temperature).sum(axis=0)).reshape(1, -1)
    found |= dict(zip(BOOTSTRAPPED, map(float, figures(totals)[0]), strict=True))
    found["ece"] = float(expected_calibration_error(confidences(known, temperature), known.correct))
    return found


def summarise(
    predictions: Predictions, temperature: float = 1.0, groups: Sequence[Sequence[str]] = ()
) -> dict[str, Metric]:
    """top1, top5 (more than 5 classes), macro_f1, balanced_accuracy, nll, brier, ece, ece_if_calibrated.

    Intervals at 95%: Wilson for top1 and top5, for as many images as the groups are worth; a bootstrap over
    `groups` (of ids) for the next four, on the logit scale for shares and on the log scale for losses; none for
    ECE: it is read beside what a calibrated model with these confidences would show. Images without a label are
    left out.
    """
    known = labelled(predictions)
    plain = values(known, temperature)
    numbers = group_numbers(known.ids, groups)
    summary = {"top1": grouped_proportion(known.correct, numbers)}
    if "top5" in plain:
        summary["top5"] = grouped_proportion(_among_top(known, 5), numbers)
    count = int(numbers.max()) + 1
    if count == 1:  # nothing to resample
        summary |= {name: Metric(plain[name]) for name in BOOTSTRAPPED}
    else:
        errors = bootstrap_errors(sum_groups(additive(known, temperature), numbers), figures)
        for name, error in zip(BOOTSTRAPPED, errors.tolist(), strict=True):
            summary[name] = interval_of(name)(plain[name], error, count)
    summary["ece"] = Metric(plain["ece"])
    summary["ece_if_calibrated"] = Metric(ece_if_calibrated(confidences(known, temperature)))
    return summary


def interval_of(name: str) -> Callable[[float, float, int], Metric]:
    """How a bootstrapped metric's interval is made from (value, standard error, groups)."""
    return share_interval if name in SHARES else positive_interval


def per_class(predictions: Predictions) -> list[ClassRow]:
    """Precision and recall with Wilson's interval and F1 (`overlap_f1`) of each class, in the order of the classes."""
    matrix = confusion(predictions)
    rows = []
    for number, name in enumerate(predictions.classes):
        right, images, answered = matrix[number, number], matrix[number].sum(), matrix[:, number].sum()
        either = images + answered - right
        precision = proportion(right, answered) if answered else None
        recall = proportion(right, images) if images else None
        f1 = overlap_f1(right, either) if either else None
        rows.append(ClassRow(name, int(images), precision, recall, f1))
    return rows


def most_confident_mistakes(predictions: Predictions, temperature: float = 1.0, n: int = 20) -> list[Mistake]:
    """The `n` wrong answers with the highest confidence, highest first."""
    known = labelled(predictions)
    answers, confidence = known.logits.argmax(axis=1), confidences(known, temperature)
    wrong = np.flatnonzero(~known.correct)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:n]
    return [
        Mistake(
            known.ids[row],
            known.classes[known.labels[row]],
            known.classes[answers[row]],
            float(confidence[row]),
        )
        for row in order
    ]


def disagreements(a: Predictions, b: Predictions) -> Disagreements:
    """What each gets right that the other gets wrong, by id; both must hold the same labelled images."""
    a, b = labelled(a), labelled(b)
    right_a = dict(zip(a.ids, a.correct, strict=True))
    right_b = dict(zip(b.ids, b.correct, strict=True))
    if right_a.keys() != right_b.keys():
        odd = sorted(right_a.keys() ^ right_b.keys())
        raise RegardError(
            f"predictions: the two models answered different images ({len(odd)} differ, first {odd[0]!r}); "
            "compare predictions of the same test set"
        )
    both_right = sum(bool(right_a[id_] and right_b[id_]) for id_ in a.ids)
    only_a = tuple(id_ for id_ in a.ids if right_a[id_] and not right_b[id_])
    only_b = tuple(id_ for id_ in a.ids if right_b[id_] and not right_a[id_])
    return Disagreements(only_a, only_b, both_right, len(a) - both_right - len(only_a) - len(only_b))


def _among_top(predictions: Predictions, k: int) -> np.ndarray:
    """(N,) bool: the label is among the k largest logits; of equal ones the first wins, as in argmax."""
    own = predictions.logits[np.arange(len(predictions)), predictions.labels][:, None]
    earlier = np.arange(len(predictions.classes)) < predictions.labels[:, None]
    ahead = (predictions.logits > own) | ((predictions.logits == own) & earlier)
    return ahead.sum(axis=1) < k


def additive(predictions: Predictions, temperature: float) -> sparse.csr_array:
    """(N, 3K + 3): right, labelled and answered per class, NLL, Brier, 1; sums of rows give every figure."""
    images, count = predictions.logits.shape
    answers = predictions.logits.argmax(axis=1)
    probabilities = predictions.probabilities(temperature)
    own = probabilities[np.arange(images), predictions.labels]
    brier = (probabilities**2).sum(axis=1) - own**2 + (1 - own) ** 2
    losses = log_losses(predictions, temperature)
    columns = np.stack(
        [
            predictions.labels,
            count + predictions.labels,
            2 * count + answers,
            np.full(images, 3 * count),
            np.full(images, 3 * count + 1),
            np.full(images, 3 * count + 2),
        ],
        axis=1,
    )
    ones = np.ones(images)
    data = np.stack([predictions.correct.astype(float), ones, ones, losses, brier, ones], axis=1)
    rows = np.repeat(np.arange(images), columns.shape[1])
    return sparse.csr_array((data.ravel(), (rows, columns.ravel())), shape=(images, 3 * count + 3))


def figures(totals: np.ndarray) -> np.ndarray:
    """(R, 3K + 3) totals -> (R, 4): macro F1, balanced accuracy, NLL, Brier.

    Classes without label and answer stay out of macro F1, classes without label out of balanced accuracy
    (as in scikit-learn).
    """
    per, (losses, briers, images) = totals[:, :-3], totals[:, -3:].T
    right, labels, answers = np.split(per, 3, axis=1)
    either, some = labels + answers, np.maximum(labels + answers, 1e-300)
    macro_f1 = (2 * right / some).sum(axis=1) / (either > 0).sum(axis=1)
    balanced = (right / np.maximum(labels, 1e-300)).sum(axis=1) / (labels > 0).sum(axis=1)
    return np.stack([macro_f1, balanced, losses / images, briers / images], axis=1)
