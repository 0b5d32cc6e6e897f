"""Masks for the tests of formats."""

from __future__ import annotations

import numpy as np

from regard.masks import Mask, RunLengths
from regard.segmentation.formats.record import ImageMasks


def blob(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W) bool: an ellipse, perhaps beyond the border."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    middle, sides = rng.uniform(0, (width, height)), rng.uniform(0.1, 0.4, 2) * (width, height)
    return ((x - middle[0]) / sides[0]) ** 2 + ((y - middle[1]) / sides[1]) ** 2 < 1


def record(
    image: str = "a.jpg", height: int = 40, width: int = 60, masks: int = 5, names: tuple[str, ...] = ()
) -> ImageMasks:
    found = tuple(
        Mask(
            number,
            RunLengths.of(blob(height, width, 100 * len(image) + number)),
            predicted_iou=0.9 - number / 100,
            stability=0.97 if number % 2 else None,
            points=((number + 0.25, number + 0.5),),
            crop=(1, 2, 30, 40) if number == 1 else None,
            name=names[number % len(names)] if names else "",
            score=0.625 if names and names[number % len(names)] else None,
        )
        for number in range(1, masks + 1)
    )
    return ImageMasks(image, height, width, found)
