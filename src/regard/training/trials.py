"""The learning rate, tried: short trainings at rates around the recipe's own, judged on the validation images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.errors import RegardError
from regard.evaluation.problems import LOWER_IS_BETTER
from regard.inference.loaded import LoadedModel
from regard.runs.atomic import write_atomic
from regard.training.distillation import Teacher
from regard.training.fitting import ready, resolved, run_loop
from regard.training.nonfinite import NotFinite
from regard.training.processes import join
from regard.training.recipe import Recipe
from regard.training.tasks import suited
from regard.training.trainee import answer_these

if TYPE_CHECKING:
    from regard.data.sources import ImageSet
    from regard.data.splits import Split

FILE = "trials.json"
STEP = 10**0.5  # from one rate to the next
SHARE = 1 / 3  # of the recipe's length, for each trial


def choose_lr(
    images: ImageSet,
    split: Split,
    load: Callable[[], LoadedModel],
    recipe: Recipe,
    trials: int,
    folder: Path,
    on_event: Callable[[dict[str, Any]], None],
    teacher: Teacher | None = None,
) -> tuple[float, list[dict[str, Any]]]:
    """(the best of `trials` learning rates, a row for each: "lr", "score", "images"), by the watched metric.

    The rates are a factor of the square root of ten apart, the recipe's own in their middle. Each trains a model of
    its own (`load`) for a third of the images or minutes, on the train rows only. A rate at which training diverges
    has the score None. Finished trials are kept in `folder`/trials.json and not repeated, unless the recipe is
    another one. teacher: whom they learn from. Where nothing is trained (a solved head) the recipe's rate is
    returned. Raises RegardError where every rate diverges.
    """
    if recipe.solved or trials < 1:
        if trials:
            on_event({"event": "note", "text": f"--trials {trials}: the head {recipe.head} is solved and has no rate"})
        return recipe.lr, []
    recipe, _ = suited(recipe, images.problem, images.boxes)
    team = join()
    on_event = on_event if team.first else lambda event: None
    base = {**recipe.to_config(), "trials": trials}
    rows = team.first_does(lambda: _kept(folder / FILE, base))
    watch = recipe.watch
    assert watch is not None
    for number, lr in enumerate(rates(recipe.lr, trials), 1):
        if any(row["lr"] == lr for row in rows):
            continue
        on_event({"event": "note", "text": f"trial {number} of {trials}: learning rate {lr:g}"})
        loaded = load()
        answer_these(loaded, images)
        short = shortened(replace(recipe, lr=lr, trials=0, snapshots=0), len(split.train))
        training = ready(images, split, loaded, short, teacher)
        short = resolved(training, short, team, on_event)
        recipe = replace(recipe, precision=short.precision)  # measured once
        try:
            score = run_loop(training, short, team, on_event=on_event).progress.best_value
        except NotFinite:
            score = None
        assert short.steps is not None
        rows.append({"lr": lr, "score": score, "images": short.steps * short.batch_size})
        if team.first:
            write_atomic(folder / FILE, json.dumps({"recipe": base, "watch": watch, "trials": rows}, indent=1))
    scored = [row for row in rows if row["score"] is not None]
    if not scored:
        raise RegardError(f"--trials {trials}: training diverges at every rate tried; give a lower --lr")
    sign = -1 if watch in LOWER_IS_BETTER else 1
    # Of equal scores the one nearest to the recipe's own rate.
    best = max(scored, key=lambda row: (sign * row["score"], -abs(math.log(row["lr"] / recipe.lr))))
    told = ", ".join(f"{row['lr']:g}: {_score(row['score'])}" for row in sorted(rows, key=lambda row: row["lr"]))
    on_event({"event": "note", "text": f"learning rate {best['lr']:g} by val/{watch} of {trials} trials ({told})"})
    return best["lr"], rows


def rates(lr: float, trials: int) -> list[float]:
    """`trials` rates with three digits, rising by factors of the square root of ten, `lr` in their middle."""
    return [float(f"{lr * STEP ** (number - (trials - 1) / 2):.3g}") for number in range(trials)]


def shortened(recipe: Recipe, n_train: int) -> Recipe:
    """A third of the recipe, with evaluations as far apart and no early stop."""
    length = recipe.length(n_train)
    budget: dict[str, Any] = {"minutes": SHARE * recipe.minutes} if length is None and recipe.minutes else {}
    if length is not None:
        budget = {"images_seen": math.ceil(SHARE * length) * recipe.batch_size}
    evaluations = max(1, round(SHARE * recipe.evaluations))
    return recipe.with_overrides({**budget, "evaluations": evaluations, "patience": None})


def _kept(path: Path, base: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of earlier trials with the same recipe."""
    if not path.is_file():
        return []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return list(document["trials"]) if document["recipe"] == base else []
    except (ValueError, KeyError, TypeError):
        return []


def _score(score: float | None) -> str:
    return "diverged" if score is None else f"{score:.3f}"
