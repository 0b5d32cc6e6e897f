"""How well masks agree with true ones: IoU, the IoU of their boundaries, and means with intervals by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage, sparse

from regard.evaluation.intervals import Metric, bootstrap_errors, group_numbers, share_interval, sum_groups

DILATION_RATIO = 0.02  # of the image's diagonal: how wide a boundary is


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two (H, W) bool masks, in 0..1; 1 where both are empty."""
    either = int((mask | truth).sum())
    return int((mask & truth).sum()) / either if either else 1.0


def boundary(mask: np.ndarray, ratio: float = DILATION_RATIO) -> np.ndarray:
    """(H, W) bool: pixels of the mask within `ratio` of the image's diagonal (at least one pixel) from what is not it.

    What lies beyond the image is not the mask. Distance counts diagonal steps as one, as in the authors' code (Cheng et
    al. 2021, "Boundary IoU", arXiv 2103.16562, section 4).
    """
    width = max(1, round(ratio * float(np.hypot(*mask.shape))))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    found = np.zeros_like(mask)
    if len(rows):
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside = mask[window]
        core = ndimage.minimum_filter(inside, size=2 * width + 1, mode="constant", cval=False)
        found[window] = inside & np.logical_not(core)
    return found


def boundary_iou(mask: np.ndarray, truth: np.ndarray, ratio: float = DILATION_RATIO) -> float:
    """IoU of the boundaries of two (H, W) bool masks, in 0..1: stricter than `iou` on large objects."""
    return iou(boundary(mask, ratio), boundary(truth, ratio))


def mean_by_image(values: Sequence[float] | np.ndarray, images: Sequence[str], resamples: int = 2000) -> Metric:
    """Mean of shares in 0..1, one for each mask, with its 95% interval by a bootstrap over images.

    images: for each mask the id of its image; masks of one image are no independent ones. Of one image there is no
    interval.
    """
    numbers = group_numbers(images)
    mean = float(np.mean(values))
    if numbers.max() == 0:
        return Metric(mean)
    quantities = sparse.csr_array(np.stack([np.asarray(values, np.float64), np.ones(len(numbers))], axis=1))

    def means(totals: np.ndarray) -> np.ndarray:
        return totals[:, :1] / totals[:, 1:]

    sums = sum_groups(quantities, numbers)
    error = float(bootstrap_errors(sums, means, resamples)[0])
    return share_interval(mean, error, int(numbers.max()) + 1)
