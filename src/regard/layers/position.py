"""Where a token is: codes of positions by formula, and how learned ones follow a change of image size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

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


def resample_distances(table: Tensor, side: int) -> Tensor:
    """A table of distances -(s - 1) .. s - 1 along one axis, (2 s - 1, d), for `side` tokens instead of s; same dtype.

    Linear in float32, corners not aligned, as the published code of MViTv2 and SAM has it.
    """
    rows = 2 * side - 1
    if len(table) == rows:
        return table
    moved = F.interpolate(table.float().T[None], size=rows, mode="linear")  # (1, d, 2 side - 1)
    return moved[0].T.to(table.dtype)


def sinusoidal_positions(count: int, dim: int) -> Tensor:
    """Sines and cosines of the positions 0 to count - 1: (count, dim), float32 (arXiv 1706.03762, section 3.5).

    Coordinate j of position p is sin(p / 10000^(j/dim)) for even j and cos(p / 10000^((j-1)/dim)) for odd j.
    """
    place = torch.arange(count, dtype=torch.float64)[:, None]  # (count, 1)
    coordinate = torch.arange(dim)  # (dim,)
    angle = place / 10_000 ** ((coordinate - coordinate % 2).double() / dim)  # (count, dim)
    return torch.where(coordinate % 2 == 0, angle.sin(), angle.cos()).float()


def integer_positions(count: int, dim: int) -> Tensor:
    """The position itself, 0 to count - 1, in every coordinate: (count, dim), float32.

    Its scale grows with the sequence and soon drowns what it is added to; a LayerNorm removes it altogether.
    """
    return torch.arange(count, dtype=torch.float32)[:, None].expand(count, dim).contiguous()


def normalised_positions(count: int, dim: int) -> Tensor:
    """The position divided by the last one, in [0, 1], in every coordinate: (count, dim), float32.

    The step between neighbours depends on the length of the sequence; a LayerNorm removes it altogether.
    """
    return integer_positions(count, dim) / max(count - 1, 1)


FIXED_POSITIONS: Mapping[str, Callable[[int, int], Tensor]] = MappingProxyType(
    {"sinusoidal": sinusoidal_positions, "integer": integer_positions, "normalised": normalised_positions}
)


def fixed_positions(kind: str, count: int, dim: int) -> Tensor | None:
    """The codes of that kind as they are added to tokens, (1, count, dim); None where kind is "none"."""
    return None if kind == "none" else FIXED_POSITIONS[kind](count, dim)[None]
