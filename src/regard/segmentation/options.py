"""What everything mode asks for and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard.errors import RegardError
from regard.segmentation.grids import point_grid
from regard.segmentation.segmenter import CHUNK

WHOLE = {
    "points_per_side": 1,
    "points_per_batch": 1,
    "crop_n_layers": 0,
    "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
}
SHARES = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh")


@dataclass(frozen=True)
class Options:
    """What everything mode asks for and keeps; names and defaults are the original's.

    points_per_side: of the grid of clicks, or None where point_grids gives the places: one (n, 2) of x, y in 0..1 for
    each layer of crops. points_per_batch: clicks decoded at once, which changes nothing but speed and memory (the
    original's 64 leave the caches). Kept are masks whose estimated IoU is above pred_iou_thresh, and whose IoU between
    the thresholds +-stability_score_offset is at least stability_score_thresh; 0 keeps all. Of two whose boxes overlap
    by more than box_nms_thresh (in one crop; crop_nms_thresh: in different ones) one stays. crop_n_layers: 1 asks in
    2 x 2 crops, too, 2 also in 4 x 4, ...; they overlap by crop_overlap_ratio of the short side, and points per side
    are divided by crop_n_points_downscale_factor in each layer. min_mask_region_area: pixels; smaller holes are filled,
    smaller islands dropped.
    """

    points_per_side: int | None = 32
    points_per_batch: int = CHUNK
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[Any] | None = None
    min_mask_region_area: int = 0

    def __post_init__(self) -> None:
        for name, lowest in WHOLE.items():
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < lowest):
                raise RegardError(f"{name}={value}: expected a whole number from {lowest}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise RegardError(f"{name}={getattr(self, name)}: expected a number from 0 to 1")
        if not 0 <= self.crop_overlap_ratio < 1:
            raise RegardError(f"crop_overlap_ratio={self.crop_overlap_ratio}: expected a number from 0 to below 1")
        if not self.stability_score_offset >= 0:
            raise RegardError(f"stability_score_offset={self.stability_score_offset}: expected a number from 0")
        if (self.points_per_side is None) == (self.point_grids is None):
            raise RegardError("points_per_side: give either it or point_grids, and None for the other")
        if self.point_grids is not None:
            grids = tuple(tuple(map(tuple, _checked(grid).tolist())) for grid in self.point_grids)
            if len(grids) != self.crop_n_layers + 1:
                raise RegardError(f"point_grids: {len(grids)} grids; expected crop_n_layers + 1, one for each layer")
            object.__setattr__(self, "point_grids", grids)
        elif self._side(self.crop_n_layers) < 1:
            raise RegardError(
                f"crop_n_points_downscale_factor={self.crop_n_points_downscale_factor}: leaves no point in layer "
                f"{self.crop_n_layers}; lower it, or raise points_per_side"
            )

    def grid(self, layer: int) -> np.ndarray:
        """(n, 2) x, y in 0..1: where a crop of this layer is clicked on."""
        if self.point_grids is not None:
            return np.array(self.point_grids[layer])
        return point_grid(self._side(layer))

    def _side(self, layer: int) -> int:
        return int((self.points_per_side or 0) / self.crop_n_points_downscale_factor**layer)


def _checked(grid: Any) -> np.ndarray:
    points = np.asarray(grid, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not ((points >= 0) & (points <= 1)).all():
        raise RegardError(f"point_grids: one of shape {points.shape}; expected (n, 2), x and y from 0 to 1")
    return points
