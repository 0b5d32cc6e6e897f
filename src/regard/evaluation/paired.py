"""Two ways scored on the same photos: their mean difference, with Student's t over photos."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from regard.errors import RegardError


class Difference(NamedTuple):
    """A mean difference with its 95% interval and the two-sided p-value of no difference."""

    mean: float
    low: float
    high: float
    p_value: float


def paired_difference(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Difference:
    """Mean of `a` less `b`, (N,) finite each, the same N >= 2 photos in the same order.

    Differences that are all the same have an interval without width, and p-value 0, or 1 where they are 0.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    if difference.ndim != 1 or len(difference) < 2 or not np.isfinite(difference).all():
        raise RegardError(f"scores of shape {difference.shape}: expected finite ones of 2 photos or more")
    mean = float(difference.mean())
    error = float(difference.std(ddof=1)) / len(difference) ** 0.5
    if error <= 1e-12 * abs(mean):
        return Difference(mean, mean, mean, float(mean == 0))
    freedom = len(difference) - 1
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    return Difference(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom)))
