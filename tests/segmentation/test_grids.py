"""Crops and grids of points against the published package's."""

from __future__ import annotations

import numpy as np
import pytest

from regard.segmentation.grids import crops_of, point_grid


@pytest.mark.parametrize("size", [(100, 100), (97, 141), (333, 50), (7, 9)])
@pytest.mark.parametrize("ratio", [512 / 1500, 0.0, 0.7])
def test_crops_are_the_packages(size: tuple[int, int], ratio: float) -> None:
    amg = pytest.importorskip("segment_anything.utils.amg", reason="segment-anything is not installed")
    boxes, layers = amg.generate_crop_boxes(size, 3, ratio)
    ours = crops_of(*size, 3, ratio)
    assert [list(crop.box) for crop in ours] == boxes
    assert [crop.layer for crop in ours] == layers
    assert ours[0].size == size


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_points_are_the_packages(count: int) -> None:
    amg = pytest.importorskip("segment_anything.utils.amg", reason="segment-anything is not installed")
    assert np.array_equal(point_grid(count), amg.build_point_grid(count))


def test_points_lie_in_the_middles_of_cells() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
