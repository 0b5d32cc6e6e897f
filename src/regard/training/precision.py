"""float32 or bfloat16 for training, and how long a step takes: both measured once, on a copy, before step
0.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regard.data.loader import share
from regard.inference.memory import is_out_of_memory, release

Precision = Literal["fp32", "bf16"]

ROUNDS = 8
GAIN = 1.1  # a smaller gain is noise, and float32 is exact


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which forward pass and loss run."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def measure_steps(
    model: nn.Module,
    batches: Iterator[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    precisions: tuple[Precision, ...],
    accumulation: int = 1,
    seconds: float = 10.0,
    least: float = 0.0,
) -> dict[Precision, float]:
    """Median seconds of one training step in each precision, batches included; `model` is not changed.

    The precisions take turns, round by round, so that a busy machine slows both; the first round is not
    counted. Eight are, or as many as fit into `least` seconds, if those are more; after `seconds` no further
    one begins, but one is counted. A batch passes in `accumulation` parts, in more of them where memory does not
    suffice.
    """
    with torch.random.fork_rng(devices=[]):
        trial = copy.deepcopy(model).train()
        optimiser = torch.optim.SGD([p for p in trial.parameters() if p.requires_grad], lr=0.0)
        taken: dict[Precision, list[float]] = {precision: [] for precision in precisions}
        began = time.perf_counter()
        for count in itertools.count():
            for precision in precisions:
                start = time.perf_counter()
                accumulation = _measured_step(trial, next(batches), loss, optimiser, precision, accumulation)
                if count:
                    taken[precision].append(time.perf_counter() - start)
            spent = time.perf_counter() - began
            if count and (spent > seconds or (count >= ROUNDS and spent > least)):
                break
    return {precision: statistics.median(values) for precision, values in taken.items()}


def choose_precision(seconds: dict[Precision, float]) -> Precision:
    """bfloat16 where it is at least 1.1 times as fast."""
    return "bf16" if seconds["fp32"] > GAIN * seconds["bf16"] else "fp32"


def _measured_step(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    optimiser: torch.optim.Optimizer,
    precision: Precision,
    parts: int,
) -> int:
    """Take a step, in twice as many parts as long as memory does not suffice; returns their number."""
    while True:
        try:
            _step(model, [batch[share(len(batch), part, parts)] for part in range(parts)], loss, optimiser, precision)
            return parts
        except Exception as error:
            if not is_out_of_memory(error) or parts >= len(batch):
                raise
        optimiser.zero_grad(set_to_none=True)
        release()
        parts = min(2 * parts, len(batch))


def _step(
    model: nn.Module,
    batches: Sequence[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    optimiser: torch.optim.Optimizer,
    precision: Precision,
) -> None:
    device = next(model.parameters()).device
    for batch in batches:
        with autocast(precision, device):
            value = loss(model, batch)
        value.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
