from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from some_masks import record

from regard.errors import RegardError
from regard.masks import Mask, RunLengths
from regard.segmentation.formats import png
from regard.segmentation.formats.record import ImageMasks


def naive(given: ImageMasks) -> np.ndarray:
    """Pixel by pixel: the smallest mask over it, of equal ones the last."""
    found = np.zeros((given.height, given.width), int)
    decoded = {mask.number: (mask.area, mask.runs.decode()) for mask in given.masks}
    for y in range(given.height):
        for x in range(given.width):
            over = [(area, -number) for number, (area, inside) in decoded.items() if inside[y, x]]
            found[y, x] = -min(over)[1] if over else 0
    return found


def test_the_smaller_mask_lies_on_top() -> None:
    given = record(masks=8)
    labels = png.label_map(given)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, naive(given))


def test_eight_bits_have_colours_and_more_have_sixteen() -> None:
    given = record(masks=3)
    many = given._replace(masks=(*given.masks, Mask(256, given.masks[0].runs, 0.5)))
    for one, mode in ((given, "P"), (many, "I;16")):
        labels = png.label_map(one)
        with Image.open(io.BytesIO(png.encode(labels))) as image:
            assert image.mode == mode
            np.testing.assert_array_equal(np.asarray(image), labels)
    with Image.open(io.BytesIO(png.encode(png.label_map(given)))) as image:
        shown = np.asarray(image.convert("RGB"))
    number = int(png.label_map(given).max())
    assert tuple(shown[png.label_map(given) == number][0]) == png.colour_of(number)
    assert not shown[png.label_map(given) == 0].any()
    assert len({tuple(colour) for colour in png.colours().tolist()}) == 256
    assert png.colour_of(256) == png.colour_of(1)


def test_a_png_has_no_more_numbers_than_it_can_hold() -> None:
    given = record(masks=1)
    with pytest.raises(RegardError, match=r"mask 65,536: a PNG holds numbers up to 65,535"):
        png.label_map(given._replace(masks=(Mask(65_536, given.masks[0].runs, 0.5),)))


def test_rows_say_what_is_seen_of_each_mask() -> None:
    given = record(masks=6, names=("dog", ""))
    empty = Mask(7, RunLengths.of(np.zeros((40, 60), bool)), 0.1)
    given = given._replace(masks=(*given.masks, empty))
    labels = png.label_map(given)
    rows = list(png.rows(given, labels, "masks/a.png"))
    assert all(list(row) == list(png.COLUMNS) for row in rows)
    for row, mask in zip(rows, given.masks, strict=True):
        assert row["visible"] == int((labels == mask.number).sum()) <= row["area"] == mask.area
        assert (row["x0"], row["y0"], row["x1"], row["y1"]) == mask.box
    assert rows[0]["points"] == "1.25 1.5"
    assert (rows[0]["name"], rows[0]["score"], rows[1]["name"], rows[1]["score"]) == ("", None, "dog", 0.625)
    assert rows[-1]["visible"] == 0


def test_an_image_without_masks_is_black() -> None:
    labels = png.label_map(record(masks=0))
    assert labels.shape == (40, 60)
    assert not labels.any()
    assert list(png.rows(record(masks=0), labels, "x")) == []
