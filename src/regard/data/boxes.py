"""Boxes of a table: the ways that their four columns are named, and boxes as shares of the upright photo."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from regard.errors import RegardError

BOX = ("x0", "y0", "x1", "y1")  # the columns of numbers of an image set with boxes
CORNERS = (BOX, ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
SIZES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"))
# What a PNG that may be turned has in it. Pillow decodes one in full to look for an orientation behind the pixels.
PNG_MENTIONS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
TOLERANCE = 0.001  # of a side: what rounding may put outside of the photo; it is cut off


class BoxColumns(NamedTuple):
    """Four columns in the order x, y, and either the far corner or the size."""

    names: tuple[str, ...]
    sizes: bool  # the last two are width and height


def box_columns(names: Sequence[str]) -> BoxColumns | None:
    """The four columns of boxes among `names` (in any case, any order); None where there are none."""
    lower = {name.strip().lower(): name for name in reversed(names)}
    for known in (*CORNERS, *SIZES):
        if all(word in lower for word in known):
            return BoxColumns(tuple(lower[word] for word in known), known in SIZES)
    return None


def box_shares(
    table: str | Path, boxes: np.ndarray, sizes: bool, files: Sequence[Path], rows: Sequence[int]
) -> tuple[np.ndarray, str]:
    """((N, 4) float64 x0, y0, x1, y1 as shares of the upright photo's width and height, a note on what they were).

    boxes: (N, 4) as in the table; files, rows: the photo and the table's row of each, for errors. Where all values lie
    in 0..1 they are shares already. Else they are pixels: the header of each photo is read, none is decoded; a photo
    without a readable header has NaN. Raises RegardError for a box outside its photo or without area.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) if sizes else boxes.copy()
    shares = bool((corners >= -TOLERANCE).all() and (corners <= 1 + TOLERANCE).all())
    unit = "shares of width and height" if shares else "pixels"
    sides = np.ones((len(boxes), 2)) if shares else _sides(files)
    found = corners / np.tile(sides, 2)
    outside = np.any((found < -TOLERANCE) | (found > 1 + TOLERANCE), axis=1)
    found = found.clip(0, 1)
    flat = (found[:, 2] <= found[:, 0]) | (found[:, 3] <= found[:, 1])
    wrong = np.flatnonzero(outside | flat)
    if len(wrong):
        place = int(wrong[0])
        where = "has no area" if flat[place] and not outside[place] else "lies outside of its photo"
        size = "" if shares else f" of {sides[place, 0]:.0f} x {sides[place, 1]:.0f} pixels"
        text = ", ".join(f"{value:g}" for value in boxes[place])
        more = len(wrong) - 1
        raise RegardError(
            f"{table}: row {rows[place]}: the box {text} of {files[place]}{size} {where}"
            f"{f', and {more:,} more like it' if more else ''}; expected {_expected(sizes)}, in pixels or as shares"
        )
    return found, unit


def _expected(sizes: bool) -> str:
    return "left, top, width, height" if sizes else "left < right and top < bottom"


def _sides(files: Sequence[Path]) -> np.ndarray:
    """(N, 2) width and height of upright photos, NaN where a header cannot be read."""
    with ThreadPoolExecutor(8) as threads:
        return np.array(list(threads.map(_side, files)), dtype=np.float64).reshape(-1, 2)


def _side(file: Path) -> tuple[float, float]:
    from PIL import Image

    from regard.data.decoding import FORMATS, ImageError, open_image, read_bytes

    try:
        try:
            with Image.open(file, formats=FORMATS) as photo:
                if photo.format == "PNG" and not any(word in read_bytes(file) for word in PNG_MENTIONS):
                    return float(photo.width), float(photo.height)
                opened = open_image(photo)
        except ImageError:
            raise
        except Exception:  # the decoder's own gate has the last word on what is an image
            opened = open_image(file)
    except ImageError:
        return float("nan"), float("nan")
    return float(opened.width), float(opened.height)
