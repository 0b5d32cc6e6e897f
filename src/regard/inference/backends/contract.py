"""What every backend offers, and the module that they all compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from regard.inference.pooling import head_input

if TYPE_CHECKING:
    from regard.inference.loaded import LoadedModel


class Backend(Protocol):
    """One model under one engine and precision.

    name: engine and precision, "torch bf16"; converted: what the file of a converted model is known by, ""
    where nothing was converted.
    """

    @property
    def name(self) -> str: ...

    @property
    def converted(self) -> str: ...

    def run(self, pixels: Tensor) -> np.ndarray:
        """(B, 3, S, S) uint8 -> float32 (B, K), or (B, K + D) where the features are asked for."""
        ...


class Answers(nn.Module):
    """Normalised images (B, 3, S, S) -> logits (B, K), and what the head read (B, D) behind them if asked for."""

    def __init__(self, loaded: LoadedModel, features: bool):
        super().__init__()
        self.model = loaded.model
        self.head = loaded.head if features else ""
        if features:
            head_input(loaded)  # refuses a model without a last Linear

    def forward(self, images: Tensor) -> Tensor:
        if not self.head:
            return self.model(images)
        read: list[Tensor] = []
        layer = self.model.get_submodule(self.head)
        handle = layer.register_forward_pre_hook(lambda module, args: read.append(args[0]))
        try:
            logits = self.model(images)
        finally:
            handle.remove()
        return torch.cat([logits, read[-1]], dim=1)
