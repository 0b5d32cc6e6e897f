from __future__ import annotations

import io

import numpy as np
from PIL import Image
from some_masks import record

from regard.segmentation.formats import png
from regard.segmentation.formats.overlay import SIDE, overlay


def read(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.int64)


def test_masks_are_tinted_and_the_rest_is_the_photo() -> None:
    given = record(height=200, width=300, masks=4)
    photo = np.full((200, 300, 3), 128, np.uint8)
    labels = png.label_map(given)
    picture = read(overlay(photo, given, labels))
    assert picture.shape == photo.shape
    flat = np.abs(picture[labels == 0] - 128).max(axis=1)
    assert np.median(flat) < 3  # JPEG
    for mask in given.masks:
        own = labels == mask.number
        expected = (128 + np.array(png.colour_of(mask.number))) / 2
        assert np.abs(np.median(picture[own], axis=0) - expected).max() < 12


def test_large_photos_become_smaller_and_names_are_written() -> None:
    given = record(height=1200, width=2400, masks=2)
    named = record(height=1200, width=2400, masks=2, names=("a dog", "字 " * 40))
    photo = np.zeros((1200, 2400, 3), np.uint8)
    labels = png.label_map(given)
    plain, with_names = (read(overlay(photo, one, labels)) for one in (given, named))
    assert plain.shape == (SIDE // 2, SIDE, 3)
    assert (with_names > 200).all(axis=2).sum() > (plain > 200).all(axis=2).sum() + 50


def test_no_masks() -> None:
    given = record(masks=0)
    photo = np.full((40, 60, 3), 90, np.uint8)
    assert np.abs(read(overlay(photo, given, png.label_map(given))) - 90).max() < 4
