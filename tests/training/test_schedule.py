from __future__ import annotations

import pytest

from regard.training.schedule import warmup_cosine


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
