"""What is cut out of an image for a mask: places worked by hand, and pictures whose pixels are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.masks import RunLengths
from regard.segmentation.crops import ENLARGED, LEAST, both_crops, context_crop, window

PLAIN = Preprocess(60, 1.0, "short", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100, 100, 140, 120), (90, 80, 150, 140)),  # 60 long about (120, 110)
        ((0, 0, 40, 40), (0, 0, 60, 60)),  # moved into the corner
        ((380, 280, 400, 300), (370, 270, 400, 300)),
        ((50, 0, 350, 300), (0, 0, 400, 300)),  # 450 long: cut, the image has 400 x 300
        ((0, 100, 240, 110), (0, 0, 360, 300)),  # cut on the short side alone
        ((200, 150, 201, 151), (188, 138, 212, 162)),  # a single pixel has a context all the same
    ],
)
def test_windows_worked_by_hand(box: tuple[int, int, int, int], expected: tuple[int, int, int, int]) -> None:
    assert window(box, 300, 400) == expected


@given(st.data())
@settings(max_examples=50)
def test_a_window_holds_its_box_and_lies_in_the_image(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 500))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    left, top, right, bottom = window((x0, y0, x1, y1), height, width)
    assert 0 <= left <= x0 < x1 <= right <= width and 0 <= top <= y0 < y1 <= bottom <= height
    side = max(LEAST, round(ENLARGED * max(x1 - x0, y1 - y0)))
    assert right - left == min(side, width) and bottom - top == min(side, height)


def disc(height: int, width: int, x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_beside_the_mask_all_is_blurred_and_in_it_nothing_is() -> None:
    """A striped image: the window, 58 x 58, comes through unscaled."""
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[:, ::2] = 200
    inside = disc(200, 300, 150, 100, 19)
    runs = RunLengths.of(inside)
    assert runs.box == (131, 81, 170, 120) and window(runs.box, 200, 300) == (121, 71, 179, 129)
    preprocess = Preprocess(58, 1.0, "short", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    context, blurred = both_crops(pixels, runs, preprocess)
    expected = torch.from_numpy(pixels[71:129, 121:179].copy()).permute(2, 0, 1)
    assert torch.equal(context, expected)
    assert torch.equal(context, context_crop(pixels, runs, preprocess))
    kept = torch.from_numpy(inside[71:129, 121:179].copy())
    assert torch.equal(blurred[:, kept], context[:, kept])
    beside = blurred[:, ~kept].float()
    assert (beside - 100).abs().max() < 40  # the stripes are gone: grey is left


def test_the_mask_is_resized_as_the_image_is() -> None:
    """Of an image that is white where the mask is, the second crop differs from the first at the edge alone."""
    inside = disc(400, 500, 260, 190, 90)
    pixels = np.repeat(inside[:, :, None] * np.uint8(255), 3, axis=2)
    for preprocess in (PLAIN, Preprocess(50, 0.8, "squash", "bicubic")):
        context, blurred = both_crops(pixels, RunLengths.of(inside), preprocess)
        assert context.shape == (3, preprocess.size, preprocess.size)
        white, black = context == 255, context == 0
        assert white.any() and black.any()
        assert torch.equal(blurred[white], context[white])
        assert (blurred[black].float().mean() > 5) and blurred[black].max() < 200  # light spreads into the dark


def test_a_mask_of_another_image_and_an_empty_one_are_refused() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(RegardError, match="mask: of 20 x 30 pixels, the image has 30 x 20"):
        context_crop(pixels, RunLengths.of(np.ones((30, 20), bool)), PLAIN)
    with pytest.raises(RegardError, match="mask: empty"):
        both_crops(pixels, RunLengths.of(np.zeros((20, 30), bool)), PLAIN)
