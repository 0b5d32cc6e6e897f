"""The share of a map in boxes and in masks, against loops over a fine raster, and cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from regard.explanation.inside import CENTRE, Inside, share_inside, share_inside_mask

RASTER = 120  # divided by all sides and edges below


def by_loops(values: np.ndarray, boxes: np.ndarray) -> tuple[float, float, float]:
    """Share, area and centre, point by point."""
    height, width = values.shape
    inside = total = area = centre = around = 0.0
    for row in range(RASTER):
        for column in range(RASTER):
            y, x = (row + 0.5) / RASTER, (column + 0.5) / RASTER
            value = max(0.0, float(values[int(y * height), int(x * width)]))
            middle = math.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) / (2 * CENTRE**2))
            total += value
            around += middle
            if any(left < x < right and top < y < bottom for left, top, right, bottom in boxes):
                inside += value
                area += 1 / RASTER**2
                centre += middle
    return inside / total, area, centre / around


@pytest.mark.parametrize("grid", [(4, 6), (1, 1), (10, 3)])
def test_plain_loops(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=grid) + 0.5
    values.flat[0] = 2.0
    one = np.array([[0.1, 0.225, 0.35, 0.9]])  # cuts cells on all four sides
    several = np.concatenate([one, [[0.3, 0.2, 1.0, 0.25], [0.9, 0.0, 0.95, 1.0]]])  # overlapping, on the edge
    for boxes in (one, several):
        found = share_inside(values, boxes)
        share, area, centre = by_loops(values, boxes)
        np.testing.assert_allclose(found[:2], (share, area), rtol=1e-12)
        np.testing.assert_allclose(found.centre, centre, rtol=3e-4)  # the raster's sum stands for an integral


def test_by_hand() -> None:
    """A quarter of the cell of 4, half of the cell of 1: (1 + 0.5) / 5 (the -3 is left out)."""
    found = share_inside(np.array([[4.0, 1.0], [-3.0, 0.0]]), np.array([[0.25, 0.25, 1.0, 0.5]]))
    assert found.inside == pytest.approx((4 * 0.25 + 1 * 0.5) / 5) and found.area == pytest.approx(0.1875)
    assert found.peak_inside  # its middle is on the corner of the box
    everything = share_inside(np.array([[4.0, 1.0]]), np.array([[0.0, 0.0, 1.0, 1.0]]))
    assert everything == (pytest.approx(1), pytest.approx(1), pytest.approx(1), True)
    assert share_inside(np.array([[4.0, 1.0]]), np.empty((0, 4))) == (0, 0, 0, False)


def test_the_peak() -> None:
    values = np.zeros((7, 7))
    values[2, 5] = 1.0  # its middle: x 0.786, y 0.357
    assert share_inside(values, np.array([[0.78, 0.35, 0.8, 0.36]])).peak_inside
    assert not share_inside(values, np.array([[0.8, 0.3, 1.0, 0.5]])).peak_inside
    block = np.zeros((8, 8))
    block[:4, :4] = 1.0  # 16 equal ones: 8 of them, then 4, lie inside
    assert share_inside(block, np.array([[0.0, 0.0, 0.25, 0.5]])).peak_inside
    assert not share_inside(block, np.array([[0.0, 0.0, 0.125, 0.5]])).peak_inside


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_that_says_nothing_has_the_share_of_the_area(value: float) -> None:
    found = share_inside(np.full((3, 3), value), np.array([[0.0, 0.0, 0.5, 0.5]]))
    assert found.inside == found.area == 0.25 and not found.peak_inside


def test_a_flat_map_has_the_share_of_the_area_and_a_centre_map_that_of_the_centre() -> None:
    boxes = np.array([[0.2, 0.4, 0.7, 0.8]])
    assert share_inside(np.ones((9, 9), np.float32), boxes).inside == pytest.approx(0.2)
    places = (np.arange(200) + 0.5) / 200 - 0.5
    centre = np.exp(-(places[:, None] ** 2 + places**2) / (2 * CENTRE**2))
    found = share_inside(centre, boxes)
    assert found.inside == pytest.approx(found.centre, rel=1e-4) and found.peak_inside


def close(found: Inside, expected: Inside) -> None:
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-5)
    assert found.peak_inside == expected.peak_inside


def test_a_mask_that_is_a_box_lies_as_the_box_does() -> None:
    """In a window that begins within a pixel, and with a cell that is smaller than one."""
    rng = np.random.default_rng(1)
    for grid, window in (
        ((5, 7), (3.25, 1.5, 38.75, 27.0)),
        ((40, 60), (0.0, 0.0, 45.0, 30.0)),
        ((3, 2), (4, 4, 30, 30)),
    ):
        values = rng.normal(size=grid) + 0.5
        mask = np.zeros((30, 45), bool)
        mask[6:19, 10:33] = True
        left, top, right, bottom = window
        box = (np.array([10, 6, 33, 19]) - (left, top, left, top)) / (
            right - left,
            bottom - top,
            right - left,
            bottom - top,
        )
        close(share_inside_mask(values, mask, window), share_inside(values, box.clip(0, 1)[None]))


def test_a_mask_by_hand() -> None:
    """Cells of 2 x 2 pixels: one pixel of the cell of 4, two of the cell of 1: (4 / 4 + 1 / 2) / 5."""
    mask = np.array([[1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    found = share_inside_mask(np.array([[4.0, 1.0], [-3.0, 0.0]]), mask[:, :4], (0, 0, 4, 4))
    assert found.inside == pytest.approx(1.5 / 5) and found.area == pytest.approx(7 / 16) and not found.peak_inside
    everything = share_inside_mask(np.array([[4.0, 1.0]]), np.ones((9, 5), bool), (0.5, 1, 4.5, 8))
    np.testing.assert_allclose(everything[:3], (1, 1, 1), rtol=1e-6)
    assert everything.peak_inside
    nothing = share_inside_mask(np.zeros((2, 2)), mask, (0, 0, 4, 4))
    assert nothing.inside == nothing.area and not nothing.peak_inside


def test_what_lies_beyond_the_window_does_not_count() -> None:
    values = np.ones((3, 3))
    mask = np.zeros((12, 12), bool)
    mask[:, :4] = True
    assert share_inside_mask(values, mask, (4, 0, 12, 12)).inside == 0
    assert share_inside_mask(values, mask, (2, 0, 12, 12)).inside == pytest.approx(0.2)
