"""Tiny states in every dialect and format, shared by the tests of this room."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Eight tensors under a ViT's names, 6 kB in all."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, 8),
        "pos_embed": (1, 17, 8),
        "patch_embed.proj.weight": (8, 3, 4, 4),
        "patch_embed.proj.bias": (8,),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "head.weight": (5, 8),
        "head.bias": (5,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
