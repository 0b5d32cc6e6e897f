"""Masks as polygons in text files, as Ultralytics' YOLO reads them: a line per mask, `class x1 y1 x2 y2 ...` in 0..1.

The format knows neither holes nor several parts: a polygon is the outline of a mask's largest part, holes filled. It
runs along the edges of the pixels, corners cut by half a pixel, so that the middles of the pixels inside are the part;
then points are left out that are off by less than half a pixel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from regard.masks import Mask
from regard.segmentation.formats.record import ImageMasks, class_of

TOLERANCE = 0.5  # pixels
DIGITS = 6  # of numbers in 0..1: a pixel of an image 10,000 wide is 0.0001


def polygon(mask: Mask) -> np.ndarray:
    """(n, 2) x, y in pixels: the outline of the mask's largest part, not closed; (0, 2) of an empty mask."""
    from contourpy import FillType, LineType, contour_generator
    from skimage.measure import approximate_polygon

    x0, y0, x1, y1 = mask.box
    if x1 == x0:
        return np.empty((0, 2))
    level = np.pad(mask.runs.decode()[y0:y1, x0:x1].astype(np.float32), 1)  # outlines close where there is a border
    lines = contour_generator(z=level, line_type=LineType.Separate, fill_type=FillType.OuterCode).lines(0.5)
    outer = max((np.asarray(line, np.float64) for line in lines), key=_area)
    fewer = approximate_polygon(outer, TOLERANCE)
    places = fewer if len(fewer) > 3 else outer  # of a few pixels no area might be left
    # There the padding begins a pixel earlier, and 0 is the middle of a pixel, which here is its edge.
    return places[:-1] + np.array([x0 - 0.5, y0 - 0.5])


def encode(record: ImageMasks, classes: Mapping[str, int]) -> str:
    """The file of an image; an empty one where it has no masks."""
    lines = []
    for mask in record.masks:
        places = polygon(mask)
        if len(places) >= 3:
            shares = np.clip(places / (record.width, record.height), 0, 1)
            numbers = " ".join(f"{value:.{DIGITS}g}" for value in shares.ravel())
            lines.append(f"{classes[class_of(mask)]} {numbers}\n")
    return "".join(lines)


def data_yaml(classes: Sequence[str]) -> str:
    """The file that names the folders and the classes; names are quoted as JSON, which is YAML too."""
    names = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(classes))
    return f"train: images\nval: images  # the same images: split them before you judge a training\nnames:\n{names}"


def _area(line: np.ndarray) -> float:
    """Pixels inside a closed line (n, 2)."""
    x, y = line.T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2
