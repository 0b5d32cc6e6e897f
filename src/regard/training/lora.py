"""LoRA: "Low-Rank Adaptation of Large Language Models" (Hu et al. 2021, arXiv 2106.09685), section 4.1.

A frozen weight W (out, in) gets a trained product: h = W x + B A x, with A (r, in) drawn and B (out, r) zero, so that
training starts from the model as it is. Adapted are `attn.qkv` and `attn.proj` of every block.

Deviations: the factor alpha / r is 1 (alpha = r, the paper's first setting), so the learning rate alone sets the pace;
q, k and v are one matrix in these models and share one A; proj is adapted too (the paper leaves it at q and v).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.inference.precision import device_of

ADAPTED = re.compile(r"(?:^|\.)attn\.(?:qkv|proj)$")


class LowRank(nn.Module):
    """A frozen Linear (out, in) and its trained product of rank r: x (..., in) -> (..., out)."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        place = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.linear = linear.requires_grad_(False)
        self.down = nn.Linear(linear.in_features, rank, bias=False, **place)
        self.up = nn.Linear(rank, linear.out_features, bias=False, **place)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.up(self.down(x))

    def merged(self) -> nn.Linear:
        """The Linear with the product added to its weight; it is changed in place."""
        with torch.no_grad():
            product = self.up.weight.double() @ self.down.weight.double()
            self.linear.weight.copy_((self.linear.weight.double() + product).to(self.linear.weight.dtype))
        return self.linear


def adapt(model: nn.Module, rank: int, size: int, name: str) -> None:
    """Freeze `model` and put an adapter on each attention's qkv and proj, drawn from torch's random numbers.

    size: pixels per side of an image that the model takes; name: for messages. Raises RegardError where there is no
    such layer, where the rank is too large for it, and where the model does not call it as a layer.
    """
    model.requires_grad_(False)
    found = {
        path: module for path, module in model.named_modules() if ADAPTED.search(path) and isinstance(module, nn.Linear)
    }
    if not found:
        raise RegardError(
            f"{name}: has no attention (attn.qkv, attn.proj) that --method lora could adapt; use --method finetune"
        )
    for path, linear in found.items():
        if rank > min(linear.in_features, linear.out_features):
            raise RegardError(f"--lora-rank {rank}: {path} is {linear.out_features}x{linear.in_features}; use less")
        model.set_submodule(path, LowRank(linear, rank))
    _check_called(model, size, name)


def _check_called(model: nn.Module, size: int, name: str) -> None:
    called: set[nn.Module] = set()
    adapters = [module for module in model.modules() if isinstance(module, LowRank)]
    handles = [module.register_forward_hook(lambda module, args, output: called.add(module)) for module in adapters]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size, device=device_of(model)))
    except AttributeError:
        called.clear()  # reads the weight of the layer instead of calling it
    finally:
        for handle in handles:
            handle.remove()
    if len(called) < len(adapters):
        raise RegardError(f"{name}: computes its attention past qkv or proj; use --method finetune")


def merge(model: nn.Module) -> None:
    """Put every adapter's product into its layer: the same answers, and the names of the model as it came."""
    for path, module in list(model.named_modules()):
        if isinstance(module, LowRank):
            model.set_submodule(path, module.merged())
