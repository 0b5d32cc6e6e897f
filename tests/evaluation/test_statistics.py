from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from regard.errors import RegardError
from regard.evaluation.intervals import proportion
from regard.evaluation.statistics import (
    decides,
    holm,
    holm_correct,
    mcnemar,
    mean_of_folds,
    mean_score,
    photos_for_gap,
    photos_needed,
    seeds_needed,
    sentence,
    smallest_gap,
    verdict,
)
from regard.results import Verdict


def runs(top1: float, seeds: int = 3, photos: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((seeds, photos)) < top1


def exactly(*counts: int, photos: int = 400) -> np.ndarray:
    """One row per count: that many right answers, on the first photos."""
    return np.arange(photos) < np.array(counts)[:, None]


def made(**changes) -> Verdict:
    base = Verdict("ViT", "CNN", "undecided", 0.02, -0.01, 0.05, 0.2, 0.9, 0.01, 0.05, (3, 3), 400, 4.0, 1e-4, 2e-5)
    return replace(base, **changes)


def test_variance_components_by_hand():
    a = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], bool)
    b = np.array([[0, 1, 0, 1], [0, 0, 0, 1]], bool)
    found = verdict("a", "b", a, b)
    assert found.difference == pytest.approx(9 / 12 - 3 / 8)
    top1_a, top1_b = [0.75, 0.5, 1.0], [0.5, 0.25]
    seeds = np.array([np.var(top1_a, ddof=1) / 3, np.var(top1_b, ddof=1) / 2])
    assert found.seed_variance == pytest.approx(seeds.sum())
    # residual mean squares of the two tables, by least squares on seed and photo effects
    squares = []
    for table in (a, b):
        count, photos = table.shape
        design = np.zeros((count * photos, count + photos))
        for row in range(count):
            for column in range(photos):
                design[row * photos + column, [row, count + column]] = 1
        values = table.ravel().astype(float)
        fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        squares.append(((values - fitted) ** 2).sum() / ((count - 1) * (photos - 1)))
    paired = a.mean(axis=0) - b.mean(axis=0)
    photo = (paired.var(ddof=1) - squares[0] / 3 - squares[1] / 2) / 4
    assert photo > 0
    assert found.photo_variance == pytest.approx(photo)
    total = seeds.sum() + photo
    freedom = total**2 / (seeds[0] ** 2 / 2 + seeds[1] ** 2 / 1 + photo**2 / 3)
    assert found.degrees_of_freedom == pytest.approx(freedom)
    assert found.p_value == pytest.approx(2 * stats.t.sf(found.difference / np.sqrt(total), freedom))
    assert found.high == pytest.approx(min(1, found.difference + stats.t.ppf(0.975, freedom) * np.sqrt(total)))


def test_the_components_are_estimated_without_bias():
    rng = np.random.default_rng(0)
    photos, seeds, sets = 300, 4, 800
    found = []
    for _ in range(sets):
        easy, other = rng.beta(4, 1, size=(2, photos))
        shift = 0.02 * rng.standard_normal((2, seeds, 1))
        a = rng.random((seeds, photos)) < easy + shift[0]
        b = rng.random((seeds, photos)) < 0.7 * easy + 0.3 * other + shift[1]
        found.append(verdict("a", "b", a, b))
    truth = np.var([one.difference for one in found])
    estimate = np.mean([one.seed_variance + one.photo_variance for one in found])
    assert estimate == pytest.approx(truth, rel=0.15)


def test_a_clear_gap_is_found_either_way_round():
    better, worse = runs(0.95), runs(0.8, seed=1)
    forward, backward = verdict("a", "b", better, worse), verdict("b", "a", worse, better)
    assert forward.outcome == backward.outcome == "better"
    assert forward.difference == -backward.difference > 0
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))
    assert forward.p_value == pytest.approx(backward.p_value)
    assert forward.seeds == (3, 3) and forward.photos == 400


def test_the_interval_and_the_test_agree():
    for seed in range(30):
        found = verdict("a", "b", runs(0.9, seed=2 * seed), runs(0.87, seed=2 * seed + 1))
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_one_seed_decides_nothing():
    for a, b in ((runs(0.99, 1), runs(0.2, 3)), (runs(0.99, 3), runs(0.2, 1)), (runs(1.0, 1), runs(1.0, 1))):
        found = verdict("a", "b", a, b)
        assert found.outcome == "undecided"
        assert (found.low, found.high, found.p_value, found.p_equivalent) == (-1, 1, 1, 1)
        assert "one seed" in sentence(found)


def test_seeds_decide_and_not_photos_alone():
    wide, level = exactly(280, 320, 360), exactly(318, 320, 322)  # means 0.8, spread over seeds 10 points
    assert verdict("a", "b", wide + False, exactly(300, 301, 302)).outcome == "undecided"
    assert verdict("a", "b", level, exactly(280, 281, 282)).outcome == "better"


def test_a_solver_with_identical_seeds_rests_on_photos_only():
    row = runs(0.9, 1)
    other = row.copy()
    other[0, :4] = ~other[0, :4]
    found = verdict("a", "b", np.repeat(row, 3, axis=0), np.repeat(other, 3, axis=0))
    assert found.seed_variance == 0
    assert found.photo_variance > 0
    assert "every seed gave the same answers" in sentence(found)


@pytest.mark.parametrize(("only_a", "only_b"), [(5, 0), (6, 0), (9, 1), (20, 5), (30, 30), (2, 0)])
def test_identical_seeds_agree_with_exact_mcnemar(only_a, only_b):
    a, b = np.ones((2, 400), bool), np.ones((2, 400), bool)
    b[:, :only_a] = False
    a[:, 100 : 100 + only_b] = False
    found, exact = verdict("a", "b", a, b, margin=1e-6), mcnemar(a[0], b[0])
    assert found.p_value == pytest.approx(exact.p_value, rel=0.5, abs=0.02)
    assert (found.p_value < 0.05) == (exact.p_value < 0.05)


def test_a_side_without_seed_variance_is_compared_with_one_that_has_it():
    fixed, varied = np.repeat(runs(0.95, 1), 3, axis=0), runs(0.8, seed=1)
    found = verdict("a", "b", fixed, varied)
    assert found.outcome == "better"
    assert found.seed_variance == pytest.approx(varied.mean(axis=1).var(ddof=1) / 3)


def test_the_same_answers_are_equivalent_only_with_enough_photos():
    small, large = np.ones((3, 200), bool), np.ones((3, 400), bool)
    assert verdict("a", "b", small, small).outcome == "undecided"  # .99^200 = .13: 1 point could hide
    found = verdict("a", "b", large, large)
    assert found.outcome == "equivalent"
    assert found.difference == 0 and found.low < 0 < found.high
    assert found.p_equivalent >= 0.99**400


def test_all_right_against_all_wrong():
    found = verdict("a", "b", np.ones((3, 50), bool), np.zeros((3, 50), bool))
    assert found.outcome == "better" and found.difference == 1 and found.high == 1 and found.low > 0.9


def test_seeds_that_tie_by_luck_are_not_certain():
    rng = np.random.default_rng(0)
    a = np.stack([rng.permutation(np.arange(100) < 95) for _ in range(3)])
    b = np.stack([rng.permutation(np.arange(100) < 94) for _ in range(3)])
    found = verdict("a", "b", a, b)
    assert found.outcome == "undecided"
    assert found.seed_variance > 0


def test_a_small_sure_gap_is_equivalent_and_said():
    a, b = exactly(19_000, 19_004, 18_996, photos=20_000), exactly(18_900, 18_904, 18_896, photos=20_000)
    found = verdict("a", "b", a, b)
    assert found.p_value < 0.05 and found.outcome == "equivalent"
    assert sentence(found).startswith("a and b are equivalent within 1 point: a is 0.5 points ahead (95% interval 0.4")


def test_a_larger_margin_is_easier_and_a_stricter_alpha_harder():
    a, b = runs(0.9, 5, 2000), runs(0.9, 5, 2000, seed=1)
    assert verdict("a", "b", a, b, margin=0.001).outcome != "equivalent"
    assert verdict("a", "b", a, b, margin=0.1).outcome == "equivalent"
    wide, narrow = verdict("a", "b", a, b, alpha=0.01), verdict("a", "b", a, b, alpha=0.2)
    assert wide.high - wide.low > narrow.high - narrow.low


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.ones((3, 5), bool), np.ones((3, 6), bool), "same test photos"),
        (np.ones(5, bool), np.ones((3, 5), bool), "shape"),
        (np.full((3, 5), np.nan), np.ones((3, 5), bool), "finite"),
        (np.ones((3, 5), int), np.ones((3, 5), bool), "finite"),
        (np.ones((0, 5), bool), np.ones((3, 5), bool), "shape"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, words):
    with pytest.raises(RegardError, match=words):
        verdict("a", "b", a, b)


def test_holm_by_hand():
    assert holm_correct([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm_correct([0.9, 0.8]) == [1.0, 1.0]
    assert holm_correct([]) == []


def test_holm_takes_back_what_does_not_survive():
    pairs = [made(outcome="better", p_value=p, low=0.001) for p in (0.04, 0.01, 0.001)]
    assert [one.outcome for one in holm(pairs)] == ["better", "better", "better"]
    pairs = [made(outcome="better", p_value=p, low=0.001) for p in (0.04, 0.03, 0.001)]
    corrected = holm(pairs)
    assert [one.outcome for one in corrected] == ["undecided", "undecided", "better"]
    assert "not after correcting" in sentence(corrected[0])
    assert corrected[0].low == 0.001


def test_holm_corrects_equivalence_too_and_leaves_untested_pairs():
    single = verdict("a", "b", runs(0.9, 1), runs(0.5, 1))
    pairs = [made(outcome="equivalent", p_equivalent=0.03, p_value=0.6), single, made(p_equivalent=0.2)]
    corrected = holm(pairs)
    assert corrected[0].outcome == "undecided" and corrected[0].p_equivalent == pytest.approx(0.06)
    assert corrected[1] == single
    assert holm(pairs[:1])[0].outcome == "equivalent"


def test_mcnemar_is_the_binomial():
    a, b = np.ones(50, bool), np.ones(50, bool)
    b[:8] = False
    a[10] = False
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (8, 1)
    assert found.p_value == pytest.approx(2 * stats.binom.cdf(1, 9, 0.5))
    assert mcnemar(a, a).p_value == 1.0
    with pytest.raises(RegardError):
        mcnemar(a, b[:4])


def test_smallest_gap_is_the_protocols():
    assert smallest_gap(341, 0.10) == pytest.approx(0.05, abs=0.005)
    assert smallest_gap(341, 0.20) == pytest.approx(0.07, abs=0.005)
    assert smallest_gap(5, 0.1) == 1.0


def test_photos_for_gap_inverts_smallest_gap():
    for photos in (200, 341, 5000):
        assert photos_for_gap(smallest_gap(photos, 0.15), 0.15) == pytest.approx(photos, abs=1)
    with pytest.raises(RegardError, match="disagreement"):
        photos_for_gap(0.2, 0.1)


def test_the_smallest_gap_is_found_in_four_of_five_sets():
    rng = np.random.default_rng(0)
    photos, disagreement = 341, 0.15
    gap = smallest_gap(photos, disagreement)
    shares = [(disagreement + gap) / 2, (disagreement - gap) / 2, 1 - disagreement]
    counts = rng.multinomial(photos, shares, size=3000)
    z = (counts[:, 0] - counts[:, 1]) / np.sqrt(np.maximum(counts[:, 0] + counts[:, 1], 1))
    assert (z > 1.96).mean() == pytest.approx(0.8, abs=0.03)


def test_what_a_test_set_decides_in_words():
    assert decides(341) == (
        "341 test photos can tell two models apart from a gap of about 5 to 7 points (80% power, "
        "10-20% disagreement); a gap of 1 point would need about 7,900 to 16,000"
    )
    assert "can hardly tell" in decides(8)


def test_sentences_name_the_better_one_first():
    text = sentence(made(outcome="better", difference=-0.031, low=-0.054, high=-0.008))
    assert text == "CNN is better than ViT by 3.1 points (95% interval 0.8 to 5.4, 3 seeds, 400 photos)."
    assert sentence(made(seeds=(3, 5))).count("3 and 5 seeds") == 1


def test_sentence_of_an_undecided_pair_says_what_would_settle_it():
    more_photos = made(seed_variance=1e-5, photo_variance=2e-4)
    assert photos_needed(more_photos) == pytest.approx(400 * 2e-4 / ((0.02 / 2.8016) ** 2 - 1e-5), abs=2)
    assert "photos would be needed" in sentence(more_photos)
    more_seeds = made(seed_variance=2e-4, photo_variance=1e-5)
    assert seeds_needed(more_seeds) == np.ceil(3 * 2e-4 / ((0.02 / 2.8016) ** 2 - 1e-5))
    assert "seeds would be needed" in sentence(more_seeds)
    assert "more seeds and more photos" in sentence(made(seed_variance=2e-4, photo_variance=2e-4))
    assert "level" in sentence(made(difference=0.0))


def test_the_interval_of_a_mean_over_seeds_covers_the_truth() -> None:
    """Photos of mixed difficulty and seeds that differ: the truth is inside about 95% of the time."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        difficulty = rng.beta(4, 1, 400)  # mean 0.8
        skill = rng.normal(0, 0.015, (4, 1))
        found = mean_score(rng.random((4, 400)) < np.clip(difficulty + skill, 0, 1))
        inside += found.low <= 0.8 <= found.high
    assert 0.92 <= inside / 400 <= 0.995


@pytest.mark.parametrize("metric", ["lrap", "scaled_mae"])
def test_float_scores_are_judged_as_right_and_wrong_are(metric: str) -> None:
    """The same numbers give the same test, whatever they are called; only the unit of the words differs."""
    a, b = runs(0.9, 4), runs(0.85, 4, seed=1)
    plain, other = verdict("a", "b", a, b), verdict("a", "b", a.astype(float), b.astype(float), metric=metric)
    assert replace(other, metric="top1") == plain
    assert other.metric == metric
    unit = {"lrap": "points of label ranking precision", "scaled_mae": "standard deviations"}[metric]
    assert unit in sentence(other)


def test_a_difference_of_errors_is_not_bounded_and_scales_with_its_unit() -> None:
    rng = np.random.default_rng(0)
    photos = -rng.gamma(2, 1, 300)
    a, b = (photos + shift + rng.normal(0, 0.2, (3, 300)) for shift in (0.0, -3.0))
    found = verdict("a", "b", a, b, metric="scaled_mae")
    assert found.outcome == "better" and found.low > 1
    ten = verdict("a", "b", 10 * a, 10 * b, metric="scaled_mae", margin=0.1)
    assert (ten.p_value, ten.difference) == pytest.approx((found.p_value, 10 * found.difference))
    one = verdict("a", "b", a[:1], b[:1], metric="scaled_mae")
    assert (one.low, one.high) == (-np.inf, np.inf)


def test_a_solver_on_numbers_is_told_apart_by_its_photos() -> None:
    """Identical seeds: a small but steady gain in error is found, a model against itself is not different."""
    rng = np.random.default_rng(0)
    a = np.repeat(-rng.gamma(2, 0.1, (1, 400)), 3, axis=0)
    steady = verdict("a", "b", a, a - rng.gamma(2, 0.01, 400), metric="scaled_mae")
    assert steady.outcome == "better"
    # Means over 3 and over 2 equal rows differ by rounding: that is no difference.
    same = verdict("a", "b", a, a[:2], metric="scaled_mae")
    assert same.outcome != "better"


def test_float_scores_are_seldom_called_different_when_they_are_not() -> None:
    """Two recipes of one quality: photos of mixed difficulty, seeds that differ, noise of each answer."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        difficulty = rng.gamma(2, 0.2, 200)
        a, b = (-np.abs(difficulty + rng.normal(0, 0.03, (3, 1)) + rng.normal(0, 0.1, (3, 200))) for _ in range(2))
        wrong += verdict("a", "b", a, b, metric="scaled_mae").outcome == "better"
    assert wrong / 400 <= 0.07


def test_the_mean_of_scores_has_an_interval_of_its_unit() -> None:
    rng = np.random.default_rng(0)
    rows = -rng.gamma(2, 1, (1, 200))
    one = mean_score(rows, "scaled_mae")
    half = stats.t.ppf(0.975, 199) * rows.std(ddof=1) / np.sqrt(200)
    assert one == pytest.approx((rows.mean(), rows.mean() - half, rows.mean() + half))
    assert mean_score(np.repeat(rows, 3, axis=0), "scaled_mae") == pytest.approx(one)
    assert mean_score(np.zeros((3, 9)), "scaled_mae") == (0.0, None, None)
    several = mean_score(np.clip(1 + rows / 9, 0, 1), "lrap")
    assert 0 < several.low < several.value < several.high < 1
    assert mean_score(np.ones((2, 100)), "lrap") == proportion(100, 100)


def test_the_mean_over_folds_by_hand() -> None:
    table = np.array([[0.9, 0.8, 0.85], [0.88, 0.84, 0.86]])
    found = mean_of_folds(table, 100, 200)
    half = stats.t.ppf(0.975, 5) * np.sqrt(table.var(ddof=1) * (1 / 6 + 0.5))
    assert found == pytest.approx((table.mean(), table.mean() - half, table.mean() + half))


def test_one_seed_has_wilsons_interval() -> None:
    row = np.arange(100) < 80
    assert mean_score(row[None]) == proportion(80, 100) == mean_score(np.stack([row, row]))
