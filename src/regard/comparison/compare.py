"""Every run of a plan, the verdict stated in advance, and the record that a report is made of.

Protocol: the test images are the same for every run; a seed redraws initialisation, order, augmentation, the train and
validation cut and the training subset; fractions are nested conditions, never pooled; every run sees equally many
images; the winner is chosen on validation, and only its pairs are tested, corrected by Holm. With folds every image is
a test image once, a seed deals them anew, and the test is the corrected resampled one. A row without a network runs
beside the models, as a reference that is not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from regard.comparison.classical import METHOD, Reference
from regard.comparison.plan import Condition, Plan, folder_name
from regard.data.sources import ImageSet
from regard.data.splits import Split, take_fraction
from regard.errors import RegardError
from regard.evaluation.intervals import group_numbers
from regard.evaluation.problems import HEADLINE, LOWER_IS_BETTER, METRIC, photo_scores, values
from regard.evaluation.statistics import corrected_resampled_t, holm, verdict
from regard.inference.loaded import LoadedModel
from regard.results import Problem, RunResult, Verdict
from regard.runs.run import Run
from regard.training.recipe import Method, Recipe, recipe_for
from regard.training.run import train_run
from regard.training.trials import choose_lr

OnEvent = Callable[[dict[str, Any]], None]
Key = tuple[str, Method]  # model and method
TEACHER = "teacher"  # the method of the row of one who taught
REFERENCES = (METHOD, TEACHER)


@dataclass(frozen=True)
class Task:
    """What all runs of a comparison share: the images, how a seed splits them, and where models come from.

    split: (seed, fold or None) -> split; without folds its test rows are the same for every seed. load: (model,
    method) -> a model to train. opened: "target", "group" and "slices" as the images were opened.
    """

    images: ImageSet
    split: Callable[[int, int | None], Split]
    load: Callable[[str, Method], LoadedModel]
    opened: Mapping[str, Any] = field(default_factory=dict)


def recipes(
    plan: Plan, train: int, untrained: Mapping[str, LoadedModel], problem: Problem = "single_label"
) -> dict[Key, Recipe]:
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
                problem,
            )
    if plan.trials and all(recipe.solved for recipe in found.values()):
        raise RegardError(
            f"--trials {plan.trials}: a solved head has no learning rate to try; leave it out, or use --head sgd or "
            "another of --methods"
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


def tried(plan: Plan, task: Task, folder: Path, chosen: Mapping[Key, Recipe], on_event: OnEvent) -> dict[Key, Recipe]:
    """The recipes with the learning rate that was best in `plan.trials` short trainings of each (`choose_lr`).

    They train and judge on the first seed's train and validation rows at the full fraction; the rate found serves all
    runs of its model and method. What was tried is kept in `folder`/trials, and not tried again.
    """
    if not plan.trials:
        return dict(chosen)
    split = task.split(0, None)
    found = {}
    for (model, method), recipe in chosen.items():
        place = folder / "trials" / f"{folder_name(model)}-{method}"
        place.mkdir(parents=True, exist_ok=True)
        if not recipe.solved:
            on_event({"event": "note", "text": f"{plan.trials} learning rates for {model} ({method})"})
        lr, _ = choose_lr(
            task.images, split, lambda key=(model, method): task.load(*key), recipe, plan.trials, place, on_event
        )
        found[model, method] = recipe.with_overrides({"lr": lr})
    return found


def run_all(plan: Plan, task: Task, folder: Path, chosen: Mapping[Key, Recipe], on_event: OnEvent) -> list[RunResult]:
    """Train what is missing and read every result, in the plan's order."""
    conditions = plan.conditions()
    reference = Reference(task.images, plan.overrides.get("balance", "none"), on_event)
    results = []
    for number, condition in enumerate(conditions, 1):
        place = folder / "runs" / condition.folder
        begun = place.exists()
        run = Run.resume(place) if begun else Run.create(place)
        if not run.finished:
            fold = "" if condition.fold is None else f", fold {condition.fold + 1} of {plan.folds}"
            on_event(
                {
                    "event": "note",
                    "text": f"run {number} of {len(conditions)}: {condition.candidate}, seed {condition.seed}{fold}, "
                    f"{100 * condition.fraction:g}% of the training images",
                }
            )
            _train(run, condition, task, chosen, reference, begun, on_event)
        results.append(run.result())
    return results


def _train(
    run: Run,
    condition: Condition,
    task: Task,
    chosen: Mapping[Key, Recipe],
    reference: Reference,
    resume: bool,
    on_event: OnEvent,
) -> None:
    split = task.split(condition.seed, condition.fold)
    split = replace(split, train=take_fraction(task.images, split.train, condition.fraction, condition.seed))
    if condition.method == "classical":
        reference.run(run, split, condition.seed, condition.fraction, condition.fold)
        return
    train_run(
        run,
        task.images,
        split,
        task.load(condition.model, condition.method),
        replace(chosen[condition.model, condition.method], seed=condition.seed),
        on_event,
        resume,
        fraction=condition.fraction,
        fold=condition.fold,
        opened=task.opened,
    )


@dataclass(frozen=True)
class Candidate:
    """One model and method at the full fraction: what a verdict speaks of, or a reference.

    scale: standard deviations of the training labels, for numbers; empty: those of the test labels.
    """

    name: str
    model: str
    method: str
    runs: tuple[RunResult, ...]  # by seed, then by fold
    scale: tuple[float, ...] = ()

    @property
    def problem(self) -> Problem:
        """What the labels are."""
        return self.runs[0].problem

    @property
    def reference(self) -> bool:
        """Shown beside the candidates and not tested: a row without a network, or the teacher of one."""
        return self.method in REFERENCES

    @cached_property
    def validation(self) -> float:
        """Mean headline metric over the runs on validation, by which the winner is chosen.

        Given predictions have no validation: the test's.
        """
        name = HEADLINE[self.problem]
        return float(
            np.mean([values(run.val if len(run.val) else run.test, run.temperature)[name] for run in self.runs])
        )

    @cached_property
    def test(self) -> float:
        """Mean headline metric over the runs on the test images."""
        return float(np.mean([values(run.test, run.temperature)[HEADLINE[self.problem]] for run in self.runs]))

    @cached_property
    def scores(self) -> np.ndarray:
        """(seeds, photos) score of each labelled test image (`photo_scores`); not with folds."""
        return np.stack([self.of_run(run) for run in self.runs])

    def of_run(self, run: RunResult) -> np.ndarray:
        """(photos,) score of each labelled test image of one run."""
        found = photo_scores(run.test, self.scale or None)
        return found[~np.isnan(found)]

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the labelled test images of the first run, as in `scores`."""
        run = self.runs[0]
        known = ~np.isnan(photo_scores(run.test, self.scale or None))
        return tuple(id_ for id_, one in zip(run.test.ids, known, strict=True) if one)


def candidates(results: Sequence[RunResult], scale: Sequence[float] = ()) -> list[Candidate]:
    """The candidates at the largest fraction, best on validation first; without references."""
    found = _candidates([run for run in results if run.method != METHOD], scale)
    turned = 1 if HEADLINE[found[0].problem] in LOWER_IS_BETTER else -1
    return sorted(found, key=lambda candidate: turned * candidate.validation)


def references(results: Sequence[RunResult]) -> list[Candidate]:
    """The rows without a network at the largest fraction: shown beside the candidates, not tested."""
    return _candidates([run for run in results if run.method == METHOD], ())


def _candidates(results: Sequence[RunResult], scale: Sequence[float]) -> list[Candidate]:
    full = max((result.fraction for result in results), default=1.0)
    several_methods = len({result.method for result in results}) > 1
    runs: dict[tuple[str, str], list[RunResult]] = {}
    for result in results:
        if result.fraction == full:
            runs.setdefault((result.model, result.method), []).append(result)
    return [
        Candidate(
            f"{model} ({method})" if several_methods or method == METHOD else model,
            model,
            method,
            tuple(sorted(own, key=lambda run: (run.seed, run.fold or 0))),
            tuple(scale),
        )
        for (model, method), own in runs.items()
    ]


def verdicts(ordered: Sequence[Candidate], margin: float, groups: Sequence[Sequence[str]] = ()) -> tuple[Verdict, ...]:
    """The winner on validation against each other candidate, Holm-corrected; the first is against the second.

    margin: a difference that does not matter, as a share of 1 (top1, label ranking precision) or in standard
    deviations of the training labels (numbers). groups: ids of images that belong together.
    """
    winner, *others = ordered
    return tuple(holm([_pair(winner, other, margin, groups) for other in others]))


def _pair(winner: Candidate, other: Candidate, margin: float, groups: Sequence[Sequence[str]]) -> Verdict:
    split = winner.runs[0].fold is None  # the same test images for every seed
    asked_a, asked_b = ([run.test.ids for run in (one.runs[:1] if split else one.runs)] for one in (winner, other))
    if asked_a != asked_b:
        raise RegardError(f"{winner.name} and {other.name}: they answered different test images; run them on one split")
    metric = METRIC[winner.problem]
    if split:
        numbers = group_numbers(winner.ids, groups)
        return verdict(winner.name, other.name, winner.scores, other.scores, margin, metric=metric, groups=numbers)
    folds = len({run.fold for run in winner.runs})
    differences = [
        winner.of_run(a).mean() - other.of_run(b).mean() for a, b in zip(winner.runs, other.runs, strict=True)
    ]
    return corrected_resampled_t(
        winner.name,
        other.name,
        np.reshape(differences, (-1, folds)),
        test_size=float(np.mean([len(run.test) for run in winner.runs])),
        train_size=float(np.mean([run.train_images + len(run.val) for run in winner.runs])),
        margin=margin,
        metric=metric,
    )
