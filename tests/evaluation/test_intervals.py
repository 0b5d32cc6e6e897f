from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from regard.evaluation.intervals import (
    Metric,
    bootstrap_errors,
    group_numbers,
    positive_interval,
    proportion,
    resampled_totals,
    share_interval,
    sum_groups,
    wilson,
)


def mean(totals: np.ndarray) -> np.ndarray:
    return totals[:, :1] / totals[:, 1:]


@pytest.mark.parametrize(("right", "total"), [(0, 7), (7, 7), (350, 360), (34, 36), (1, 2)])
def test_wilson_is_scipys(right, total):
    expected = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    low, high = wilson(right, total)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_is_elementwise_and_knows_nothing_of_no_images():
    low, high = wilson(np.array([3, 0, 5]), np.array([5, 0, 5]))
    assert low.tolist() == pytest.approx([wilson(3, 5)[0], 0.0, wilson(5, 5)[0]])
    assert high.tolist() == pytest.approx([wilson(3, 5)[1], 1.0, 1.0])


def test_proportion_holds_its_value():
    metric = proportion(9, 10)
    assert isinstance(metric, Metric)
    assert metric.low is not None and metric.high is not None
    assert metric.low < metric.value == 0.9 < metric.high


def exact_coverage(share: float, total: int) -> float:
    """Probability that Wilson's interval holds the share: exact, over every possible count."""
    counts = np.arange(total + 1)
    low, high = wilson(counts, np.full(total + 1, total))
    return float(stats.binom.pmf(counts, total, share)[(low <= share) & (share <= high)].sum())


@pytest.mark.parametrize(
    ("share", "total"), [(0.98, 360), (0.9, 360), (0.95, 36), (0.8, 100), (0.95, 1000), (0.98, 3000)]
)
def test_wilson_covers(share, total):
    assert 0.93 <= exact_coverage(share, total) <= 0.97


def test_groups_share_a_number():
    numbers = group_numbers(("a", "b", "c", "d"), [("c", "a"), ("gone", "d")])
    assert numbers[0] == numbers[2]
    assert len(set(numbers.tolist())) == 3


def test_groups_are_summed():
    values = sparse.csr_array(np.array([[1.0, 0.0], [2.0, 1.0], [4.0, 1.0]]))
    assert sum_groups(values, np.array([1, 0, 1])).toarray().tolist() == [[2, 1], [5, 1]]


def test_resamples_draw_as_many_groups_as_there_are_and_repeat_by_seed():
    sums = sparse.csr_array(np.column_stack([np.arange(50.0), np.ones(50)]))
    totals = resampled_totals(sums, 300, seed=4)
    assert totals.shape == (300, 2)
    assert (totals[:, 1] == 50).all()
    assert totals[:, 0].mean() == pytest.approx(np.arange(50).sum(), rel=0.03)
    assert (totals == resampled_totals(sums, 300, seed=4)).all()
    assert (totals != resampled_totals(sums, 300, seed=5)).any()


def test_bootstrap_error_of_a_mean_is_the_known_one():
    values = np.random.default_rng(0).normal(size=400)
    sums = sparse.csr_array(np.column_stack([values, np.ones(400)]))
    known = values.std(ddof=1) / np.sqrt(400)
    assert bootstrap_errors(sums, mean, 4000)[0] == pytest.approx(known, rel=0.05)


def test_near_duplicates_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).normal(size=100), 4)  # each photo four times
    each = sparse.csr_array(np.column_stack([values, np.ones(400)]))
    groups = [tuple(f"{photo}/{copy}" for copy in range(4)) for photo in range(100)]
    numbers = group_numbers([id_ for group in groups for id_ in group], groups)
    alone, together = bootstrap_errors(each, mean), bootstrap_errors(sum_groups(each, numbers), mean)
    assert together[0] / alone[0] == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("value", [0.01, 0.5, 0.99])
def test_a_share_stays_a_share(value):
    metric = share_interval(value, 0.02, 50)
    assert metric.low is not None and metric.high is not None
    assert 0 < metric.low < value < metric.high < 1


def test_a_perfect_share_is_not_certain():
    metric = share_interval(1.0, 0.0, 360)
    assert metric.low == pytest.approx(float(wilson(360, 360)[0]))
    assert metric.high == 1.0


def test_a_loss_stays_above_zero():
    metric = positive_interval(0.1, 0.2, 30)
    assert metric.low is not None and metric.high is not None
    assert 0 < metric.low < 0.1 < metric.high
    assert positive_interval(0.0, 0.0, 30) == Metric(0.0)
