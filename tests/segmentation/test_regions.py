"""Small regions against the published package, which looks at the whole image."""

from __future__ import annotations

import numpy as np
import pytest

from regard.masks import RunLengths
from regard.segmentation.regions import without_small_regions


def masks() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    found = [np.zeros((6, 9), bool), np.ones((6, 9), bool), np.zeros((2, 2), bool)]
    for number in range(60):
        height, width = random.integers(1, 30, 2)
        mask = random.random((height, width)) < random.choice([0.1, 0.4, 0.6, 0.9])
        if number % 2:  # empty on some sides, in strips that may themselves be small
            above, left = random.integers(0, 4, 2)
            mask = np.pad(mask, ((above, number % 3), (left, number % 5)))
        found.append(mask)
    strip = np.ones((9, 12), bool)
    strip[0] = False  # all the way across: two regions of background above and below
    strip[-3:] = False
    return [*found, strip, strip.T]


@pytest.mark.parametrize("area", [1, 3, 13, 40])
def test_small_regions_are_the_packages(area: int) -> None:
    amg = pytest.importorskip("segment_anything.utils.amg")
    pytest.importorskip("cv2")
    changes = 0
    for mask in masks():
        filled, first = amg.remove_small_regions(mask, area, mode="holes")
        wanted, second = amg.remove_small_regions(filled, area, mode="islands")
        ours = without_small_regions(RunLengths.of(mask), area)
        assert (ours is not None) == (first or second), mask.shape
        changes += ours is not None
        if ours is not None:
            assert np.array_equal(ours.decode(), wanted)
    assert changes > 0 or area == 1


def test_a_hole_is_filled_and_an_island_dropped() -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:25, 5:30] = True
    mask[10:12, 10:12] = False
    mask[33, 50] = True
    cleaned = without_small_regions(RunLengths.of(mask), 5)
    assert cleaned is not None
    wanted = np.zeros_like(mask)
    wanted[5:25, 5:30] = True
    assert np.array_equal(cleaned.decode(), wanted)
    assert without_small_regions(cleaned, 5) is None
    lone = without_small_regions(RunLengths.of(mask), 10_000)
    assert lone is not None and lone.decode().all()  # all around is a small hole, too
