"""Where everything mode asks: parts of the image, and points in each (arXiv 2304.02643, appendix B)."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np


class Crop(NamedTuple):
    """A part x0, y0, x1, y1 of an image, in pixels, x1 and y1 just outside; layer: 0 for the whole image."""

    x0: int
    y0: int
    x1: int
    y1: int
    layer: int = 0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1."""
        return self[:4]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0


def crops_of(height: int, width: int, layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole image, then for layer 1, 2, ... 4, 16, ... overlapping crops, column after column.

    overlap_ratio: of the crops of the first layer, as a share of the image's short side; it halves with each layer.
    """
    found = [Crop(0, 0, width, height)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        wide, high = (math.ceil((overlap * (count - 1) + length) / count) for length in (width, height))
        for column, row in product(range(count), repeat=2):
            x, y = column * (wide - overlap), row * (high - overlap)
            found.append(Crop(x, y, min(x + wide, width), min(y + high, height), layer))
    return found


def point_grid(count: int) -> np.ndarray:
    """(count * count, 2) x, y in 0..1: the middles of a grid of equal cells, row after row."""
    middles = np.linspace(1 / (2 * count), 1 - 1 / (2 * count), count)
    rows, columns = np.meshgrid(middles, middles, indexing="ij")
    return np.stack([columns, rows], axis=-1).reshape(-1, 2)
