"""Exponential moving average of a model's weights (Polyak and Juditsky 1992), as a second model to evaluate
and save.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """Holds `average`, a copy of a model that follows it: average <- d * average + (1 - d) * model.

    d rises as 1 - (1 + t)^(-2/3) up to `decay` (timm's ModelEmaV3), so that short runs forget their
    initialisation. Integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.average = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow `model` after optimiser step number `step` (counted from 1)."""
        decay = min(self.decay, 1 - (1 + step) ** (-2 / 3))
        averages, values = [], []
        for average, value in zip(_state(self.average), _state(model), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        get_ema_multi_avg_fn(decay)(averages, values, step)


def _state(model: nn.Module) -> list[torch.Tensor]:
    return [*(parameter.detach() for parameter in model.parameters()), *model.buffers()]
