"""How much of a map lies inside boxes or a mask: "is the model looking at the object?"

A share says little alone: half of an image is half of a flat map. So beside it stand what the area of the object would
give, and what a map of the centre would, because photographers put what they photograph there. The peak is the
"pointing game" (Zhang et al. 2016, arXiv 1608.00507), without its tolerance of some pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

CENTRE = 0.25  # standard deviation of the centre map, as a share of each side


class Inside(NamedTuple):
    """inside: share of the map in the object; area: share of the image that it covers; centre: share in it of a
    Gaussian in the middle of the image, whose deviation is a quarter of each side; all in [0, 1]. peak_inside: whether
    the map's maximum is."""

    inside: float
    area: float
    centre: float
    peak_inside: bool


def share_inside(values: np.ndarray, boxes: np.ndarray) -> Inside:
    """How a map (h, w) over an image lies to boxes (n, 4): left, top, right, bottom, as shares of its sides.

    The positive part of the map counts, each cell as evenly spread over its rectangle, of which the boxes may cut off
    any part; where boxes overlap, once. A map without a positive part says nothing: it has the share of the area, and
    no peak. The maximum lies where the middle of its cell does; of several equal ones, where half of them do.
    """
    height, width = values.shape
    positive = np.maximum(values, 0.0, dtype=np.float64)
    left, top, right, bottom = np.asarray(boxes, np.float64).reshape(-1, 4).T
    across, down = _lines(width, left, right), _lines(height, top, bottom)
    # Between two lines everything is constant: the map, and whether a box covers it.
    rows = (down[:-1, None] >= top) & (down[1:, None] <= bottom)
    columns = (across[:-1, None] >= left) & (across[1:, None] <= right)
    covered = (rows[:, None] & columns).any(-1)
    areas = np.outer(np.diff(down), np.diff(across))
    middles = np.outer(*(np.diff(ndtr((lines - 0.5) / CENTRE)) for lines in (down, across)))
    masses = positive[np.ix_(_cells(down, height), _cells(across, width))] * areas
    area = float(areas[covered].sum())
    total = masses.sum()
    share = float(masses[covered].sum() / total) if total > 0 else area
    y, x = np.nonzero((positive == positive.max()) & (total > 0))
    x, y = (x[:, None] + 0.5) / width, (y[:, None] + 0.5) / height
    hits = ((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).any(1)
    return Inside(share, area, float(middles[covered].sum() / middles.sum()), bool(2 * hits.sum() >= max(1, len(hits))))


def share_inside_mask(values: np.ndarray, mask: np.ndarray, window: tuple[float, float, float, float]) -> Inside:
    """How a map (h, w) lies to a mask (H, W) of the whole photo; by the rules of `share_inside`.

    window: what the map is of: left, top, right, bottom in pixels of the photo, which may begin within a pixel. What
    lies beyond it does not count.
    """
    (height, width), (left, top, right, bottom) = values.shape, window
    down, across = np.linspace(top, bottom, height + 1), np.linspace(left, right, width + 1)
    inside = np.asarray(mask, np.float32)
    rows, columns = _shares(down, len(inside)), _shares(across, inside.shape[1])
    covered = (rows @ inside).astype(np.float64) @ columns.T  # (h, w): share of each cell
    positive = np.maximum(values, 0.0, dtype=np.float64)
    total, area = positive.sum(), float(covered.mean())
    share = float((positive * covered).sum() / total) if total > 0 else area
    tall, wide = _gaussian(top, bottom, len(inside)), _gaussian(left, right, inside.shape[1])
    centre = float(tall @ inside @ wide / (tall.sum() * wide.sum()))
    y, x = np.nonzero((positive == positive.max()) & (total > 0))
    y = np.minimum((down[y] + down[y + 1]) / 2, len(inside) - 1).astype(np.int64)
    x = np.minimum((across[x] + across[x + 1]) / 2, inside.shape[1] - 1).astype(np.int64)
    return Inside(share, area, centre, bool(2 * mask[y, x].sum() >= max(1, len(y))))


def _shares(edges: np.ndarray, pixels: int) -> np.ndarray:
    """(cells, pixels) float32: the share of each cell between two edges that each pixel of a side covers."""
    first = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], first + 1) - np.maximum(edges[:-1, None], first)
    return (overlap.clip(0) / np.diff(edges)[:, None]).astype(np.float32)


def _gaussian(start: float, stop: float, pixels: int) -> np.ndarray:
    """(pixels,) the centre map along one side of a window, on each pixel of the photo."""
    places = (np.arange(pixels + 1).clip(start, stop) - start) / (stop - start)
    return np.diff(ndtr((places - 0.5) / CENTRE))


def _lines(count: int, *edges: np.ndarray) -> np.ndarray:
    """Along one side: the borders of its cells and of the boxes, ascending, in [0, 1]."""
    return np.unique(np.concatenate([np.arange(count + 1) / count, *edges]).clip(0, 1))


def _cells(lines: np.ndarray, count: int) -> np.ndarray:
    """The cell that each interval between two lines lies in."""
    return ((lines[:-1] + lines[1:]) / 2 * count).astype(np.int64)
