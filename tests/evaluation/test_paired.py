"""The paired difference against SciPy, and where all photos agree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from regard.errors import RegardError
from regard.evaluation.paired import paired_difference


def test_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 20), rng.normal(0, 2, 20)
    found, expected = paired_difference(a, b), stats.ttest_rel(a, b)
    low, high = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p_value == pytest.approx(expected.pvalue)


def test_photos_that_all_agree() -> None:
    ones = np.ones(5)
    assert paired_difference(ones, ones) == (0, 0, 0, 1)
    assert paired_difference(2 * ones, ones) == (1, 1, 1, 0)


@pytest.mark.parametrize("scores", [[1.0], [1.0, np.nan], [[1.0, 2.0], [3.0, 4.0]]])
def test_what_cannot_be_tested_is_refused(scores: list) -> None:
    with pytest.raises(RegardError, match="expected finite ones of 2 photos or more"):
        paired_difference(np.array(scores), np.zeros(np.shape(scores)))
