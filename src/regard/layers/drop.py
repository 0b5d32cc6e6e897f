"""Stochastic depth ("Deep Networks with Stochastic Depth", Huang et al. 2016, arXiv 1603.09382)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates of `depth` blocks, rising linearly from 0 in the first to `last` in the last (section 4, "p_L")."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]


class DropPath(nn.Module):
    """In training, each sample loses its residual branch with probability `rate` in [0, 1).

    What is kept is divided by 1 - rate, so that the expectation stays.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:  # (B, ...)
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = torch.empty(len(x), *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * mask / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"
