from __future__ import annotations

import pytest

from regard.training.schedule import noam_peak, rate, warmup_cosine, warmup_inverse_root


def test_rises_linearly_then_falls_as_a_cosine():
    factors = [warmup_cosine(step, 110, 10) for step in range(110)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10] == 1
    assert factors[60] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 1e-3


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 2), (5, 0)])
def test_short_runs_never_stand_still(steps, warmup):
    assert all(0 < warmup_cosine(step, steps, warmup) <= 1 for step in range(steps))


def test_noams_rates_are_the_papers():
    peak = noam_peak(512, 4000)
    rates = {step: peak * warmup_inverse_root(step - 1, 4000) for step in (1, 1000, 4000, 10_000, 100_000)}
    expected = {1: 1.74693e-7, 1000: 1.74693e-4, 4000: 6.98771e-4, 10_000: 4.41942e-4, 100_000: 1.39754e-4}
    assert rates == pytest.approx(expected, rel=1e-5)
    for step in (1, 17, 3999, 4001, 123_456):
        formula = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
        assert peak * warmup_inverse_root(step - 1, 4000) == pytest.approx(formula)


def test_without_warmup_the_first_step_is_the_highest():
    assert [warmup_inverse_root(step, 0) for step in (0, 3, 8)] == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_schedule_is_chosen_by_name():
    assert rate("cosine", 7, 110, 10) == warmup_cosine(7, 110, 10)
    assert rate("inverse_root", 70, 110, 10) == warmup_inverse_root(70, 10)
