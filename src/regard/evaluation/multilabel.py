"""Metrics of photos that carry several labels: ranking, decisions at thresholds, and probabilities.

Labels are 0, 1 or NaN (unknown): an unknown cell counts nowhere. Shares are fractions of 1; NLL is in nats per
label and photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from regard.evaluation.calibration import binary_log_losses, labelled
from regard.evaluation.intervals import (
    CHUNK,
    Metric,
    bootstrap_errors,
    group_numbers,
    group_weights,
    overlap_f1,
    positive_interval,
    proportion,
    share_interval,
    sum_groups,
)
from regard.results import Predictions

FEW_POSITIVES = 10  # photos with a label on validation; below, its own threshold would be luck
RESAMPLES = 200  # of a ranking: enough for a standard error (Efron and Tibshirani 1993, section 6.4)


class LabelRow(NamedTuple):
    """One label; precision is None where it was never given, the others where no photo has it.

    images: photos that have it.
    """

    name: str
    images: int
    average_precision: Metric | None
    precision: Metric | None
    recall: Metric | None
    f1: Metric | None
    threshold: float


class Ranking(NamedTuple):
    """Scores sorted for average precision, one row per ranking: (rows, places)."""

    order: np.ndarray  # column of each place, highest score first
    truth: np.ndarray  # bool: known and positive
    known: np.ndarray  # bool
    end: np.ndarray  # last place of the same score: equal scores are taken together


def rank(scores: np.ndarray, truth: np.ndarray) -> Ranking:
    """scores (R, M) finite, truth (R, M) of 0, 1 and NaN: one ranking per row."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    cells = np.take_along_axis(truth, order, axis=1)
    places = np.arange(scores.shape[1])
    last = np.ones(scores.shape, bool)
    last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    ends = np.where(last, places, scores.shape[1])
    end = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return Ranking(order, cells == 1, ~np.isnan(cells), end)


def average_precision(ranking: Ranking) -> np.ndarray:
    """(R,) mean over positives of the precision down to their score; NaN in a row without positives.

    Over the photos of a label: average precision, a step integral of the precision-recall curve. Over the labels
    of a photo: its label ranking average precision (Schapire and Singer 2000).
    """
    found = np.cumsum(ranking.truth, axis=1)
    precision = np.take_along_axis(found / np.maximum(np.cumsum(ranking.known, axis=1), 1), ranking.end, axis=1)
    positives = found[:, -1]
    total = (precision * ranking.truth).sum(axis=1)
    return np.divide(total, positives, out=np.full(len(total), np.nan), where=positives > 0)


def photo_lrap(predictions: Predictions) -> np.ndarray:
    """(N,) label ranking average precision; 1 for a photo without a positive label, where no order is wrong."""
    found = average_precision(rank(predictions.logits, predictions.labels))
    return np.where(np.isnan(found), 1.0, found)


def values(predictions: Predictions, temperature: float = 1.0, thresholds: Sequence[float] = ()) -> dict[str, float]:
    """map, micro_f1, macro_f1, lrap, nll without intervals: quick enough for each evaluation of a training run.

    map: mean of average precision over the labels that occur; F1 at `thresholds` on probabilities (0.5 each where
    none are given), macro over the labels that occur or are given.
    """
    known = labelled(predictions)
    return _values(known, additive(known, temperature, thresholds))


def _values(known: Predictions, sums: sparse.csr_array) -> dict[str, float]:
    precisions = average_precision(rank(known.logits.T, known.labels.T))
    occurring = precisions[~np.isnan(precisions)]
    totals = np.asarray(sums.sum(axis=0)).reshape(1, -1)
    return {
        "map": float(occurring.mean()) if len(occurring) else 0.0,
        **dict(zip(BOOTSTRAPPED, map(float, figures(totals)[0]), strict=True)),
    }


BOOTSTRAPPED = ("micro_f1", "macro_f1", "lrap", "nll")


def summarise(
    predictions: Predictions,
    temperature: float = 1.0,
    groups: Sequence[Sequence[str]] = (),
    thresholds: Sequence[float] = (),
) -> dict[str, Metric]:
    """The figures of `values` with 95% intervals: a bootstrap over near-duplicate `groups` (of ids).

    On the logit scale for shares, on the log scale for NLL. Photos without a known label are left out. With few
    positives the interval of map is a little narrow: it covers 92% with 300 photos where the rarest label has 15.
    """
    known = labelled(predictions)
    sums = additive(known, temperature, thresholds)
    plain = _values(known, sums)
    numbers = group_numbers(known.ids, groups)
    count = int(numbers.max()) + 1
    if count == 1:  # nothing to resample
        return {name: Metric(value) for name, value in plain.items()}
    resampled = resampled_precisions(known, numbers)  # (R, K)
    occur = ~np.isnan(resampled)
    means = np.where(occur, resampled, 0.0).sum(axis=1) / np.maximum(occur.sum(axis=1), 1)
    summary = {"map": share_interval(plain["map"], _spread(means, count), count)}
    for name, error in zip(BOOTSTRAPPED, bootstrap_errors(sum_groups(sums, numbers), figures).tolist(), strict=True):
        interval = positive_interval if name == "nll" else share_interval
        summary[name] = interval(plain[name], error, count)
    return summary


def resampled_precisions(known: Predictions, numbers: np.ndarray, resamples: int = RESAMPLES) -> np.ndarray:
    """(resamples, K) average precision of each label with groups drawn with replacement; NaN without positives."""
    ranking = rank(known.logits.T, known.labels.T)
    found = []
    step = max(1, CHUNK // len(known))
    for weights in group_weights(int(numbers.max()) + 1, resamples, step):
        photos = weights[:, numbers]  # (R, N) how often each photo was drawn
        rows = np.empty((len(photos), len(known.classes)))
        for label in range(len(known.classes)):
            drawn = photos[:, ranking.order[label]] * ranking.known[label]
            positives = np.flatnonzero(ranking.truth[label])
            own = drawn[:, positives]
            # Positives down to the end of each positive's tie: so many of them lie at or above it.
            above = np.searchsorted(positives, ranking.end[label][positives], side="right") - 1
            right = np.cumsum(own, axis=1)[:, above]
            answered = np.cumsum(drawn, axis=1)[:, ranking.end[label][positives]]
            total = own.sum(axis=1)
            precision = (own * right / np.maximum(answered, 1)).sum(axis=1)
            rows[:, label] = np.divide(precision, total, out=np.full(len(total), np.nan), where=total > 0)
        found.append(rows)
    return np.concatenate(found)


def _spread(resampled: np.ndarray, groups: int) -> float:
    return float(np.std(resampled)) * (groups / (groups - 1)) ** 0.5


def additive(predictions: Predictions, temperature: float, thresholds: Sequence[float] = ()) -> sparse.csr_array:
    """(N, 3K + 4): given and right, labelled, given per label; LRAP, NLL, known cells, 1. Sums give every figure."""
    known = ~np.isnan(predictions.labels)
    truth = predictions.labels == 1
    given = known & (predictions.probabilities(temperature) >= cuts_of(predictions, thresholds))
    losses = binary_log_losses(predictions, temperature).sum(axis=1)
    rest = np.stack([photo_lrap(predictions), losses, known.sum(axis=1), np.ones(len(truth))], axis=1)
    return sparse.csr_array(np.concatenate([given & truth, truth, given, rest], axis=1))


def figures(totals: np.ndarray) -> np.ndarray:
    """(R, 3K + 4) totals -> (R, 4): micro F1, macro F1, LRAP, NLL."""
    counts, (lrap, losses, cells, photos) = totals[:, :-4], totals[:, -4:].T
    right, labels, given = np.split(counts, 3, axis=1)
    either = labels + given
    macro = (2 * right / np.maximum(either, 1e-300)).sum(axis=1) / np.maximum((either > 0).sum(axis=1), 1)
    micro = 2 * right.sum(axis=1) / np.maximum(either.sum(axis=1), 1e-300)
    return np.stack([micro, macro, lrap / photos, losses / np.maximum(cells, 1)], axis=1)


def cuts_of(predictions: Predictions, thresholds: Sequence[float]) -> np.ndarray:
    """(K,) thresholds on probabilities; 0.5 each where none are given."""
    return np.asarray(thresholds, float) if len(thresholds) else np.full(len(predictions.classes), 0.5)


def per_label(
    predictions: Predictions,
    thresholds: Sequence[float] = (),
    temperature: float = 1.0,
    groups: Sequence[Sequence[str]] = (),
) -> list[LabelRow]:
    """Each label in order: average precision (bootstrap), precision and recall (Wilson), F1 (Wilson of the overlap)."""
    known = labelled(predictions)
    cuts = cuts_of(known, thresholds)
    totals = np.asarray(additive(known, temperature, thresholds).sum(axis=0)).ravel()[:-4]
    right, labels, given = (part.round().astype(int) for part in np.split(totals, 3))
    precisions = average_precision(rank(known.logits.T, known.labels.T))
    numbers = group_numbers(known.ids, groups)
    count = int(numbers.max()) + 1
    resampled = resampled_precisions(known, numbers) if count > 1 else None
    rows = []
    for number, name in enumerate(known.classes):
        both, own, answered = int(right[number]), int(labels[number]), int(given[number])
        either = own + answered - both
        rows.append(
            LabelRow(
                name,
                own,
                _precision_interval(float(precisions[number]), resampled, number, count) if own else None,
                proportion(both, answered) if answered else None,
                proportion(both, own) if own else None,
                overlap_f1(both, either) if own else None,
                float(cuts[number]),
            )
        )
    return rows


def _precision_interval(value: float, resampled: np.ndarray | None, label: int, groups: int) -> Metric:
    if resampled is None:
        return Metric(value)
    column = resampled[:, label]
    column = column[~np.isnan(column)]  # resamples that drew a positive
    return share_interval(value, _spread(column, groups), groups) if len(column) > 1 else Metric(value)


def fit_thresholds(predictions: Predictions, temperature: float = 1.0) -> tuple[float, ...]:
    """Probability from which each label is given: best F1 on (validation) predictions (Lipton et al. 2014).

    A label with fewer than 10 positive photos takes the one threshold that is best for all labels together; 0.5
    where no photo has any label. Of thresholds that are equally good, the one nearest to 0.5.
    """
    known = ~np.isnan(predictions.labels)
    if not len(predictions) or not (predictions.labels == 1).any():
        return (0.5,) * len(predictions.classes)
    probabilities = predictions.probabilities(temperature)
    common = best_threshold(probabilities[known], predictions.labels[known] == 1)
    found = []
    for number in range(len(predictions.classes)):
        rows = known[:, number]
        truth = predictions.labels[rows, number] == 1
        enough = truth.sum() >= FEW_POSITIVES
        found.append(best_threshold(probabilities[rows, number], truth) if enough else common)
    return tuple(found)


def best_threshold(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Threshold of the highest F1 for (N,) probabilities and bool truth with a positive, midway between answers."""
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    right = np.cumsum(truth[order])[last]
    f1 = 2 * right / (np.flatnonzero(last) + 1 + truth.sum())
    distinct = ordered[last]
    cuts = (distinct + np.append(distinct[1:], 0.0)) / 2
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])
