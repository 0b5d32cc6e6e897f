"""Photos that belong together are not independent: intervals and verdicts count groups."""

from __future__ import annotations

import numpy as np
import pytest

from regard.evaluation.intervals import group_numbers, grouped_proportion, proportion
from regard.evaluation.statistics import by_group, mean_score, verdict

COPIES = 4


def clustered(rng: np.random.Generator, groups: int, size: int, share: float, alike: float) -> np.ndarray:
    """(groups * size,) bool, right with probability `share`; photos of a group are right together with weight `alike`.

    Beta-binomial: the correlation of two photos of a group is `alike`.
    """
    scale = 1 / alike - 1
    chances = rng.beta(share * scale, (1 - share) * scale, groups)
    return rng.random((groups, size)).__lt__(chances[:, None]).ravel()


def test_images_that_are_alone_have_wilsons_interval() -> None:
    hits = np.arange(50) % 3 == 0
    assert grouped_proportion(hits, np.arange(50)) == proportion(hits.sum(), 50)


def test_copies_bring_nothing() -> None:
    hits = np.arange(60) % 3 == 0
    numbers = np.repeat(np.arange(60), COPIES)
    single, copied = proportion(hits.sum(), 60), grouped_proportion(np.repeat(hits, COPIES), numbers)
    assert copied.value == single.value
    assert copied.low == pytest.approx(single.low, abs=0.006) and copied.high == pytest.approx(single.high, abs=0.006)
    assert copied.low <= single.low and copied.high >= single.high
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 60)) < 0.7, rng.random((3, 60)) < 0.6
    plain = verdict("a", "b", a, b)
    many = verdict("a", "b", np.repeat(a, COPIES, 1), np.repeat(b, COPIES, 1), groups=numbers)
    assert (many.photos, many.groups, plain.groups) == (240, 60, 0)
    for name in ("difference", "low", "high", "p_value", "p_equivalent", "seed_variance", "photo_variance"):
        assert getattr(many, name) == pytest.approx(getattr(plain, name), abs=1e-12), name
    assert mean_score(np.repeat(a, COPIES, 1), groups=numbers) == pytest.approx(mean_score(a), abs=1e-12)


def test_no_group_makes_surer_and_none_is_sure_of_all() -> None:
    hits = np.tile([True, False], 40)  # each group half right: less spread than independent photos have
    assert grouped_proportion(hits, np.repeat(np.arange(40), 2)).low <= proportion(40, 80).low
    every = grouped_proportion(np.ones(80, bool), np.repeat(np.arange(20), 4))
    assert (every.low, every.high) == proportion(20, 20)[1:]
    alone = grouped_proportion(hits, np.zeros(80, np.int64))
    assert (alone.value, alone.low, alone.high) == (0.5, None, None)


def test_by_group_keeps_the_means_of_unequal_groups() -> None:
    rng = np.random.default_rng(1)
    numbers = group_numbers([str(n) for n in range(30)], [[str(n) for n in range(12)], ["20", "21"]])
    scores = rng.random((4, 30))
    grouped = by_group(scores, numbers)
    assert grouped.shape == (4, 18)
    np.testing.assert_allclose(grouped.mean(1), scores.mean(1))
    by_hand = scores[2].mean() + 18 / 30 * (scores[2, :12] - scores[2].mean()).sum()
    np.testing.assert_allclose(grouped[2, numbers[0]], by_hand)
    assert by_group(scores, np.arange(30)) is scores


def test_intervals_cover_where_photos_come_in_groups() -> None:
    rng = np.random.default_rng(2)
    numbers, share = np.repeat(np.arange(75), COPIES), 0.7
    covered = {"grouped": 0, "ignored": 0}
    for _ in range(1000):
        hits = clustered(rng, 75, COPIES, share, 0.5)
        for name, found in (
            ("grouped", grouped_proportion(hits, numbers)),
            ("ignored", proportion(hits.sum(), len(hits))),
        ):
            assert found.low is not None and found.high is not None
            covered[name] += found.low <= share <= found.high
    assert 930 <= covered["grouped"] <= 975
    assert covered["ignored"] < 850


def test_the_verdict_errs_as_stated_where_photos_come_in_groups() -> None:
    """Two recipes equally good on all photos of the world; a group is kinder to one of them by chance."""
    rng = np.random.default_rng(3)
    numbers = np.repeat(np.arange(75), COPIES)
    wrong = {"grouped": 0, "ignored": 0}
    for _ in range(600):
        chances = {name: rng.beta(1.4, 0.6, 75)[numbers] for name in "ab"}
        a, b = (rng.random((3, 300)) < chances[name] for name in "ab")
        wrong["grouped"] += verdict("a", "b", a, b, groups=numbers).outcome == "better"
        wrong["ignored"] += verdict("a", "b", a, b).outcome == "better"
    assert wrong["grouped"] <= 0.08 * 600
    assert wrong["ignored"] > 0.15 * 600
