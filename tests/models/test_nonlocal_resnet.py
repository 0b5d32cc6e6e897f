from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from regard.models import count_parameters, create_model
from regard.models.nonlocal_resnet import NonLocal
from regard.models.resnet import ResNet
from regard.taps import record

RESNET50 = 25_557_032


def block_count(channels: int) -> int:
    """2 C^2 + 2.5 C of the convolutions, 2 C of the norm."""
    return 2 * channels**2 + 5 * channels // 2 + 2 * channels


def test_counts_are_those_of_the_blocks() -> None:
    assert block_count(1024) == 2_099_712 + 2_048 and block_count(512) == 525_568 + 1_024
    assert count_parameters(NonLocal(64)) == block_count(64)
    with torch.device("meta"):
        one, five = create_model("resnet50_nl1"), create_model("resnet50_nl5")
    assert count_parameters(one) == RESNET50 + block_count(1024)
    assert count_parameters(five) == RESNET50 + 3 * block_count(1024) + 2 * block_count(512)


def test_blocks_stand_where_the_paper_puts_them() -> None:
    with torch.device("meta"):
        one, five = create_model("resnet50_nl1"), create_model("resnet50_nl5")
    assert isinstance(one, ResNet)
    assert [name for name, _ in one.get_submodule("nonlocals").named_children()] == ["layer3_4"]
    assert one.stages[2:] == [*(f"layer3.{i}" for i in range(5)), "nonlocals.layer3_4", "layer3.5", "layer4"]
    assert [name for name, _ in five.get_submodule("nonlocals").named_children()] == [
        "layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5"
    ]  # fmt: skip


@torch.no_grad()
def test_the_block_is_the_formula() -> None:
    torch.manual_seed(0)
    block, x = NonLocal(6).double().eval(), torch.randn(2, 6, 3, 4, dtype=torch.float64)
    nn.init.normal_(block.bn.weight)
    nn.init.normal_(block.bn.bias)
    theta, phi, g = (layer(x).flatten(2) for layer in (block.theta, block.phi, block.g))  # (2, 3, 12)
    y = torch.zeros_like(theta)
    for b in range(2):
        for i in range(12):
            weights = [math.exp(float(theta[b, :, i] @ phi[b, :, j]) / math.sqrt(3)) for j in range(12)]
            y[b, :, i] = sum(w * g[b, :, j] for j, w in enumerate(weights)) / sum(weights)
    expected = x + block.bn(block.out(y.unflatten(2, (3, 4))))
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    with record(block, "pattern") as seen:
        torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert seen["pattern"].shape == (2, 1, 12, 12)


@torch.no_grad()
def test_a_fresh_block_hands_on_what_it_gets() -> None:
    ours, plain = create_model("resnet20_nl_32", 5).eval(), create_model("resnet20_32", 5).eval()
    missing, unexpected = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing and all(name.startswith("nonlocals.layer2_1.") for name in missing)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(x), plain(x))


@pytest.mark.long
@torch.no_grad()
def test_five_fresh_blocks_leave_a_resnet_50_as_it_was() -> None:
    ours, plain = create_model("resnet50_nl5", 5).eval(), create_model("resnet50", 5).eval()
    ours.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 3, 96, 96)
    assert torch.equal(ours(x), plain(x))
