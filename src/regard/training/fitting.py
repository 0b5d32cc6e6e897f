"""One training by the loop: from a recipe and a model to trained weights in it. Knows no run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.data.loader import Batch, Batches
from regard.evaluation.problems import LOWER_IS_BETTER, Evaluator
from regard.inference.features import default_cache
from regard.inference.loaded import LoadedModel
from regard.training.distillation import Teacher, teach
from regard.training.loop import Event, Outcome, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.precision import choose_precision, measure_steps
from regard.training.processes import Team
from regard.training.recipe import Recipe
from regard.training.tasks import task_for
from regard.training.trainee import Trainee, prepare, training_batches, validation_answers

if TYPE_CHECKING:
    from regard.data.sources import ImageSet
    from regard.data.splits import Split

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Training:
    """What one training needs; the model in `loaded` is in the state from which it starts."""

    images: ImageSet
    split: Split
    loaded: LoadedModel
    trainee: Trainee
    batches: Batches


def ready(
    images: ImageSet,
    split: Split,
    loaded: LoadedModel,
    recipe: Recipe,
    teacher: Teacher | None = None,
    cache_dir: Path | None = None,
    on_event: OnEvent = lambda event: None,
) -> Training:
    """Put the model into its starting state, and open the stream of batches; a teacher stands beside both.

    cache_dir: where its answers are kept.
    """
    trainee = prepare(loaded, recipe, task_for(images, split.train, recipe))
    batches = training_batches(images, split.train, loaded, recipe)
    if teacher is not None:
        cache = cache_dir or default_cache()
        trainee, batches = teach(teacher, trainee, loaded, images, batches, recipe, cache, on_event)
    return Training(images, split, loaded, trainee, batches)


def resolved(training: Training, recipe: Recipe, team: Team, on_event: OnEvent) -> Recipe:
    """The recipe with precision and steps fixed, for all processes by the first; what has to be measured is
    measured on a copy of the model.
    """
    return Recipe.from_config(team.first_does(lambda: _resolved(training, recipe, team, on_event).to_config()))


def _resolved(training: Training, recipe: Recipe, team: Team, on_event: OnEvent) -> Recipe:
    if recipe.precision == "auto" and recipe.deterministic:
        recipe = replace(recipe, precision="fp32")
    steps = recipe.length(len(training.split.train))
    if recipe.precision != "auto" and steps is not None:
        return replace(recipe, steps=steps)
    wanted: tuple[Literal["fp32", "bf16"], ...] = (
        ("fp32", "bf16") if recipe.precision == "auto" else (recipe.precision,)
    )
    # A measurement is worth a hundredth or so of the run; below some 50 steps there is nothing to gain.
    if steps is not None and steps < 50:
        return replace(recipe, precision="fp32", steps=steps)
    on_event({"event": "note", "text": f"measuring the step of {training.loaded.name} before the first one"})
    trainee = training.trainee
    batches: Iterator[Batch] = training.batches.from_step(0, 0, team.world)
    parts = -(-recipe.accumulation // team.world)
    seconds = measure_steps(trainee.module, batches, trainee.loss, wanted, parts, least=recipe.measuring)
    precision = choose_precision(seconds) if recipe.precision == "auto" else recipe.precision
    if steps is None:
        # Validation costs a forward pass, a third of a step, for each of its images.
        evaluation = len(training.split.val) / recipe.batch_size * seconds[precision] / 3
        recipe = recipe.timed(seconds[precision], evaluation)
        steps = recipe.steps
    speed = recipe.batch_size / seconds[precision]
    on_event(
        {
            "event": "note",
            "text": f"{precision}, {speed:.0f} images/s, {steps} steps of {recipe.batch_size} images",
        }
    )
    return replace(recipe, precision=precision, steps=steps)


def run_loop(training: Training, recipe: Recipe, team: Team, **how: Any) -> Outcome:
    """Train by a resolved and suited recipe; `how` goes on to `fit` (states, resume, listeners, interrupts)."""
    trainee, images = training.trainee, training.images
    assert recipe.watch is not None
    groups = parameter_groups(trainee.module, recipe.lr, recipe.weight_decay, recipe.layer_decay)
    answers = validation_answers(images, training.split.val, training.loaded, trainee)

    def share_from(step: int) -> Iterator[Batch]:
        return training.batches.from_step(step, team.rank, team.world)

    def name_batch(batch: Batch) -> str:
        names = [images.ids[int(row)] for row in batch.rows]
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

    return fit(
        trainee.module,
        share_from,
        trainee.loss,
        make_optimiser(recipe.optimiser, groups, recipe.lr),
        recipe.plan(f"val/{recipe.watch}", recipe.watch in LOWER_IS_BETTER),
        evaluators=[Evaluator(answers, "val/")],
        name_batch=name_batch,
        team=team,
        **how,
    )
