"""Learned positions of tokens on a grid, and how they follow a change of image size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.errors import RegardError


def resample_positions(
    positions: Tensor, grid: tuple[int, int], prefix: int = 1, old_grid: tuple[int, int] | None = None
) -> Tensor:
    """Positions (1, prefix + h*w, D) for another grid: (1, prefix + grid[0]*grid[1], D), same dtype.

    timm's rule: bicubic with antialiasing in float32, corners not aligned; the prefix (class token) is kept
    as it is. old_grid: (h, w) of the given positions; square where None.

    Raises RegardError where the positions do not fill that grid.
    """
    count = positions.shape[1] - prefix
    height, width = old_grid or (math.isqrt(max(count, 0)),) * 2
    if height * width != count or not count:
        raise RegardError(f"positions: {count} do not fill a grid of {height}x{width}; give old_grid=(height, width)")
    if (height, width) == grid:
        return positions
    kept, moved = positions[:, :prefix], positions[:, prefix:]
    planes = moved.float().reshape(1, height, width, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    planes = F.interpolate(planes, size=grid, mode="bicubic", antialias=True, align_corners=False)
    moved = planes.flatten(2).transpose(1, 2).to(positions.dtype)  # (1, h'*w', D)
    return torch.cat([kept, moved], dim=1)
