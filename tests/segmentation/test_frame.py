from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from regard.segmentation.frame import Frame

# Odd, square, wide, tall, smaller than the input, and so thin that less than a pixel would be left.
SIZES = [(97, 141), (64, 64), (31, 200), (200, 31), (5, 3), (1, 1), (128, 1), (64, 63)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_inputs_points_and_boxes_are_those_of_the_package(height, width):
    transforms = pytest.importorskip("segment_anything.utils.transforms", reason="segment-anything is not installed")
    theirs, frame = transforms.ResizeLongestSide(64), Frame(height, width, 64)
    rng = np.random.default_rng(height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = theirs.apply_image(image)
    assert frame.resized == resized.shape[:2]
    expected = np.zeros((64, 64, 3))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    expected[: frame.resized[0], : frame.resized[1]] = (resized - mean) / std
    np.testing.assert_allclose(frame.inputs(image)[0].permute(1, 2, 0), expected, atol=1e-5, rtol=0)
    places = rng.uniform(0, (width, height), (4, 2))
    np.testing.assert_array_equal(
        frame.points(torch.from_numpy(places)), theirs.apply_coords(places, (height, width)).astype(np.float32)
    )
    boxes = rng.uniform(0, (width, height) * 2, (3, 4))
    np.testing.assert_array_equal(
        frame.boxes(torch.from_numpy(boxes)), theirs.apply_boxes(boxes, (height, width)).astype(np.float32)
    )


def test_a_side_of_less_than_half_a_pixel_keeps_one():
    frame = Frame(1, 1000, 64)
    assert frame.resized == (1, 64)
    assert frame.inputs(np.zeros((1, 1000, 3), np.uint8)).shape == (1, 3, 64, 64)
    assert frame.masks(torch.ones(2, 3, 32, 32)).shape == (2, 3, 1, 1000)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("side", "low"), [(64, 32), (64, 16), (84, 24)])
def test_upsample_fills_the_input_cuts_the_image_out_and_resizes(height, width, side, low):
    frame = Frame(height, width, side)
    logits = torch.randn(2, 3, low, low, generator=torch.Generator().manual_seed(height))
    whole = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    cut = whole[..., : frame.resized[0], : frame.resized[1]]
    expected = F.interpolate(cut, (height, width), mode="bilinear", align_corners=False)
    torch.testing.assert_close(frame.upsample(logits), expected, rtol=0, atol=1e-5)


def test_upsample_is_the_weighted_mean_of_four_neighbours_twice():
    """Against loops in float64."""

    def place(value: float, last: int) -> float:
        return min(max(value, 0.0), last)

    def look(values: np.ndarray, y: float, x: float) -> float:
        y, x = place(y, len(values) - 1), place(x, len(values[0]) - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, len(values) - 1), min(left + 1, len(values[0]) - 1)
        upper = values[top, left] * (1 - x + left) + values[top, right] * (x - left)
        lower = values[bottom, left] * (1 - x + left) + values[bottom, right] * (x - left)
        return upper * (1 - y + top) + lower * (y - top)

    def resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
        down, across = len(values) / height, len(values[0]) / width
        return np.array(
            [
                [look(values, (y + 0.5) * down - 0.5, (x + 0.5) * across - 0.5) for x in range(width)]
                for y in range(height)
            ]
        )

    logits = np.random.default_rng(0).normal(size=(8, 8))
    frame = Frame(21, 13, 16)
    height, width = frame.resized
    expected = resize(resize(logits, 16, 16)[:height, :width], 21, 13)
    found = frame.upsample(torch.from_numpy(logits)[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_masks_are_what_lies_above_zero_however_many_are_held_at_once(monkeypatch):
    frame = Frame(97, 141, 64)
    logits = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = frame.upsample(logits) > 0
    assert torch.equal(frame.masks(logits), expected)
    monkeypatch.setattr("regard.segmentation.frame.AT_ONCE", 4 * 97 * 141 + 1)
    assert torch.equal(frame.masks(logits), expected)
