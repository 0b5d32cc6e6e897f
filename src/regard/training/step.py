"""One step of training: a whole batch, in as many parts as memory asks for, by all processes together."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regard.data.loader import share
from regard.errors import RegardError
from regard.inference.memory import is_out_of_memory, release, too_large
from regard.training.nonfinite import NotFinite, first_bad_layer
from regard.training.precision import Precision, autocast
from regard.training.processes import Team


class Cuttable(Protocol):
    """A batch: its length is the number of images, and an array of places cuts out a part."""

    def __len__(self) -> int: ...
    def __getitem__(self, places: Any, /) -> Self: ...


Batch = TypeVar("Batch", bound=Cuttable)
Loss = Callable[[nn.Module, Batch], Tensor]


class State(IntEnum):
    """How a process's part of a step went; the worst of all counts."""

    DONE = 0
    OUT_OF_MEMORY = 1
    NOT_FINITE = 2
    FAILED = 3


@dataclass
class Stepper(Generic[Batch]):
    """Takes the steps of a training.

    loss: a mean over images of something that each image has alone, so that parts add up to the whole. parts: in which
    this process's share of a batch passes through the model; doubled, for good, when memory runs out, and the step is
    done again: its result is the same but for rounding and for what depends on a part (batch norm's statistics,
    dropout's masks). name_batch, keep_batch: names of a batch's images; writes it down and says where.
    """

    model: nn.Module
    loss: Loss[Batch]
    optimiser: torch.optim.Optimizer
    seed: int
    precision: Precision
    clip_norm: float | None
    parts: int
    team: Team
    name_batch: Callable[[Batch], str]
    keep_batch: Callable[[Batch], Path | None]
    on_event: Callable[[dict[str, Any]], None]

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.trained = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def take(self, step: int, stream: Iterator[Batch]) -> float:
        """Update the weights by the next batch as step number `step` (from 0); the loss, a mean over all processes.

        Where it raises, weights, optimiser and buffers are those of the step before. RegardError for a loss or
        gradient that is not finite, and for an image that does not fit into memory alone; what reading or `loss`
        raises is passed on, in the other processes as PeerFailed.
        """
        batch: Batch | None = None
        while True:
            buffers = [buffer.clone() for buffer in self.model.buffers()]
            failure: Exception | None = None
            state, value = State.FAILED, 0.0
            try:
                if batch is None:
                    batch = next(stream)
                value = self._backward(step, batch)
                state = State.DONE if self._is_finite(value) else State.NOT_FINITE
            except Exception as error:
                if batch is not None and is_out_of_memory(error):
                    state = State.OUT_OF_MEMORY
                    failure = MemoryError(*str(error).splitlines()[:1])  # the error's frames hold the activations
                elif is_out_of_memory(error):
                    failure = RegardError(f"step {step + 1}: out of memory while reading; use a smaller --batch-size")
                else:
                    failure = error
            said = self.team.gather(state, value)
            states, loss = [int(state) for state, _ in said], sum(part for _, part in said)
            worst, rank = max(states), states.index(max(states))
            if worst == State.DONE:
                assert batch is not None
                try:
                    if self._update(step, batch, loss):
                        return loss
                except BaseException:
                    self._roll_back(buffers)
                    raise
                worst, failure = State.OUT_OF_MEMORY, MemoryError("in the optimiser")
            elif worst == State.NOT_FINITE:
                assert batch is not None
                failure = self._not_finite(rank, step, batch, loss)
            self._roll_back(buffers)
            if worst == State.OUT_OF_MEMORY:
                assert batch is not None
                self._halve(step, len(batch), failure, rank)
                continue
            if failure is None or (worst == State.FAILED and state != State.FAILED):
                self.team.leave(rank)
            raise failure

    def _backward(self, step: int, batch: Batch) -> float:
        """Add this process's share of the gradient, and return its share of the loss."""
        total, own = 0.0, share(len(batch) * self.team.world, self.team.rank, self.team.world)
        for places in self._cut(batch):
            part = batch if len(places) == len(batch) else batch[places]
            value = self._forward(step, int(own[places[0]]), part) * (len(places) / len(own) / self.team.world)
            value.backward()
            total += value.item()
        return total

    def _cut(self, batch: Batch) -> list[np.ndarray]:
        return [share(len(batch), part, self.parts) for part in range(self.parts)]

    def _forward(self, step: int, first: int, part: Batch) -> Tensor:
        # Dropout and stochastic depth draw from (seed, step, place in the batch): there is no random state to save.
        torch.manual_seed(step_seed(self.seed, step, first))
        with autocast(self.precision, self.device):
            return self.loss(self.model, part)

    def _is_finite(self, value: float) -> bool:
        """Alone, the gradient is looked at once, when it is clipped."""
        if self.team.world == 1 or not math.isfinite(value):
            return math.isfinite(value)
        return math.isfinite(_norm(self.trained).item())

    def _update(self, step: int, batch: Batch, value: float) -> bool:
        """Apply the gradient; False, and nothing is changed, where memory runs out before it is applied."""
        self.team.add([parameter.grad for parameter in self.trained if parameter.grad is not None])
        witnesses = self._witnesses()
        before = [tensor.clone() for tensor in witnesses]
        try:
            norm = _norm(self.trained)
            if not math.isfinite(norm.item()):
                raise self._not_finite(0, step, batch, value, norm.item())
            if self.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(self.trained, self.clip_norm, norm)
            self.optimiser.step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            changed = not all(torch.equal(*pair) for pair in zip(witnesses, before, strict=True))
            if changed or self.team.world > 1:  # the others have done this step
                raise RegardError(f"step {step + 1}: out of memory in the optimiser; use --resume") from None
            return False
        self.optimiser.zero_grad(set_to_none=True)
        return True

    def _witnesses(self) -> list[Tensor]:
        """The smallest parameter of each group, which is updated with its group, and what the optimiser keeps of it."""
        found: list[Tensor] = []
        for group in self.optimiser.param_groups:
            smallest = min(group["params"], key=Tensor.numel)
            kept = self.optimiser.state[smallest].values()
            found += [smallest.detach(), *(value for value in kept if isinstance(value, Tensor))]
        return found

    def _roll_back(self, buffers: Sequence[Tensor]) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def _halve(self, step: int, images: int, failure: Exception | None, rank: int) -> None:
        release()
        if self.parts >= images:
            if failure is None:
                self.team.leave(rank)
            raise RegardError(f"step {step + 1}: {too_large(failure)}")
        self.parts = min(2 * self.parts, images)
        normed = " but for batch norm, which sees fewer images at a time"
        self.on_event(
            {
                "event": "warning",
                "text": f"step {step + 1}: out of memory; the {images} images of a step pass through the model in "
                f"{self.parts} parts from here on, with the same result{normed if has_batch_norm(self.model) else ''}",
            }
        )

    def _not_finite(self, rank: int, step: int, batch: Batch, loss: float, norm: float = math.nan) -> NotFinite:
        """The error that says what, where and in which images of process `rank`; needs the gradients as they are."""
        line = self._look(step, batch, loss, norm) if rank == self.team.rank else ""
        return NotFinite(self.team.say(rank, line), rank if self.team.world > 1 else None)

    def _look(self, step: int, batch: Batch, loss: float, norm: float) -> str:
        what = f"gradient's norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
        own = share(len(batch) * self.team.world, self.team.rank, self.team.world)
        layer = ""
        for places in self._cut(batch):
            forward = partial(self._forward, step, int(own[places[0]]), batch[places])
            layer = layer or first_bad_layer(self.model, forward)
        kept = self.keep_batch(batch)
        words = [f"step {step + 1}: the {what}", layer, "stopped before it reached the weights; lower --lr or look at"]
        where = f"this batch ({kept})" if kept else "this batch"
        return f"{', '.join(filter(None, words))} {where}: {self.name_batch(batch)}"


def step_seed(seed: int, step: int, first: int = 0) -> int:
    """32 bits (more than that torch's CPU generator ignores) that differ between steps and between seeds.

    first: place in the batch of the first image that the seed is for.
    """
    return zlib.crc32(f"{seed}/{step}/{first}".encode() if first else f"{seed}/{step}".encode())


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a layer looks at several images at once."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def allocate(optimiser: torch.optim.Optimizer) -> None:
    """Give a new optimiser its moments, all zero, as its first step would do group by group between updates.

    A step with gradients and rates of zero changes no weight; what it counts is set back.
    """
    if optimiser.state:
        return
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    rates = [group["lr"] for group in optimiser.param_groups]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
    for values in optimiser.state.values():
        for value in values.values():
            if isinstance(value, Tensor):
                value.zero_()


def _norm(parameters: Sequence[Tensor]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
