"""Every run of a plan, the verdict stated in advance, and the record that a report is made of.

Protocol: the test images are the same for every run; a seed redraws initialisation, order, augmentation, the train and
validation cut and the training subset; fractions are nested conditions, never pooled; every run sees equally many
images; the winner is chosen on validation, and only its pairs are tested, corrected by Holm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from regard.comparison.plan import Condition, Method, Plan
from regard.data.sources import ImageSet
from regard.data.splits import Split, take_fraction
from regard.errors import RegardError
from regard.evaluation.statistics import holm, verdict
from regard.inference.loaded import LoadedModel
from regard.results import RunResult, Verdict
from regard.runs.run import Run
from regard.training.recipe import Recipe, recipe_for
from regard.training.run import train_run

OnEvent = Callable[[dict[str, Any]], None]
Key = tuple[str, Method]  # model and method


@dataclass(frozen=True)
class Task:
    """What all runs of a comparison share: the images, how a seed splits them, and where models come from."""

    images: ImageSet
    split: Callable[[int], Split]  # seed -> split; its test rows are the same for every seed
    load: Callable[[str, Method], LoadedModel]  # (model, method) -> a model to train


def recipes(plan: Plan, train: int, untrained: Mapping[str, LoadedModel]) -> dict[Key, Recipe]:
    """The recipe of each model and method: its family's, with the one budget that all share.

    train: training images at the full fraction; untrained: one of each model, for its family and image size. The
    budget is `--images-seen` or `--minutes`; without either it is the longest that a family's own recipe asks for at
    the full fraction. Batch size is the smallest that a family asks for, so that steps are equal too.
    """
    found = {}
    for method in plan.methods:
        for model in plan.models:
            loaded = untrained[model]
            found[model, method] = recipe_for(
                loaded.spec,
                method,
                train,
                loaded.preprocess.size,
                plan.images_seen,
                plan.overrides.get("head", "linear"),
            )
    batch = min(recipe.batch_size for recipe in found.values())
    budget: dict[str, Any] = {"minutes": plan.minutes}
    if plan.minutes is None:
        budget = {"images_seen": plan.images_seen or _longest(found.values(), train)}
    shared = {"batch_size": batch, "deterministic": plan.deterministic, **budget, **plan.overrides}
    return {
        key: recipe.with_overrides({**shared, "lr": recipe.lr * _lr_scale(recipe, shared["batch_size"])})
        for key, recipe in found.items()
    }


def shared_precision(chosen: Mapping[Key, Recipe], precision: str) -> dict[Key, Recipe]:
    """The recipes with one precision for all: a choice made by measuring is made once and equal for all models."""
    return {key: recipe.with_overrides({"precision": precision}) for key, recipe in chosen.items()}


def _longest(found: Any, train: int) -> int:
    return max(round((recipe.epochs or 1) * train) for recipe in found)


def _lr_scale(recipe: Recipe, batch: int) -> float:
    """SGD's rate follows the batch linearly, AdamW's by the square root."""
    ratio = batch / recipe.batch_size
    return ratio if recipe.optimiser == "sgd" else ratio**0.5


def run_all(plan: Plan, task: Task, folder: Path, chosen: Mapping[Key, Recipe], on_event: OnEvent) -> list[RunResult]:
    """Train what is missing and read every result, in the plan's order."""
    conditions = plan.conditions()
    results = []
    for number, condition in enumerate(conditions, 1):
        place = folder / "runs" / condition.folder
        begun = place.exists()
        run = Run.resume(place) if begun else Run.create(place)
        if not run.finished:
            on_event(
                {
                    "event": "note",
                    "text": f"run {number} of {len(conditions)}: {condition.candidate}, seed {condition.seed}, "
                    f"{100 * condition.fraction:g}% of the training images",
                }
            )
            _train(run, condition, task, chosen[condition.model, condition.method], begun, on_event)
        results.append(run.result())
    return results


def _train(run: Run, condition: Condition, task: Task, recipe: Recipe, resume: bool, on_event: OnEvent) -> None:
    split = task.split(condition.seed)
    subset = take_fraction(task.images, split.train, condition.fraction, condition.seed)
    train_run(
        run,
        task.images,
        replace(split, train=subset),
        task.load(condition.model, condition.method),
        replace(recipe, seed=condition.seed),
        fraction=condition.fraction,
        on_event=on_event,
        resume=resume,
    )


@dataclass(frozen=True)
class Candidate:
    """One model and method at the full fraction: what a verdict speaks of."""

    name: str
    model: str
    method: str
    runs: tuple[RunResult, ...]  # by seed

    @property
    def validation_top1(self) -> float:
        """Mean over seeds, by which the winner is chosen; given predictions have no validation: the test's."""
        return float(np.mean([(run.val if len(run.val) else run.test).correct.mean() for run in self.runs]))

    @property
    def correct(self) -> np.ndarray:
        """(seeds, photos) bool on the test images."""
        return np.stack([run.test.correct for run in self.runs])


def candidates(results: Sequence[RunResult]) -> list[Candidate]:
    """The candidates at the largest fraction, best on validation first."""
    full = max(result.fraction for result in results)
    several_methods = len({result.method for result in results}) > 1
    runs: dict[tuple[str, str], list[RunResult]] = {}
    for result in results:
        if result.fraction == full:
            runs.setdefault((result.model, result.method), []).append(result)
    found = [
        Candidate(
            f"{model} ({method})" if several_methods else model,
            model,
            method,
            tuple(sorted(own, key=lambda run: run.seed)),
        )
        for (model, method), own in runs.items()
    ]
    return sorted(found, key=lambda candidate: -candidate.validation_top1)


def verdicts(ordered: Sequence[Candidate], margin: float) -> tuple[Verdict, ...]:
    """The winner on validation against each other candidate, Holm-corrected; the first is against the second."""
    winner, *others = ordered
    for other in others:
        if other.runs[0].test.ids != winner.runs[0].test.ids:
            raise RegardError(
                f"{winner.name} and {other.name}: they answered different test images; run them on one split"
            )
    return tuple(holm([verdict(winner.name, other.name, winner.correct, other.correct, margin) for other in others]))
