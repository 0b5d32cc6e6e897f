"""Maps over photos: placed, scaled and coloured as said, and sheets of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from regard.reporting import overlays


def light(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours (..., 3) uint8."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Between the middles of cells, by loops; beyond the outermost middles the map goes on as it is there."""
    tall, wide = values.shape
    found = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * tall / height - 0.5, 0), tall - 1)
            x = min(max((column + 0.5) * wide / width - 0.5, 0), wide - 1)
            up, left = int(y), int(x)
            down, right = min(up + 1, tall - 1), min(left + 1, wide - 1)
            above = values[up, left] * (1 - x + left) + values[up, right] * (x - left)
            below = values[down, left] * (1 - x + left) + values[down, right] * (x - left)
            found[row, column] = above * (1 - y + up) + below * (y - up)
    return found


def test_a_map_is_enlarged_between_the_middles_of_its_cells() -> None:
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_allclose(overlays.enlarged(values, 17, 40), bilinear(values, 17, 40), atol=1e-5)


def test_both_signs_get_lighter_away_from_dark_and_differ_in_hue() -> None:
    colours = overlays.colours()
    lightness = light(colours)
    middle = int(lightness.argmin())
    assert abs(middle - 127.5) < 8
    assert (np.diff(lightness[128:]) > -0.3).all()
    assert (np.diff(lightness[:128]) < 0.3).all()
    steps = np.abs(np.diff(lightness))[20:-20]
    assert steps.max() < 4 * np.median(steps)  # no band where there is none in the map
    (red, _, blue), (red_against, _, blue_against) = colours[-1].tolist(), colours[0].tolist()
    assert red > blue + 80
    assert blue_against > red_against + 80


def test_a_map_is_scaled_by_its_99th_percentile_and_keeps_its_sign() -> None:
    values = np.concatenate([np.full(98, -1.0), [2.0, 50.0]]).reshape(10, 10)
    scaled = overlays.scaled(values)
    full = np.percentile(np.abs(values), 99)
    assert scaled.max() == 1
    assert scaled[0, 0] == pytest.approx(-1 / full)
    one = np.zeros((30, 30))
    one[3, 3] = -4  # the percentile of a single cell is 0
    assert overlays.scaled(one).min() == -1
    for nothing in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
        assert (overlays.scaled(nothing) == 0).all()


def test_an_overlay_is_brightest_where_the_map_is_and_still_shows_the_photo() -> None:
    photo = np.full((64, 64, 3), 90, np.uint8)
    photo[:, 32:] = 200
    values = np.zeros((8, 8))
    values[2, 1] = 1
    shown = overlays.overlay(photo, values)
    assert shown.shape == photo.shape
    assert np.unravel_index(shown[..., 0].astype(int).argmax(), (64, 64))[0] // 8 == 2
    assert np.unravel_index(shown[..., 0].astype(int).argmax(), (64, 64))[1] // 8 == 1
    assert shown[50, 50].sum() > shown[50, 20].sum() + 20
    against = overlays.overlay(photo, -values)[20, 12].astype(int)
    assert against[2] > against[0]


def test_what_is_cut_out_begins_within_a_pixel() -> None:
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[10:20, 30:40] = 255
    cut = overlays.cut_out(photo, (25.0, 5.0, 45.0, 25.0), side=20)
    np.testing.assert_array_equal(cut, photo[5:25, 25:45])
    wide = overlays.cut_out(photo, (0.0, 0.0, 60.0, 40.0), side=30)
    assert wide.shape == (20, 30, 3)
    pixels = overlays.cut_out(photo[:4, :4], (0.0, 0.0, 4.0, 4.0 + 1e-9), side=16)
    assert pixels.shape == (16, 16, 3)
    shrunk = overlays.cut_out(photo[::2, ::2], (20.0, 0.0, 60.0, 40.0), 0.5, side=20)
    np.testing.assert_array_equal(shrunk, photo[::2, 20::2])
    half = overlays.cut_out(photo, (25.5, 5.5, 35.5, 15.5), side=10)
    assert 0 < half[7, 4, 0] < 255  # half in the square, half beside it


def test_boxes_are_drawn_at_their_edges() -> None:
    picture = np.zeros((100, 200, 3), np.uint8)
    framed = overlays.framed(picture, np.array([[0.25, 0.5, 0.75, 1.0], [0.9, 0.9, 0.901, 0.901]]))
    rows, columns = np.nonzero((framed == overlays.BOX_COLOUR).all(axis=2))
    assert (picture == 0).all()  # the original is left alone
    assert abs(columns.min() - 50) <= 2
    assert rows.max() >= 96
    assert 170 < columns.max() < 190
    assert overlays.framed(picture, np.empty((0, 4))) is picture


def test_small_pictures_and_sheets() -> None:
    tall = np.zeros((600, 300, 3), np.uint8)
    small = overlays.small(tall)
    assert Image.open(io.BytesIO(small)).size == (128, 256)
    sheet = overlays.contact_sheet(
        ["photo", "a method with a very long name of options", "x"],
        [([small, small, None], ["answer 12.0%", "", "\udcff\n"]), ([small, None, small], ["é ș 猫", "", ""])],
    )
    image = Image.open(io.BytesIO(sheet))
    assert image.format == "PNG"
    assert image.width == overlays.MARGIN + 3 * (overlays.TILE + overlays.MARGIN)
    assert image.height > 2 * overlays.TILE
