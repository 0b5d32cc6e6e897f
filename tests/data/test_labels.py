"""Strata of labels that are no classes, against plain loops."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.labels import BINS, strata_of
from regard.data.sources import ImageSet


def image_set(labels: np.ndarray, problem: str) -> ImageSet:
    ids = tuple(f"{row:04d}" for row in range(len(labels)))
    classes = tuple("abcdefgh"[: labels.shape[-1]])
    return ImageSet("set", ids, labels, classes, ("",) * len(ids), ids, problem=problem)  # pyright: ignore


@given(st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_several_labels_stand_under_the_rarest(rows: list[tuple[bool, ...]]) -> None:
    labels = np.array(rows, dtype=np.float32)
    strata = image_set(labels, "multi_label").strata
    assert strata.dtype == np.int64
    counts = labels.sum(axis=0)
    for row, stratum in zip(rows, strata, strict=True):
        given_ = [label for label in range(4) if row[label]]
        assert stratum == (min(given_, key=lambda label: (counts[label], label)) if given_ else 4)


def test_numbers_stand_in_ten_bins_of_equal_size() -> None:
    values = np.random.default_rng(0).lognormal(size=1000).astype(np.float32)
    strata = strata_of(values[:, None], several=False)
    assert np.bincount(strata).tolist() == [100] * BINS
    edges = [(values[strata == one].min(), values[strata == one].max()) for one in range(BINS)]
    assert all(low[1] < high[0] for low, high in pairwise(edges))


def test_few_numbers_have_few_bins_and_equal_numbers_one() -> None:
    assert np.bincount(strata_of(np.arange(35.0)[:, None], several=False)).tolist() == [12, 11, 12]
    assert set(strata_of(np.arange(19.0)[:, None], several=False)) == {0}
    values = np.repeat([1.0, 2.0], [150, 50])[:, None]
    strata = strata_of(values, several=False)
    assert len(set(strata[:150])) == len(set(strata[150:])) == 1 and strata[0] != strata[199]


def test_unknown_numbers_are_in_the_first_bin() -> None:
    values = np.arange(200.0)
    values[[3, 150]] = np.nan
    strata = strata_of(values[:, None], several=False)
    assert strata[[3, 150]].tolist() == [0, 0] and strata.max() == BINS - 1


def test_a_class_is_its_own_stratum() -> None:
    labels = np.array([2, 0, 1])
    assert image_set(labels, "single_label").strata is labels
