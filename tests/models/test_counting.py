from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.models import count_gmacs, count_parameters, create_model


def test_counts_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 64, 5))
    assert count_parameters(model) == 3 * 4 * 9 + 4 + 8 + 4 * 64 * 5 + 5
    assert count_gmacs(model, 8) * 1e9 == pytest.approx(64 * 4 * 3 * 9 + 4 * 64 * 5)


def test_b16_is_exact() -> None:
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224")
    assert round(count_gmacs(model, 224) * 1e9) == 17_563_828_224


def test_meta_and_real_agree_and_the_model_is_left_as_it_was() -> None:
    model = create_model("resnet20_32", num_classes=10)
    model.get_submodule("layer1").eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    real = count_gmacs(model, 32)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert real == count_gmacs(model.to("meta"), 32) == pytest.approx(0.0406, abs=1e-4)


def test_real_attention_is_counted_as_on_meta() -> None:
    model = create_model("vit_nano_patch4_32", num_classes=10)
    tokens, dim = 65, 96
    by_hand = 4 * (12 * tokens * dim**2 + 2 * tokens**2 * dim) + 64 * 48 * dim + dim * 10
    assert round(count_gmacs(model, 32) * 1e9) == by_hand
