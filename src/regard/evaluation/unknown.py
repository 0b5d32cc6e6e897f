"""How well a score tells photos of known classes from photos of none: AUROC and FPR95.

Scores are higher for photos that look more known. The photos that judge must not have chosen the score.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from regard.errors import RegardError
from regard.evaluation.intervals import CHUNK, Metric, share_interval

KEPT = 0.95  # share of the known photos that a threshold lets through
RESAMPLES = 1000


def auroc(known: np.ndarray, unknown: np.ndarray) -> Metric:
    """Chance that a known photo scores above an unknown one (ties count half), with its 95% interval.

    Standard error by placements (DeLong et al. 1988, computed from midranks as in Sun and Xu 2014), interval on the
    logit scale. known (N,), unknown (M,): finite, two or more each.
    """
    known, unknown = _checked(known, "known"), _checked(unknown, "unknown")
    n, m = len(known), len(unknown)
    ranks = stats.rankdata(np.concatenate([known, unknown]))
    below = (ranks[:n] - stats.rankdata(known)) / m  # (N,) share of the unknown below each known photo
    above = 1 - (ranks[n:] - stats.rankdata(unknown)) / n  # (M,) share of the known above each unknown photo
    error = math.sqrt(below.var(ddof=1) / n + above.var(ddof=1) / m)
    return share_interval(float(below.mean()), error, min(n, m))


def fpr95(known: np.ndarray, unknown: np.ndarray, seed: int = 0) -> Metric:
    """Share of the unknown photos that pass the threshold which 95% of the known photos pass, with its 95% interval.

    Both sets are resampled: the threshold is estimated too.
    """
    known, unknown = np.sort(_checked(known, "known")), np.sort(_checked(unknown, "unknown"))
    n, m = len(known), len(unknown)
    place = n - math.ceil(KEPT * n - 1e-9)  # of the threshold among the sorted scores
    value = float(_passing(unknown, known[place]))
    rng = np.random.default_rng(seed)
    found = []
    step = max(1, CHUNK // n)
    for start in range(0, RESAMPLES, step):
        drawn = rng.integers(n, size=(min(step, RESAMPLES - start), n))
        thresholds = known[np.partition(drawn, place, axis=1)[:, place]]
        # How many of m photos drawn with replacement pass is binomial.
        found.append(rng.binomial(m, _passing(unknown, thresholds)) / m)
    return share_interval(value, float(np.concatenate(found).std()), min(n, m))


def _passing(ordered: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of sorted scores that are at least each threshold."""
    return 1 - np.searchsorted(ordered, thresholds, side="left") / len(ordered)


def _checked(scores: np.ndarray, name: str) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or len(scores) < 2 or not np.isfinite(scores).all():
        raise RegardError(
            f"{name} photos: scores of shape {scores.shape}; expected two or more finite numbers, one per photo"
        )
    return scores
