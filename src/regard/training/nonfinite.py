"""Where a loss or a gradient stopped being finite: the layer, and the batch that is kept to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from regard.data.loader import Batch
from regard.errors import RegardError
from regard.runs.atomic import write_atomic


class NotFinite(RegardError):
    """A loss or a gradient is not finite: training at this rate, or on this batch, diverges.

    rank: of several processes the one that met it; all of them raise it.
    """

    def __init__(self, line: str, rank: int | None = None):
        super().__init__(line)
        self.rank = rank


def first_bad_layer(model: nn.Module, forward: Callable[[], object]) -> str:
    """The first module of `forward()`, a second pass, whose output is not finite, or where all outputs are, the
    parameter nearest to the loss whose gradient is not, in words; "" where all is finite.

    Looks only: parameters, gradients and buffers are not changed by it (those that `forward` changes are the caller's).
    """
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(_finite(tensor) for tensor in _tensors(output)):
                already = not all(_finite(tensor) for tensor in _tensors(inputs))
                found.append(f"{'already in the input' if already else 'first in the output'} of {name}")

        return hook

    handles = [module.register_forward_hook(look(name or "the model")) for name, module in model.named_modules()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    bad = [name for name, value in model.named_parameters() if value.grad is not None and not _finite(value.grad)]
    return f"first in the gradient of {bad[-1]}" if bad else ""


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _tensors(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))


def keep_batch(path: str | Path, batch: Batch, ids: Iterable[str]) -> Path:
    """Write a batch with the ids of its images (metadata "ids", a JSON list): images, targets and rows."""
    tensors = {"images": batch.images, "targets": batch.targets, "rows": torch.from_numpy(batch.rows)}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    write_atomic(path, save(tensors, {"ids": json.dumps(list(ids))}))
    return Path(path)
