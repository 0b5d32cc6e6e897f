"""Histograms of oriented gradients (Dalal and Triggs 2005) as the frozen body of a model: no network, nothing learnt.

The best descriptor of their section 6: gradients by [-1, 0, 1] without smoothing, of the colour channel where they are
largest; nine unsigned orientations over cells of 8 x 8 pixels; blocks of 2 x 2 cells one cell apart, normalised by
"L2-Hys" (length 1, clipped at 0.2, length 1 again). Deviations: a pixel votes for the two nearest orientations but for
its own cell only, and there is no Gaussian weight inside a block.

It is not in the registry: there is nothing to train below its head and no published weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import RegardError
from regard.models.registry import Features

CELL, BINS, CLIP = 8, 9, 0.2


class Hog(nn.Module):
    """(B, 3, S, S) -> (B, K) by one linear layer on the histograms; S a multiple of 8, 16 at least."""

    HEAD = "head"

    def __init__(self, num_classes: int, img_size: int = 64) -> None:
        super().__init__()
        if img_size % CELL or img_size < 2 * CELL:
            raise RegardError(f"img_size={img_size}: HOG needs a multiple of {CELL}, {2 * CELL} at least")
        blocks = img_size // CELL - 1  # per side
        self.head = nn.Linear(blocks * blocks * 4 * BINS, num_classes)

    def features(self, images: Tensor) -> Features:
        cells = F.avg_pool2d(votes(images), CELL)  # (B, 9, h, w)
        grid = (cells.shape[2] - 1, cells.shape[3] - 1)
        blocks = F.unfold(cells, kernel_size=2).transpose(1, 2)  # (B, blocks, 36)
        blocks = F.normalize(F.normalize(blocks, dim=2, eps=1e-3).clamp(max=CLIP), dim=2, eps=1e-3)
        return Features(blocks, grid, 0, None, blocks.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).pooled)  # (B, K)


def votes(images: Tensor) -> Tensor:
    """(B, 9, H, W): each pixel's gradient, shared between the two orientations that are nearest to its own."""
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]  # (B, 3, H, W)
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    size = across.square() + down.square()
    strongest = size.argmax(dim=1, keepdim=True)  # (B, 1, H, W) channel
    size, across, down = (value.gather(1, strongest) for value in (size, across, down))
    place = torch.atan2(down, across).remainder(math.pi) * (BINS / math.pi) - 0.5  # -0.5 to 8.5
    centres = torch.arange(BINS, device=images.device).view(1, BINS, 1, 1)
    apart = (place - centres + BINS / 2).remainder(BINS) - BINS / 2  # on the circle of orientations
    return (1 - apart.abs()).clamp(min=0) * size.sqrt()
