"""What a model costs, counted and not measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of weights, trainable or not; buffers (running means) are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_gmacs(model: nn.Module, img_size: int) -> float:
    """Multiply-adds of one forward pass of one (3, img_size, img_size) image, divided by 1e9.

    Matrix products and convolutions, both products of attention included; norms, softmax and activations are
    not counted. The model runs once where it is; one on the meta device costs no time and no memory.
    """
    weight = next(model.parameters())
    image = torch.zeros(1, 3, img_size, img_size, device=weight.device, dtype=weight.dtype)
    # The counter knows the plain form of attention on every device, but not every fused kernel.
    with (
        _evaluating(model),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model(image)
    return counter.get_total_flops() / 2 / 1e9


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
