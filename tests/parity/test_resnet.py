"""Ours against torchvision and timm with the same weights, in evaluation and in training mode."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from regard.models import create_model


def shake(model: nn.Module) -> nn.Module:
    """Draws norms and running statistics anew, so that none hides behind its 0 or 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # pyright: ignore[reportArgumentType]
    return model


@torch.no_grad()
def assert_parity(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for training in (False, True):
        expected, logits = theirs.train(training)(x), ours.train(training)(x)
        assert expected.std() > 0.01
        assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    for key, tensor in theirs.state_dict().items():  # the running statistics that training moved
        torch.testing.assert_close(ours.state_dict()[key], tensor)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet18", 96), ("resnet50", 75)])
def test_logits_are_torchvisions(name: str, size: int) -> None:
    theirs = shake(torchvision.models.get_model(name, num_classes=11))
    assert_parity(create_model(name, 11, size), theirs, torch.randn(3, 3, size, size))


def test_logits_are_timms() -> None:
    timm = pytest.importorskip("timm")
    theirs = shake(timm.create_model("resnet50", num_classes=11))
    assert_parity(create_model("resnet50", 11, 64), theirs, torch.randn(3, 3, 64, 64))


def test_logits_with_the_small_stem_are_those_of_torchvision_with_that_stem() -> None:
    theirs = torchvision.models.resnet18(num_classes=11)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()  # type: ignore[assignment]
    assert_parity(create_model("resnet18", 11, 32), shake(theirs), torch.randn(3, 3, 32, 32))


@pytest.mark.long
@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_logits_of_the_deep_ones_are_torchvisions(name: str) -> None:
    theirs = shake(torchvision.models.get_model(name, num_classes=11))
    assert_parity(create_model(name, 11, 64), theirs, torch.randn(2, 3, 64, 64))
