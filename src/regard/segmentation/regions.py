"""What lies where in a mask: its innermost point; small holes filled, small islands dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from regard.masks import RunLengths

TOUCHING = np.ones((3, 3), bool)  # pixels of a region may meet at corners


def innermost(runs: RunLengths) -> tuple[float, float]:
    """(x, y) of the pixel of a mask that is farthest from all outside of it; the image's border is outside.

    The middle of the mask's box may lie beside it.
    """
    x0, y0, x1, y1 = runs.box
    depth = ndimage.distance_transform_edt(np.pad(runs.decode()[y0:y1, x0:x1], 1))
    assert isinstance(depth, np.ndarray)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x0 + x - 1), float(y0 + y - 1)


def without_small_regions(runs: RunLengths, area: float) -> RunLengths | None:
    """Small holes filled and small islands dropped (arXiv 2304.02643, appendix B); None where it had neither.

    Small is what has fewer than `area` pixels. Where all islands are small, the largest stays. A hole is any region
    of pixels beside the mask, that at the border of the image too.
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
