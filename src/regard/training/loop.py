"""The training loop, written once. It knows no task: batches, a loss, an optimiser and evaluators come as
arguments.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.training.ema import Ema
from regard.training.interrupts import Interrupts, Stopped
from regard.training.precision import autocast
from regard.training.schedule import warmup_cosine
from regard.training.state import Progress, States

Batch = TypeVar("Batch")
Evaluator = Callable[[nn.Module], Iterable[tuple[str, float]]]
Event = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Numbers of a run. A step is one update of the weights by `accumulation` batches."""

    steps: int
    images_per_step: int
    warmup: int = 0
    accumulation: int = 1
    clip_norm: float | None = None
    ema: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    evaluate_every: int = 0  # steps; 0: only at the end
    watch: str | None = None  # the evaluators' name that chooses the weights; None: the last weights are returned
    lower_is_better: bool = False
    patience: int | None = None
    save_every: float = 300.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """What `fit` ended with. The model itself is left with `weights` loaded."""

    weights: dict[str, Tensor]
    progress: Progress
    stopped_early: bool


def fit(
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    loss: Callable[[nn.Module, Batch], Tensor],
    optimiser: torch.optim.Optimizer,
    plan: Plan,
    evaluators: Sequence[Evaluator] = (),
    states: States | None = None,
    resume: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    on_row: Callable[[Event], None] = lambda row: None,
    on_resume: Callable[[int], None] = lambda step: None,
    name_batch: Callable[[Batch], str] = lambda batch: "(its images have no names)",
    interrupts: Interrupts | None = None,
) -> Outcome:
    """Train `model` in place for `plan.steps` steps, or until the watched metric stops rising.

    batches(n): iterator that begins with batch number n (endless); loss(model, batch): scalar; evaluators:
    each maps the model (its average where `plan.ema` is on) to (name, value) pairs. on_row receives each
    evaluation as a row {"step", "images", "loss", "lr", "seconds", names...}; on_resume the step up to which
    earlier rows count; on_event progress and warnings, as dictionaries. Groups of the optimiser may carry
    "base_lr".

    With `states` the full state is saved every `save_every` seconds, at signals and at the end, and `resume`
    continues from it with the same bits on the CPU. SIGTERM or SIGINT: the step is finished, the state saved,
    `Stopped` raised. Raises RegardError before a step whose loss or gradient is not finite; the weights are
    then those of the step before.
    """
    device = next(model.parameters()).device
    ema = Ema(model, plan.ema) if plan.ema else None
    progress, best = Progress(), None
    if states is not None and resume:
        progress, best, notes = states.restore(model, optimiser, ema)
        for note in notes:
            on_event({"event": "warning", "text": note})
        on_resume(progress.evaluated)
    trainable = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for group in optimiser.param_groups:
        group.setdefault("base_lr", group["lr"])
    evaluated_model = model if ema is None else ema.average
    stream: Iterator[Batch] | None = None
    began, first_step = time.perf_counter() - progress.seconds, progress.step
    train_seconds, saved, stopped_early = 0.0, time.perf_counter(), False

    def save() -> None:
        nonlocal saved
        if states is not None:
            progress.seconds = time.perf_counter() - began
            states.save(progress, model, optimiser, ema, best)
            saved = time.perf_counter()

    interrupts = interrupts or Interrupts()
    rng_devices = [device] if device.type == "cuda" else []
    with interrupts, interrupts.held(), torch.random.fork_rng(devices=rng_devices):
        try:
            while True:
                interrupts.check()
                done = progress.step >= plan.steps
                due = done or (plan.evaluate_every and progress.step and progress.step % plan.evaluate_every == 0)
                if due and progress.evaluated < progress.step:
                    row = _row(progress, plan, optimiser, time.perf_counter() - began)
                    # Evaluating changes nothing, so a signal may cut it short; the resumed run repeats it.
                    with interrupts.held(False):
                        row |= _evaluate(evaluated_model, evaluators, plan, device)
                    if _improved(progress, row, plan):
                        best = _copy(evaluated_model)
                    progress.evaluated, progress.loss_sum, progress.loss_count = progress.step, 0.0, 0
                    on_row(row)
                    on_event({"event": "evaluation", "steps": plan.steps, **row})
                stopped_early = plan.patience is not None and progress.stale >= plan.patience
                if done or stopped_early:
                    save()
                    break
                if time.perf_counter() - saved > plan.save_every:
                    save()

                started = time.perf_counter()
                if stream is None:
                    stream = batches(progress.step * plan.accumulation)
                model.train()
                factor = _rate(progress.step, plan)
                for group in optimiser.param_groups:
                    group["lr"] = group["base_lr"] * factor
                # Dropout and stochastic depth draw from (seed, step): there is no random state to save.
                torch.manual_seed(step_seed(plan.seed, progress.step))
                value, parts = 0.0, []
                for _ in range(plan.accumulation):
                    batch = next(stream)
                    parts.append(batch)
                    with autocast(plan.precision, device):
                        part = loss(model, batch) / plan.accumulation
                    part.backward()
                    value += part.item()
                norm = _gradient_norm(trainable, plan.clip_norm).item()
                if not (math.isfinite(value) and math.isfinite(norm)):
                    optimiser.zero_grad(set_to_none=True)
                    raise _not_finite(progress.step + 1, value, norm, ", ".join(map(name_batch, parts)))
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                progress.step += 1
                if ema is not None:
                    ema.update(model, progress.step)
                progress.loss_sum += value
                progress.loss_count += 1
                train_seconds += time.perf_counter() - started
                steps_here = progress.step - first_step
                on_event(
                    {
                        "event": "step",
                        "step": progress.step,
                        "steps": plan.steps,
                        "loss": value,
                        "images_per_second": steps_here * plan.images_per_step / train_seconds,
                        "seconds_left": (time.perf_counter() - began) / progress.step * (plan.steps - progress.step),
                    }
                )
        except Stopped:
            save()
            raise
    weights = best if best is not None else _copy(evaluated_model)
    model.load_state_dict(weights)
    model.eval()
    progress.seconds = time.perf_counter() - began
    return Outcome(weights, progress, stopped_early)


def _rate(step: int, plan: Plan) -> float:
    return warmup_cosine(step, plan.steps, plan.warmup)


def step_seed(seed: int, step: int) -> int:
    """32 bits (more than that torch's CPU generator ignores) that differ between steps and between seeds."""
    return zlib.crc32(f"{seed}/{step}".encode())


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _not_finite(step: int, loss: float, norm: float, names: str) -> RegardError:
    what = f"gradient's norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
    return RegardError(
        f"step {step}: the {what}, stopped before it reached the weights; lower --lr or look at this batch: {names}"
    )


def _gradient_norm(parameters: Sequence[Tensor], clip_norm: float | None) -> Tensor:
    """Norm of the whole gradient before clipping."""
    if clip_norm is not None:
        return nn.utils.clip_grad_norm_(parameters, clip_norm)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _evaluate(model: nn.Module, evaluators: Sequence[Evaluator], plan: Plan, device: torch.device) -> dict[str, float]:
    model.eval()
    with torch.no_grad(), autocast(plan.precision, device):
        return {name: value for evaluator in evaluators for name, value in evaluator(model)}


def _row(progress: Progress, plan: Plan, optimiser: torch.optim.Optimizer, seconds: float) -> Event:
    return {
        "step": progress.step,
        "images": progress.step * plan.images_per_step,
        "loss": progress.loss_sum / max(1, progress.loss_count),
        "lr": _rate(progress.step - 1, plan) * max(group["base_lr"] for group in optimiser.param_groups),
        "seconds": round(seconds, 3),
    }


def _improved(progress: Progress, row: Event, plan: Plan) -> bool:
    """Note whether this evaluation is the best so far; of equal ones the later counts, but only a rise resets
    patience.
    """
    if plan.watch is None:
        return False
    if plan.watch not in row:
        raise RegardError(f"watched metric {plan.watch!r}: no evaluator gives it; the rows hold {', '.join(row)}")
    value, best = row[plan.watch], progress.best_value
    sign = -1 if plan.lower_is_better else 1
    rose = best is None or sign * value > sign * best
    progress.stale = 0 if rose else progress.stale + 1
    if rose or value == best:
        progress.best_value, progress.best_step = value, progress.step
        return True
    return False
