"""A label map per image: a PNG whose pixels are the numbers of masks, 0 where there is none.

Up to 255 masks it has 8 bits and a palette, so that every viewer shows the objects in colours; beyond that 16 bits.
Where masks overlap, the smaller one lies on top. What else is known of them is a table, a row for each.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from regard.errors import RegardError
from regard.segmentation.formats.record import ImageMasks
from regard.segmentation.formats.rle import DIGITS

BITS_8, BITS_16 = 255, 65_535  # largest numbers
HUE = 0.618034  # of a turn from one number to the next: the golden ratio keeps neighbours apart
TONES = ((0.55, 0.85), (0.42, 0.75), (0.70, 0.80))  # lightness and saturation, in turn
COLUMNS: dict[str, type] = {
    "image": str, "file": str, "number": int, "name": str, "score": float, "area": int, "visible": int, "x0": int,
    "y0": int, "x1": int, "y1": int, "predicted_iou": float, "stability": float, "points": str,
}  # fmt: skip


@cache
def colours() -> np.ndarray:
    """(256, 3) uint8: the colour of each number, black for 0; a number above 255 has that of the rest by 255."""
    found: list[tuple[int, ...]] = [(0, 0, 0)]
    for number in range(BITS_8):
        light, full = TONES[number % len(TONES)]
        found.append(tuple(round(255 * part) for part in colorsys.hls_to_rgb(number * HUE % 1, light, full)))
    return np.array(found, np.uint8)


def colour_of(number: int) -> tuple[int, int, int]:
    """Red, green and blue of a mask's number."""
    red, green, blue = colours()[(number - 1) % BITS_8 + 1].tolist()
    return red, green, blue


def label_map(record: ImageMasks) -> np.ndarray:
    """(H, W) uint8 or uint16: the number of the mask that each pixel belongs to, 0 for none.

    Raises RegardError for numbers that no PNG can hold.
    """
    most = max((mask.number for mask in record.masks), default=0)
    if most > BITS_16:
        raise RegardError(
            f"{record.image}: mask {most:,}: a PNG holds numbers up to {BITS_16:,}; choose another format"
        )
    found = np.zeros((record.height, record.width), np.uint8 if most <= BITS_8 else np.uint16)
    for mask in sorted(record.masks, key=lambda mask: (-mask.area, mask.number)):
        x0, y0, x1, y1 = mask.box
        found[y0:y1, x0:x1][mask.runs.decode()[y0:y1, x0:x1]] = mask.number
    return found


def encode(labels: np.ndarray) -> bytes:
    """A label map as a PNG file."""
    if labels.dtype == np.uint8:
        image = Image.frombytes("P", labels.shape[::-1], np.ascontiguousarray(labels).tobytes())
        image.putpalette(colours().tobytes())
    else:
        image = Image.fromarray(labels)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def rows(record: ImageMasks, labels: np.ndarray, file: str) -> Iterator[dict[str, Any]]:
    """Of the table, for the label map in `file`. visible: pixels that no smaller mask covers."""
    visible = np.bincount(labels.ravel(), minlength=1)
    for mask in record.masks:
        yield {
            "image": record.image,
            "file": file,
            "number": mask.number,
            "name": mask.name,
            "score": None if mask.score is None else round(mask.score, DIGITS),
            "area": mask.area,
            "visible": int(visible[mask.number]) if mask.number < len(visible) else 0,
            **dict(zip(("x0", "y0", "x1", "y1"), mask.box, strict=True)),
            "predicted_iou": round(mask.predicted_iou, DIGITS),
            "stability": None if mask.stability is None else round(mask.stability, DIGITS),
            "points": "; ".join(f"{x:g} {y:g}" for x, y in mask.points),
        }
