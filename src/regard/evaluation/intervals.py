"""Intervals: Wilson for proportions, a bootstrap over groups for everything else.

Groups are images that are no independent ones: near-duplicates, and those of one patient, camera or product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse, special, stats

CHUNK = 4_000_000  # resample weights held at once: 32 MB

# Where 93-97% coverage was shown, at least 2,000 simulated test sets each (command `intervals` of
# benchmarks/verdict_calibration.py): (fewest images, highest accuracy), from 50% accuracy, to 3,000 images, 2
# or 10 classes, the commonest up to 7 times as frequent as the rarest. Elsewhere no such claim is made.
COVERAGE_SHOWN = {
    "top1": (100, 0.98),
    "recall": (100, 0.98),
    "macro_f1": (360, 0.98),
    "balanced_accuracy": (360, 0.98),
    "nll": (360, 0.90),
    "brier": (360, 0.98),
}


class Metric(NamedTuple):
    """A figure with its 95% interval; low and high are None where no interval is claimed."""

    value: float
    low: float | None = None
    high: float | None = None


def wilson(successes: Any, total: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of a proportion (Wilson 1927), elementwise; (0, 1) where total is 0."""
    successes, total = np.asarray(successes, float), np.asarray(total, float)
    z2 = stats.norm.ppf(0.5 + level / 2) ** 2
    share = np.divide(successes, total, out=np.full(np.shape(successes / 1), 0.5), where=total > 0)
    centre = (total * share + z2 / 2) / (total + z2)
    half = np.sqrt(z2 * (total * share * (1 - share) + z2 / 4)) / (total + z2)
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)


def proportion(successes: float, total: float) -> Metric:
    """successes / total with Wilson's interval; `total` of at least 1."""
    low, high = wilson(successes, total)
    return Metric(float(successes / total), float(low), float(high))


def grouped_proportion(hits: np.ndarray, numbers: np.ndarray) -> Metric:
    """The share of hits (N,) bool with Wilson's interval, for as many images as the N in their groups are worth.

    numbers: (N,), as from `group_numbers`. The worth is N over the design effect, the variance of the share over
    groups by that of independent images, at least 1 here; by groups' few degrees of freedom it is less still (Korn
    and Graubard 1998). Where all hit, or none, groups count as single images.
    """
    images, share = len(hits), float(np.mean(hits))
    count = int(numbers.max()) + 1
    if count in (1, images):
        return proportion(float(hits.sum()), images) if count == images else Metric(share)
    if share in (0.0, 1.0):
        return proportion(share * count, count)
    excess = np.bincount(numbers, hits - share)  # (G,)
    variance = float((excess**2).sum()) * count / (count - 1) / images**2
    effect = max(1.0, variance * images / (share * (1 - share)))
    tails = stats.t.ppf(0.975, images - 1) / stats.t.ppf(0.975, count - 1)
    worth = images / effect * tails**2
    low, high = wilson(share * worth, worth)
    return Metric(share, float(low), float(high))


def overlap_f1(right: int, either: int) -> Metric:
    """F1 with its interval; right: labelled and answered, either: labelled or answered, at least 1.

    F1 is no proportion of images, but it rises with one: the overlap J = right / either gives F1 = 2 J / (1 + J).
    Its interval is Wilson's of J, mapped.
    """
    overlap = np.array([right / either, *wilson(right, either)])
    return Metric(*(2 * overlap / (1 + overlap)).tolist())


def group_numbers(ids: Sequence[str], groups: Iterable[Sequence[str]] = ()) -> np.ndarray:
    """(N,) int64: one number for all ids of a group, a number of its own for any other id."""
    first = {member: group[0] for group in groups for member in group}
    return np.unique([first.get(id_, id_) for id_ in ids], return_inverse=True)[1].astype(np.int64)


def sum_groups(values: sparse.csr_array, numbers: np.ndarray) -> sparse.csr_array:
    """(N, F) additive quantities of images -> (G, F) of groups; `numbers` as from `group_numbers`."""
    ones = np.ones(len(numbers))
    member = sparse.csr_array((ones, (numbers, np.arange(len(numbers)))), shape=(numbers.max() + 1, len(numbers)))
    return sparse.csr_array(member @ values)


def resampled_totals(sums: sparse.csr_array, resamples: int, seed: int) -> np.ndarray:
    """(G, F) sums of groups -> (R, F) totals of G groups drawn with replacement."""
    count = len(sums.indptr) - 1
    transposed = sparse.csr_array(sums.T)
    step = max(1, CHUNK // count)
    drawn = group_weights(count, resamples, step, seed)
    return np.concatenate([(transposed @ weights.T.astype(np.float64)).T for weights in drawn])


def group_weights(count: int, resamples: int, step: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of `count` groups is drawn, (at most `step`, count) int at a time, `resamples` rows in all."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows).reshape(-1, 1)
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)


def bootstrap_errors(
    sums: sparse.csr_array,
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """Standard errors (M,) by a bootstrap over groups (Efron and Tibshirani 1993, chapter 6).

    sums: (G, F) additive quantities per group, G >= 2; statistic: (R, F) totals -> (R, M) figures.
    """
    groups = len(sums.indptr) - 1
    errors = statistic(resampled_totals(sums, resamples, seed)).std(axis=0)
    return errors * np.sqrt(groups / (groups - 1))


def share_interval(value: float, error: float, groups: int, level: float = 0.95) -> Metric:
    """Interval of a figure in (0, 1), symmetric on the logit scale, where a share near 1 spreads evenly.

    The percentile bootstrap of the same resamples covers less (macro F1 of .98 with 360 images: 92%, this
    96%). At 0 and 1 no resample differs: there it is Wilson's bound for as many images as groups.
    """
    if not 0 < value < 1:
        low, high = wilson(value * groups, groups, level)
        return Metric(value, float(low), float(high))
    half = float(stats.t.ppf(0.5 + level / 2, groups - 1)) * error / (value * (1 - value))
    centre = special.logit(value)
    return Metric(value, float(special.expit(centre - half)), float(special.expit(centre + half)))


def positive_interval(value: float, error: float, groups: int, level: float = 0.95) -> Metric:
    """Interval of a figure above 0, symmetric on the log scale; none at 0."""
    if value <= 0:
        return Metric(value)
    factor = math.exp(min(50.0, float(stats.t.ppf(0.5 + level / 2, groups - 1)) * error / value))
    return Metric(value, value / factor, value * factor)


def coverage_shown(metric: str, accuracy: float, images: int) -> bool:
    """True where simulation showed that this metric's 95% interval covers 93-97%: see `COVERAGE_SHOWN`."""
    fewest, highest = COVERAGE_SHOWN.get(metric, (math.inf, 0.0))
    return fewest <= images <= 3000 and 0.5 <= accuracy <= highest
