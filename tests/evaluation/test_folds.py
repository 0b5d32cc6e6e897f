"""The corrected resampled t test: by hand, and its false alarms on small learning problems that are really learnt.

Two recipes fit the same photos, each from ten features of its own that say equally much of the class (a linear
classifier by least squares): by symmetry they are equally good on average, and models of different folds share
training photos as real ones do. Shares of 2,000 problems (100 photos, 5 folds, one and three repeats) called
different at 5% were 2.3% and 3.0%; of the plain t test over folds 7.7% and 28.1% (`test_false_alarms_at_full_count`
bounds them).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from regard.errors import RegardError
from regard.evaluation.statistics import corrected_resampled_t, holm, sentence

FOLDS = 5


def test_by_hand() -> None:
    table = np.array([[0.02, 0.05, -0.01], [0.03, 0.04, 0.01]])
    found = corrected_resampled_t("a", "b", table, test_size=50, train_size=100, margin=0.02)
    error = np.sqrt(table.var(ddof=1) * (1 / 6 + 50 / 100))
    t = table.mean() / error
    assert found.difference == pytest.approx(table.mean())
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, 5))
    assert found.high - found.difference == pytest.approx(stats.t.ppf(0.975, 5) * error)
    assert found.p_equivalent == pytest.approx(stats.t.sf((0.02 - table.mean()) / error, 5))
    assert (found.folds, found.seeds, found.photos, found.degrees_of_freedom) == (3, (2, 2), 150, 5)
    assert found.seed_variance + found.photo_variance == pytest.approx(error**2)
    assert found.outcome == "undecided"
    assert "3 folds 2 times, 150 photos" in sentence(found)
    assert "more photos would narrow it" in sentence(found)


def test_a_clear_gap_is_found_and_a_small_one_is_equivalent() -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, (1, 5))
    found = corrected_resampled_t("a", "b", 0.1 + noise, 200, 800)
    assert found.outcome == "better" and found.low > 0
    assert sentence(found).startswith("a is better than b by 10.0 points")
    assert corrected_resampled_t("a", "b", noise, 200, 800).outcome == "equivalent"
    errors = corrected_resampled_t("a", "b", 2 + 0.1 * noise, 200, 800, metric="scaled_mae")
    assert errors.low > 1 and "standard deviations" in sentence(errors)


def test_folds_that_all_agree_prove_little() -> None:
    small = corrected_resampled_t("a", "b", np.zeros((1, 5)), 10, 40)
    assert small.outcome == "undecided" and small.p_value == 1.0
    assert corrected_resampled_t("a", "b", np.full((1, 5), 0.1), 10, 40).outcome == "undecided"
    assert corrected_resampled_t("a", "b", np.full((1, 5), 0.2), 100, 400).outcome == "better"


def test_holm_corrects_verdicts_on_folds_of_one_repeat() -> None:
    noise = np.random.default_rng(0).normal(0, 0.012, (1, 5))
    pairs = [corrected_resampled_t("a", other, 0.03 + noise, 100, 400) for other in ("b", "c", "d")]
    assert all(corrected.p_value == pytest.approx(3 * pairs[0].p_value) for corrected in holm(pairs))


@pytest.mark.parametrize("table", [np.zeros((1, 1)), np.zeros(4), np.array([[0.1, np.nan]])])
def test_tables_that_are_none_are_refused(table: np.ndarray) -> None:
    with pytest.raises(RegardError, match="a and b: differences of shape"):
        corrected_resampled_t("a", "b", table, 10, 40)


def right_answers(features: np.ndarray, truth: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Answers of a linear classifier that is fitted by (slightly ridged) least squares."""
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    gram = design[train].T @ design[train] + 0.1 * np.eye(design.shape[1])
    weight = np.linalg.solve(gram, design[train].T @ truth[train])
    return np.sign(design[test] @ weight) == truth[test]


def differences(rng: np.random.Generator, photos: int, repeats: int, gap: float = 0.0) -> np.ndarray:
    """(repeats, folds) of one problem; gap: how much more the features of the first recipe say."""
    truth = rng.choice([-1.0, 1.0], photos)
    strength = np.r_[np.full(10, 0.3 + gap), np.full(10, 0.3)]
    features = rng.normal(size=(photos, 20)) + strength * truth[:, None]
    table = np.empty((repeats, FOLDS))
    for repeat in range(repeats):
        parts = np.array_split(rng.permutation(photos), FOLDS)
        for fold, test in enumerate(parts):
            train = np.setdiff1d(np.arange(photos), test)
            a, b = (right_answers(one, truth, train, test) for one in np.split(features, 2, axis=1))
            table[repeat, fold] = a.mean() - b.mean()
    return table


def shares(problems: int, repeats: int, photos: int = 100, gap: float = 0.0) -> tuple[float, float]:
    """Shares of problems called different by the corrected test and by the plain t test over folds."""
    rng = np.random.default_rng(0)
    corrected = plain = 0
    for _ in range(problems):
        table = differences(rng, photos, repeats, gap)
        found = corrected_resampled_t("a", "b", table, photos / FOLDS, photos - photos / FOLDS)
        corrected += found.p_value < 0.05
        error = np.sqrt(table.var(ddof=1) / table.size)
        plain += bool(error) and 2 * stats.t.sf(abs(table.mean()) / error, table.size - 1) < 0.05
    return corrected / problems, plain / problems


def test_equal_recipes_are_seldom_called_different() -> None:
    corrected, plain = shares(200, repeats=3)
    assert corrected <= 0.08  # at 5%, more than 16 of 200 would happen once in 35 times; it is 3%
    assert plain > 0.2  # so the simulation does catch a test that alarms too often


def test_a_large_gap_is_found() -> None:
    assert shares(60, repeats=1, photos=400, gap=0.25)[0] > 0.8


@pytest.mark.long
@pytest.mark.parametrize(("repeats", "naive"), [(1, 0.06), (3, 0.24)])
def test_false_alarms_at_full_count(repeats: int, naive: float) -> None:
    corrected, plain = shares(2000, repeats)
    assert corrected <= 0.05
    assert plain > naive
