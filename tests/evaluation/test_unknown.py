"""Known against unknown photos: against scikit-learn, loops, and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from regard.errors import RegardError
from regard.evaluation.unknown import auroc, fpr95

TRUE_AUROC = stats.norm.cdf(1.2 / 2**0.5)
TRUE_FPR95 = stats.norm.sf(stats.norm.ppf(0.05) + 1.2)


def draw(seed: int, known: int = 150, unknown: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(1.2, 1, known), rng.normal(0, 1, unknown)


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_scikit_learns(ties: bool) -> None:
    known, unknown = draw(0)
    if ties:
        known, unknown = known.round(), unknown.round()
    truth = np.r_[np.ones(len(known)), np.zeros(len(unknown))]
    expected = reference.roc_auc_score(truth, np.concatenate([known, unknown]))
    found = auroc(known, unknown)
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high


def test_delong_by_loops() -> None:
    known, unknown = draw(1, 12, 9)
    known[0] = unknown[0]
    wins = np.array([[1.0 if k > u else 0.5 if k == u else 0.0 for u in unknown] for k in known])
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / 12 + wins.mean(axis=0).var(ddof=1) / 9)
    found = auroc(known, unknown)
    half = stats.t.ppf(0.975, 8) * error / (wins.mean() * (1 - wins.mean()))
    logit = np.log(wins.mean() / (1 - wins.mean()))
    assert found.high == pytest.approx(1 / (1 + np.exp(-logit - half)))


@pytest.mark.parametrize(("known", "threshold"), [(100, 5), (20, 1), (10, 0), (7, 0)])
def test_fpr95_keeps_95_per_cent_of_the_known(known: int, threshold: int) -> None:
    scores = np.arange(known, dtype=float)
    unknown = np.arange(-50.0, 50.0)
    found = fpr95(np.random.default_rng(0).permutation(scores), unknown)
    assert found.value == pytest.approx((unknown >= threshold).mean())
    assert (scores >= threshold).mean() >= 0.95 > (scores >= threshold + 1).mean()


def test_separate_and_equal_scores() -> None:
    apart = np.arange(10.0, 30.0), np.arange(0.0, 10.0)
    assert auroc(*apart).value == 1.0 and auroc(*apart).low < 1
    assert fpr95(*apart).value == 0.0 and fpr95(*apart).high > 0
    same = np.ones(20)
    assert auroc(same, same).value == 0.5
    assert fpr95(same, same).value == 1.0


def coverage(sets: int) -> tuple[float, float]:
    ranks, passing = 0, 0
    for seed in range(sets):
        area, share = auroc(*draw(seed)), fpr95(*draw(seed))
        ranks += area.low <= TRUE_AUROC <= area.high
        passing += share.low <= TRUE_FPR95 <= share.high
    return ranks / sets, passing / sets


def test_intervals_cover_the_truth() -> None:
    ranks, passing = coverage(150)
    assert 0.89 <= ranks <= 0.99 and 0.88 <= passing <= 0.995


@pytest.mark.long
def test_intervals_cover_the_truth_at_full_count() -> None:
    ranks, passing = coverage(2000)
    assert 0.93 <= ranks <= 0.97 and 0.92 <= passing <= 0.98


@pytest.mark.parametrize("bad", [np.array([1.0]), np.array([1.0, np.nan]), np.ones((2, 2))])
def test_scores_that_are_none_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(RegardError, match="unknown photos"):
        auroc(np.arange(5.0), bad)
    with pytest.raises(RegardError, match="known photos"):
        fpr95(bad, np.arange(5.0))
