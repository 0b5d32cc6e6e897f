"""The training loop, written once. It knows no task: batches, a loss, an optimiser and evaluators come as
arguments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.inference.memory import is_out_of_memory
from regard.training.ema import Ema
from regard.training.interrupts import Interrupts, Stopped
from regard.training.precision import autocast
from regard.training.processes import Team
from regard.training.schedule import Schedule, rate
from regard.training.state import Progress, States
from regard.training.step import Batch, Loss, Stepper, allocate, has_batch_norm

Evaluator = Callable[[nn.Module], Iterable[tuple[str, float]]]
Event = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Numbers of a run. A step is one update of the weights by one batch."""

    steps: int
    images_per_step: int  # of all processes together
    warmup: int = 0
    schedule: Schedule = "cosine"
    accumulation: int = 1  # parts in which a batch passes through the model, of all processes together
    clip_norm: float | None = None
    ema: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    evaluate_every: int = 0  # steps; 0: only at the end
    watch: str | None = None  # the evaluators' name that chooses the weights; None: the last weights are returned
    lower_is_better: bool = False
    patience: int | None = None
    save_every: float = 300.0  # seconds
    snapshots: int = 0  # moments at which `on_snapshot` is called, evenly spread, step 0 and the last among them

    @property
    def moments(self) -> frozenset[int]:
        """Steps after which a snapshot is taken."""
        return frozenset(round(n * self.steps / max(1, self.snapshots - 1)) for n in range(self.snapshots))


@dataclass(frozen=True)
class Outcome:
    """What `fit` ended with. The model itself is left with `weights` loaded."""

    weights: dict[str, Tensor]
    progress: Progress
    stopped_early: bool


def fit(
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    loss: Loss[Batch],
    optimiser: torch.optim.Optimizer,
    plan: Plan,
    evaluators: Sequence[Evaluator] = (),
    states: States | None = None,
    resume: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    on_row: Callable[[Event], None] = lambda row: None,
    on_resume: Callable[[int], None] = lambda step: None,
    on_snapshot: Callable[[int, nn.Module], None] = lambda step, model: None,
    name_batch: Callable[[Batch], str] = lambda batch: "(its images have no names)",
    keep_batch: Callable[[Batch], Path | None] = lambda batch: None,
    interrupts: Interrupts | None = None,
    team: Team | None = None,
) -> Outcome:
    """Train `model` in place for `plan.steps` steps, or until the watched metric stops rising.

    batches(n): iterator over this process's shares of the batches from number n on (endless); loss(model, batch):
    scalar, a mean over its images of what each has alone; evaluators: each maps the model (its average where
    `plan.ema` is on) to (name, value) pairs. on_row receives each evaluation as a row {"step", "images", "loss",
    "lr", "seconds", names...}; on_resume the step up to which earlier rows count; on_snapshot the step and the
    model that would be evaluated, again where a resumed run passes a moment once more; on_event progress and
    warnings, as dictionaries. Groups of the optimiser may carry "base_lr".

    With `states` the full state is saved every `save_every` seconds, at signals and at the end, and `resume`
    continues from it with the same bits on the CPU. SIGTERM or SIGINT: the step is finished, the state saved,
    `Stopped` raised. Out of memory: the step is done again in smaller parts. Raises RegardError before a step
    whose loss or gradient is not finite; the weights are then those of the step before.

    team: processes that train together; the first one alone evaluates, writes and is heard.
    """
    team, interrupts = team or Team(), interrupts or Interrupts()
    if not team.first:
        on_event = on_row = on_resume = on_snapshot = _nothing
    device = next(model.parameters()).device
    rng_devices = [device] if device.type == "cuda" else []
    with interrupts, interrupts.held(), torch.random.fork_rng(devices=rng_devices):
        team.copy_first(model)
        ema = Ema(model, plan.ema) if plan.ema else None
        progress, best = Progress(), None
        if states is not None and resume:
            with team.in_turn():  # the first removes leftovers
                progress, best, notes = states.restore(model, optimiser, ema)
            for note in notes:
                on_event({"event": "warning", "text": note})
            on_resume(progress.evaluated)
        _prepare(optimiser)
        parts = -(-max(plan.accumulation, progress.parts) // team.world)
        stepper = Stepper(
            model=model,
            loss=loss,
            optimiser=optimiser,
            seed=plan.seed,
            precision=plan.precision,
            clip_norm=plan.clip_norm,
            parts=min(parts, max(1, plan.images_per_step // team.world)),
            team=team,
            name_batch=name_batch,
            keep_batch=keep_batch,
            on_event=on_event,
        )
        if team.world > 1 and has_batch_norm(model):
            text = f"batch norm: each of the {team.world} processes uses the statistics of its own part of a batch"
            on_event({"event": "note", "text": text})
        evaluated_model = model if ema is None else ema.average
        stream: Iterator[Batch] | None = None
        began, first_step = time.perf_counter() - progress.seconds, progress.step
        train_seconds, saved, stopped_early = 0.0, time.perf_counter(), False

        def save() -> None:
            nonlocal saved
            if states is None:
                return
            progress.seconds = time.perf_counter() - began
            team.first_does(partial(states.save, progress, model, optimiser, ema, best))
            saved = time.perf_counter()

        def evaluate() -> Event:
            row = _row(progress, plan, optimiser, time.perf_counter() - began)
            # Evaluating changes nothing, so a signal may cut it short; the resumed run repeats it.
            with interrupts.held(False):
                return row | _evaluate(evaluated_model, evaluators, plan, device)

        try:
            while True:
                said = team.gather(interrupts.pending or 0, time.perf_counter() - saved > plan.save_every)
                if signum := int(max(pending for pending, _ in said)):
                    raise Stopped(signum)
                done = progress.step >= plan.steps
                due = done or (plan.evaluate_every and progress.step and progress.step % plan.evaluate_every == 0)
                if progress.step in plan.moments and progress.evaluated < progress.step:
                    on_snapshot(progress.step, evaluated_model)
                if due and progress.evaluated < progress.step:
                    row = team.first_does(evaluate)
                    if _improved(progress, row, plan):
                        best = _copy(evaluated_model)
                    progress.evaluated, progress.loss_sum, progress.loss_count = progress.step, 0.0, 0
                    on_row(row)
                    on_event({"event": "evaluation", "steps": plan.steps, **row})
                stopped_early = plan.patience is not None and progress.stale >= plan.patience
                if done or stopped_early:
                    save()
                    break
                if said[0][1]:
                    save()

                started = time.perf_counter()
                if stream is None:
                    stream = batches(progress.step)
                model.train()
                factor = rate(plan.schedule, progress.step, plan.steps, plan.warmup)
                for group in optimiser.param_groups:
                    group["lr"] = group["base_lr"] * factor
                value = stepper.take(progress.step, stream)
                progress.step += 1
                progress.parts = stepper.parts * team.world
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
                        "lr": factor * _highest_rate(optimiser),
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


def _nothing(*_: Any) -> None:
    """What the processes above the first say."""


def _prepare(optimiser: torch.optim.Optimizer) -> None:
    for group in optimiser.param_groups:
        group.setdefault("base_lr", group["lr"])
    try:
        allocate(optimiser)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RegardError(
            "out of memory for the optimiser's state, before the first image; use a smaller --model or --optimiser sgd"
        ) from None


def _highest_rate(optimiser: torch.optim.Optimizer) -> float:
    return max(group["base_lr"] for group in optimiser.param_groups)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _evaluate(model: nn.Module, evaluators: Sequence[Evaluator], plan: Plan, device: torch.device) -> dict[str, float]:
    model.eval()
    with torch.no_grad(), autocast(plan.precision, device):
        return {name: value for evaluator in evaluators for name, value in evaluator(model)}


def _row(progress: Progress, plan: Plan, optimiser: torch.optim.Optimizer, seconds: float) -> Event:
    return {
        "step": progress.step,
        "images": progress.step * plan.images_per_step,
        "loss": progress.loss_sum / max(1, progress.loss_count),
        "lr": rate(plan.schedule, progress.step - 1, plan.steps, plan.warmup) * _highest_rate(optimiser),
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
