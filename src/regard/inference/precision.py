"""float32 or bfloat16: chosen by a short measurement on the machine at hand, never by a table."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from regard.errors import RegardError

Precision = Literal["fp32", "bf16"]
Wanted = Literal["auto", "fp32", "bf16"]

GAIN = 1.1  # a smaller gain is noise (single timings are off by 10-20 %): float32 is kept
WORTH_MEASURING = 100  # passes of one image; below, the measurement costs more than it can save
SHARE = 100  # the measurement runs about 6 / SHARE of the work it is made for


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass: plain float32, or matrix products and convolutions in bfloat16."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def choose_precision(model: nn.Module, size: int, work: int, wanted: Wanted = "auto") -> Precision:
    """The precision for about `work` forward passes of one image (3, size, size).

    "auto" times both on random images, interleaved, and takes bfloat16 where it is at least 1.1 times as
    fast; the time goes with the work. A named precision is returned as it is (`deterministic` asks for
    "fp32").
    """
    if wanted not in ("auto", "fp32", "bf16"):
        raise RegardError(f"precision={wanted!r}: expected auto, fp32 or bf16")
    if wanted != "auto":
        return wanted
    if work < WORTH_MEASURING:
        return "fp32"
    images = torch.rand(min(max(work // SHARE, 2), 8), 3, size, size, device=device_of(model))
    seconds: dict[Precision, float] = {"fp32": float("inf"), "bf16": float("inf")}
    for example in (images[:1], images, images):  # the first round pays for set-up and is overwritten
        for precision in seconds:
            taken = _seconds(model, example, precision)
            if example is images:
                seconds[precision] = min(seconds[precision], taken)
    return "bf16" if seconds["fp32"] > GAIN * seconds["bf16"] else "fp32"


@torch.inference_mode()
def _seconds(model: nn.Module, images: Tensor, precision: Precision) -> float:
    was_training = model.training
    model.eval()
    try:
        wait(images.device)
        start = time.perf_counter()
        with autocast(precision, images.device):
            model(images)
        wait(images.device)
        return time.perf_counter() - start
    finally:
        model.train(was_training)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
