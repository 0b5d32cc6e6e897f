"""What a comparison will cost, and its one precision: both measured on a few steps before anything long begins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from regard.comparison.classical import FEATURES, Reference
from regard.comparison.compare import Key, Task
from regard.comparison.plan import Plan
from regard.data.splits import take_fraction
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel
from regard.inference.precision import Precision, autocast
from regard.models import Heads, count_parameters
from regard.training.recipe import Recipe
from regard.training.trials import SHARE
from regard.weights.catalogue import find_checkpoint
from regard.weights.download import cached

STATE_COPIES = 8  # weights, best weights and the optimiser's one or two moments, in two generations; the model itself
BASE_MEMORY_MB = 1000  # Python, torch and decoded images waiting
ROUNDS = 3
GAIN = 1.1  # bfloat16 must be faster by this; less is noise, and float32 is exact


@dataclass(frozen=True)
class Speeds:
    """Seconds per image of each model and method in float32 and bfloat16, and each model's parameters."""

    seconds: Mapping[Key, Mapping[Precision, float]]
    parameters: Mapping[Key, int]

    @property
    def fastest(self) -> Precision:
        """The precision for all runs: bfloat16 where it is clearly faster in sum."""
        total = {name: sum(one[name] for one in self.seconds.values()) for name in ("fp32", "bf16")}
        return "bf16" if total["fp32"] > GAIN * total["bf16"] else "fp32"


@dataclass(frozen=True)
class Estimate:
    """What to expect: runs, minutes on this machine, memory and disk in MB, and files to download.

    The minutes include those of the reference without a network and of the learning-rate trials.
    """

    runs: int
    minutes: float
    reference_minutes: float
    trial_minutes: float
    memory_mb: float
    disk_mb: float
    downloads: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{in_minutes(self.reference_minutes)} for the reference without a network"]
        if self.trial_minutes:
            parts.append(f"{in_minutes(self.trial_minutes)} for learning-rate trials")
        return (
            f"{self.runs} runs, about {in_minutes(self.minutes)} (of them {', '.join(parts)}), "
            f"{self.memory_mb:,.0f} MB of memory, {self.disk_mb:,.0f} MB of disk; "
            f"downloads: {'; '.join(self.downloads) or 'none'}"
        )


def in_minutes(minutes: float) -> str:
    """`12 min`, or `under a minute`."""
    return f"{minutes:.0f} min" if minutes >= 1 else "under a minute"


def measure(chosen: Mapping[Key, Recipe], untrained: Mapping[str, LoadedModel]) -> Speeds:
    """Time a few steps of every model; untrained weights do, since speed does not depend on them."""
    seconds, parameters = {}, {}
    for (name, method), recipe in chosen.items():
        module, size = untrained[name].model, untrained[name].preprocess.size
        precisions: tuple[Precision, ...] = ("fp32",) if recipe.precision == "fp32" else ("fp32", "bf16")
        taken = seconds_per_image(module, size, recipe.micro_batch, method != "head", precisions)
        seconds[name, method] = {"bf16": float("inf"), **taken}
        parameters[name, method] = count_parameters(module)
    return Speeds(seconds, parameters)


def estimate(plan: Plan, task: Task, chosen: Mapping[Key, Recipe], speeds: Speeds) -> Estimate:
    """Add up the plan at the measured speed. Decoding for the models is not in it: it overlaps with the steps."""
    split = task.split(0, 0 if plan.folds else None)
    repeats = plan.seeds * max(1, plan.folds)
    train = {
        fraction: len(take_fraction(task.images, split.train, fraction, 0)) for fraction in sorted(set(plan.fractions))
    }
    seconds = trials = memory = disk = 0.0
    for key, recipe in chosen.items():
        per_image = speeds.seconds[key]["bf16" if recipe.precision == "bf16" else "fp32"]
        parameters = speeds.parameters[key]
        memory = max(memory, BASE_MEMORY_MB + 16e-6 * parameters)
        disk += 4e-6 * parameters * repeats * len(train) * (1 if key[1] == "head" else STATE_COPIES)
        if recipe.solved:
            seconds += per_image * recipe.views * len(task.images)  # features are computed once for all runs
            continue
        evaluating = 0.4 * per_image * recipe.evaluations * len(split.val)
        for fraction, rows in train.items():
            drawn = recipe.images_seen or (recipe.epochs or 0) * rows
            once = 60 * recipe.minutes if recipe.minutes else per_image * drawn + evaluating
            seconds += repeats * once
            if fraction == max(train):
                trials += plan.trials * SHARE * once
    reference = Reference(task.images).seconds(repeats * list(train.values()))
    return Estimate(
        runs=len(plan.conditions()),
        minutes=(seconds + trials + reference) / 60,
        reference_minutes=reference / 60,
        trial_minutes=trials / 60,
        memory_mb=memory + 4e-6 * FEATURES * len(task.images),
        disk_mb=disk,
        downloads=downloads(chosen),
    )


def downloads(chosen: Iterable[Key]) -> tuple[str, ...]:
    """Files that models and methods would fetch, with size and licence."""
    found = []
    for name, method in chosen:
        if method == "scratch":
            continue
        try:
            checkpoint = find_checkpoint(name)
        except RegardError:
            continue  # a run folder or another library's model: nothing of the catalogue
        if not cached(checkpoint):
            found.append(f"{checkpoint.tag} ({checkpoint.size_mb:,.0f} MB, {checkpoint.licence})")
    return tuple(dict.fromkeys(found))


def seconds_per_image(
    module: nn.Module, size: int, batch: int, train: bool, precisions: tuple[Precision, ...]
) -> dict[Precision, float]:
    """Median over interleaved rounds of one step (forward, and backward where it trains), per image."""
    device = next(module.parameters()).device
    images = torch.rand(min(batch, 32), 3, size, size, device=device)
    targets = torch.zeros(len(images), dtype=torch.long, device=device)
    module.train(train)
    taken: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    for _ in range(ROUNDS + 1):
        for precision in precisions:
            start = time.perf_counter()
            with torch.set_grad_enabled(train), autocast(precision, device):
                answers = module(images)
                loss = F.cross_entropy(answers.logits if isinstance(answers, Heads) else answers, targets)
            if train:
                loss.backward()
            taken[precision].append(time.perf_counter() - start)
    module.zero_grad(set_to_none=True)
    return {precision: sorted(rounds[1:])[ROUNDS // 2] / len(images) for precision, rounds in taken.items()}
