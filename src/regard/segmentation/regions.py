"""Small holes of a mask filled and small islands dropped (arXiv 2304.02643, appendix B)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from regard.masks import RunLengths

TOUCHING = np.ones((3, 3), bool)  # pixels of a region may meet at corners


def without_small_regions(runs: RunLengths, area: float) -> RunLengths | None:
    """With holes of fewer than `area` pixels filled, then without islands that are as small; None where it had neither.

    Where all islands are small, the largest stays. A hole is any region of pixels beside the mask, that at the border
    of the image too.
    """
    x0, y0, x1, y1 = runs.box
    # What surrounds the box is empty: a single row or column, which counts as many, stands for each side of it.
    rows = _counts(y0, y1, runs.height)
    columns = _counts(x0, x1, runs.width)
    box = runs.decode()[y0:y1, x0:x1]
    mask = np.pad(box, ((int(y0 > 0), int(y1 < runs.height)), (int(x0 > 0), int(x1 < runs.width))))
    pixels = rows[:, None] * columns

    holes, sizes = _regions(~mask, pixels)
    small_holes = sizes < area
    small_holes[0] = False
    mask = mask | small_holes[holes]
    islands, sizes = _regions(mask, pixels)
    kept = sizes >= area
    kept[0] = False
    if kept[1:].all() and not small_holes.any():
        return None
    if not kept.any():
        kept[1 + sizes[1:].argmax()] = True
    return RunLengths.of(np.repeat(np.repeat(kept[islands], rows, axis=0), columns, axis=1))


def _counts(first: int, stop: int, length: int) -> np.ndarray:
    """How many rows (columns) of the image each row of the padded box stands for."""
    counts = [first] + [1] * (stop - first) + [length - stop]
    return np.array([count for count in counts if count])


def _regions(mask: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (h, w) of the regions of `mask`, 0 beside it, and the size of each label's region."""
    found: Any = ndimage.label(mask, TOUCHING)
    labels, count = found
    return labels, np.bincount(labels.ravel(), weights=pixels.ravel(), minlength=count + 1)
