"""How ours is compared with a published implementation of the same weights, in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST = 1e-5  # of max |difference| / max |reference|


def shake(model: nn.Module) -> nn.Module:
    """Draws every parameter anew, so that none hides behind its 0 or 1."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean=centre, std=0.15)
    return model


def assert_parity(ours: Tensor, reference: Tensor) -> None:
    assert reference.std() > 0.01
    assert (ours - reference).abs().max() <= LARGEST * reference.abs().max()


def assert_equal_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    """Of every parameter; a sum over a batch and tokens rounds ten times worse than an answer."""
    for key, parameter in theirs.named_parameters():
        gradient, expected = ours.get_parameter(key).grad, parameter.grad
        assert gradient is not None and expected is not None, key
        assert expected.any(), key
        assert (gradient - expected).abs().max() <= 10 * LARGEST * expected.abs().max(), key
