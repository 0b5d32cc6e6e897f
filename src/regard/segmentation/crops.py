"""Masks as what a classifier can look at: the object in its context, and before a blurred background.

The context is the mask's box, made square and half as large again (SAM's authors crop 1 to 2 times the box for their
text prompt, arXiv 2304.02643, appendix D.5), moved into the image and cut only where the image is too short for it. For
the second crop everything but the mask is blurred, which says which of the things in the box is meant and keeps what a
cut-out on grey would lose: the object's surroundings (Yang et al. 2023, "Fine-Grained Visual Prompting", arXiv
2306.04356, where of ten ways to mark an object this one was best).
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.masks import RunLengths

ENLARGED = 1.5  # side of the context, in sides of the box
LEAST = 24  # pixels of its side: fewer say nothing
BLUR = 1 / 16  # standard deviation, as a share of the side of the model's input


def window(box: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """The context of a box in an image: x0, y0, x1, y1 in pixels, x1 and y1 just outside.

    A square but where the image is shorter than it; the box lies in the middle but where the image ends before.
    """
    x0, y0, x1, y1 = box
    side = max(LEAST, round(ENLARGED * max(x1 - x0, y1 - y0)))
    left, right = _along(x0, x1, side, width)
    top, bottom = _along(y0, y1, side, height)
    return left, top, right, bottom


def _along(start: int, stop: int, side: int, most: int) -> tuple[int, int]:
    side = min(side, most)
    first = min(max((start + stop - side) // 2, 0), most - side)
    return first, first + side


def context_crop(pixels: np.ndarray, runs: RunLengths, preprocess: Preprocess) -> Tensor:
    """(3, S, S) uint8: the object under a mask in its context. pixels: the image, (H, W, 3) uint8.

    Raises RegardError for an empty mask, and one of another image's size.
    """
    left, top, right, bottom = _window(pixels, runs)
    return preprocess.pixels(pixels[top:bottom, left:right])


def both_crops(pixels: np.ndarray, runs: RunLengths, preprocess: Preprocess) -> Tensor:
    """(2, 3, S, S) uint8: as `context_crop`, and the same with everything beside the mask blurred."""
    left, top, right, bottom = _window(pixels, runs)
    context = preprocess.pixels(pixels[top:bottom, left:right])
    inside = runs.decode()[top:bottom, left:right].astype(np.uint8) * 255
    # The mask passes through the same resizing as the image, so that they lie on each other.
    share = preprocess.pixels(inside)[:1].float() / 255  # (1, S, S)
    blurred = context + (1 - share) * (_blurred(context).float() - context)
    return torch.stack([context, blurred.round().to(torch.uint8)])


def _window(pixels: np.ndarray, runs: RunLengths) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    if (runs.height, runs.width) != (height, width):
        raise RegardError(
            f"mask: of {runs.width} x {runs.height} pixels, the image has {width} x {height}; give masks of this image"
        )
    if not runs.area:
        raise RegardError("mask: empty, so there is nothing to name; leave it out")
    return window(runs.box, height, width)


def _blurred(picture: Tensor) -> Tensor:
    """(3, S, S) uint8."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    soft = image.filter(ImageFilter.GaussianBlur(BLUR * max(image.size)))
    return torch.from_numpy(np.array(soft)).permute(2, 0, 1)
