"""Entropy of attention: loops in float64, its least and its most."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.analysis.attention_entropy import attention_entropy
from regard.errors import RegardError
from regard.models import create_model
from regard.models.attending import EMPTY, attention_layers
from regard.models.deit import DistilledDeiT
from regard.models.swin import Swin
from regard.models.vit import ViT
from regard.taps import edit, record


def drawn(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def seen_patterns(model: nn.Module, images: Tensor) -> list[Tensor]:
    names = [f"{layer.name}.pattern" for layer in attention_layers(model)]
    with record(model, *names) as seen, torch.no_grad():
        model(images)
    return [seen[name].double() for name in names]


def bits(row: list[float]) -> float:
    return -sum(p / sum(row) * math.log2(p / sum(row)) for p in row if p)


def test_equals_a_loop() -> None:
    torch.manual_seed(1)
    model = drawn(DistilledDeiT(16, 4, 12, 2, 3, num_classes=3))
    images = torch.randn(3, 3, 16, 16)
    found = attention_entropy(model, images.split(2))
    for heads, pattern in zip(found.bits, seen_patterns(model, images), strict=True):
        wanted = [np.mean([bits(row) for rows in pattern[:, h].tolist() for row in rows]) for h in range(3)]
        np.testing.assert_allclose(heads, wanted, rtol=1e-5)
    assert found.uniform == pytest.approx([math.log2(18)] * 2)
    assert found.images == 3


def test_windows_with_filling_equal_a_loop() -> None:
    torch.manual_seed(1)
    model = drawn(Swin(28, 2, 4, 12, (2, 2), (2, 3), num_classes=3))
    images = torch.randn(1, 3, 28, 28)
    found = attention_entropy(model, [images])
    layers = attention_layers(model)
    for layer, heads, pattern in zip(layers, found.bits, seen_patterns(model, images), strict=True):
        assert layer.windows is not None
        for h in range(layer.num_heads):
            rows = [
                bits([pattern[w, h, i, j].item() for j, to in enumerate(window) if to != EMPTY])
                for w, window in enumerate(layer.windows.tolist())
                for i, token in enumerate(window)
                if token != EMPTY
            ]
            assert heads[h] == pytest.approx(np.mean(rows), rel=1e-5)
    assert max(found.uniform) <= 4, "a window of 16 tokens holds 4 bits"


def test_least_and_most() -> None:
    model, images = ViT(16, 4, 12, 2, 3, num_classes=3).eval(), torch.randn(1, 3, 16, 16)
    for name, parameter in model.named_parameters():
        if ".qkv." in name:
            nn.init.zeros_(parameter)
    alike = attention_entropy(model, [images])
    np.testing.assert_allclose(alike.bits, math.log2(17), rtol=1e-6)
    one = torch.eye(17).expand(1, 3, 17, 17).clone()
    with edit(model, {"blocks.*.attn.pattern": lambda pattern: one.clone()}):
        assert np.abs(attention_entropy(model, [images]).bits).max() == 0


def test_refuses_by_name() -> None:
    with pytest.raises(RegardError, match="attention_entropy: ResNet has no attention"):
        attention_entropy(create_model("resnet20_32", 3), [torch.randn(1, 3, 32, 32)])
