"""A distilled student beside what it has to beat, itself alone, and beside its teacher.

For each seed, on one split of the images:

| run           | what                                                                                           |
|---------------|------------------------------------------------------------------------------------------------|
| teacher-head  | the teacher with a head for these classes, solved on frozen features, where it has other ones   |
| student       | the student, distilled                                                                         |
| alone-images  | the student by the same recipe without a teacher, on as many images                             |
| alone-compute | once more, on as many images as the compute of `student` and `teacher-head` together pays for   |

That compute counts forward and backward passes of the student and forward passes of the teacher, not what the teacher
itself once took. Stated in advance and tested, corrected by Holm: distilled against alone on equal images, and against
alone on equal compute. The teacher is a reference and not tested.
"""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from regard.comparison.compare import TEACHER, Candidate, Key
from regard.comparison.estimate import BASE_MEMORY_MB, STATE_COPIES, downloads, in_minutes, seconds_per_image
from regard.data.contents import contents, read_contents
from regard.data.sources import ImageSet
from regard.data.splits import Split
from regard.evaluation.calibration import fit_temperature, unsure_threshold
from regard.evaluation.statistics import mcnemar
from regard.inference.loaded import LoadedModel
from regard.inference.pooling import head_input, set_head
from regard.models import count_gmacs, count_parameters
from regard.results import Cost, Predictions, RunResult, Verdict
from regard.runs.run import Run
from regard.training.cost import inference_speed
from regard.training.distillation import Kind, Teacher
from regard.training.recipe import Recipe, recipe_for
from regard.training.run import PASSES, train_run
from regard.training.trainee import predict_set
from regard.training.trials import SHARE, choose_lr
from regard.weights import read_state

FILE = "distillation.yaml"
STUDENT, HEAD = "student", "teacher-head"
Alone = Literal["images", "compute"]
WORDS = {STUDENT: "distilled", "alone-images": "alone on equal images", "alone-compute": "alone on equal compute"}
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """What a distillation consists of; one that continues must be given the same."""

    data: str
    teacher: str
    student: str
    weights: str | None
    teacher_weights: str | None
    kind: Kind
    alpha: float
    tau: float
    alone: tuple[Alone, ...]
    seeds: int
    trials: int
    margin: float
    recipe: dict[str, Any]
    img_size: int | None
    keep_leaks: bool
    target: tuple[str, ...] = ()
    group: str | None = None
    slices: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """The runs of the student, the distilled one first."""
        return (STUDENT, *(f"alone-{budget}" for budget in self.alone))

    def folder(self, role: str, seed: int) -> str:
        """The name of a run's folder."""
        return role if self.seeds == 1 else f"{role}-seed{seed}"


@dataclass(frozen=True)
class Task:
    """What the runs share: the images, how a seed splits them, where students come from, and the teacher.

    Every call of `student` gives a model of its own. opened: "target", "group" and "slices" as the images were opened.
    """

    images: ImageSet
    split: Callable[[int], Split]
    student: Callable[[], LoadedModel]
    teacher: LoadedModel
    opened: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fits(self) -> bool:
        """The teacher answers these classes."""
        return sorted(self.teacher.classes) == sorted(self.images.classes)


Found = dict[str, list[RunResult]]  # by role, and TEACHER; a run of each seed


def run_all(plan: Plan, task: Task, folder: Path, on_event: OnEvent) -> Found:
    """Train what is missing in `folder`, and read every result."""
    found: Found = {role: [] for role in (*plan.roles, TEACHER)}
    for seed in range(plan.seeds):
        split = task.split(seed)
        model, taught = _teacher(plan, task, split, seed, folder, on_event)
        found[TEACHER] += [taught] if taught is not None else []
        teacher = Teacher(model, plan.kind, plan.alpha, plan.tau)
        # What was measured and tried for the first run serves all others.
        recipe = _recipe_of(found[STUDENT][0]) if seed else Recipe.from_config(plan.recipe)
        distilled = _train(plan, task, folder, STUDENT, split, replace(recipe, seed=seed), teacher, on_event)
        found[STUDENT].append(distilled)
        recipe = replace(Recipe.from_config(plan.recipe), precision=_recipe_of(distilled).precision)
        head_flops = 0.0 if task.fits or taught is None else taught.cost.train_flops or 0.0
        for role in plan.roles[1:]:
            images = distilled.images_seen if role == "alone-images" else affordable(distilled.cost, recipe, head_flops)
            rate = _recipe_of(found[role][0]).lr if seed else recipe.lr
            alone = replace(recipe, lr=rate, seed=seed, patience=None).with_overrides({"images_seen": images})
            found[role].append(_train(plan, task, folder, role, split, alone, None, on_event))
    return found


def _recipe_of(run: RunResult) -> Recipe:
    """As it was resolved when the run began."""
    return Recipe.from_config(run.recipe["recipe"])


def affordable(cost: Cost, recipe: Recipe, further_flops: float) -> int:
    """Images on which the student can be trained alone for the compute of its distilled run and `further_flops`."""
    assert cost.train_flops is not None and cost.gmacs is not None
    return round((cost.train_flops + further_flops) / (2e9 * cost.gmacs * PASSES[recipe.method]))


def _train(
    plan: Plan,
    task: Task,
    folder: Path,
    role: str,
    split: Split,
    recipe: Recipe,
    teacher: Teacher | None,
    on_event: OnEvent,
) -> RunResult:
    """The result of one run of the student, which is trained, or continued, where it is not finished."""
    place = folder / plan.folder(role, recipe.seed)
    begun = place.exists()
    run = Run.resume(place) if begun else Run.create(place)
    if not run.finished:
        on_event({"event": "note", "text": f"{plan.student}, {WORDS[role]}, seed {recipe.seed}"})
        if plan.trials and recipe.seed == 0:
            tried = folder / "trials" / role
            tried.mkdir(parents=True, exist_ok=True)
            rate, _ = choose_lr(task.images, split, task.student, recipe, plan.trials, tried, on_event, teacher)
            recipe = replace(recipe, lr=rate)
        train_run(
            run,
            task.images,
            split,
            task.student(),
            recipe,
            on_event,
            resume=begun,
            opened=task.opened,
            teacher=teacher,
        )
    return replace(run.result(), model=plan.student, method=WORDS[role])


# The teacher


def _teacher(
    plan: Plan, task: Task, split: Split, seed: int, folder: Path, on_event: OnEvent
) -> tuple[LoadedModel, RunResult | None]:
    """(the teacher of a seed, its row); the row of a teacher without a fitted head is that of the first seed."""
    given, images = task.teacher, task.images
    if task.fits:
        return given, answered(given, images, split) if seed == 0 else None
    place = folder / plan.folder(HEAD, seed)
    begun = place.exists()
    run = Run.resume(place) if begun else Run.create(place)
    loaded = replace(given, model=copy.deepcopy(given.model), classes=images.classes, problem=images.problem)
    if not run.finished:
        text = f"{given.name}: answers {len(given.classes)} other classes, so its head is fitted to these"
        on_event({"event": "note", "text": text})
        wanted = Recipe.from_config(plan.recipe)
        recipe = replace(
            recipe_for(given.spec, "head", len(split.train), given.preprocess.size),
            views=2 if wanted.flip else 1,
            balance="loss" if wanted.balance == "loss" else "none",
            precision=wanted.precision,
            deterministic=wanted.deterministic,
            seed=seed,
        )
        train_run(run, images, split, loaded, recipe, on_event, resume=begun, opened=task.opened)
    # Always read back: a model in another layout would round otherwise after a resume.
    loaded = replace(
        loaded,
        model=copy.deepcopy(given.model),
        temperature=1.0,
        thresholds=(),
        source={"model": str(run.folder), "weights": None},
    )
    set_head(loaded, torch.zeros(len(images.classes), head_input(loaded)), torch.zeros(len(images.classes)))
    loaded.model.load_state_dict(read_state(run.weights_path))
    loaded.model.eval()
    return loaded, replace(run.result(), method=TEACHER)


def answered(teacher: LoadedModel, images: ImageSet, split: Split) -> RunResult:
    """The row of a teacher as it came: its answers to the validation and test images, its cost as far as known."""
    order = [teacher.classes.index(name) for name in images.classes]
    val, test = (_reordered(predict_set(teacher, images, rows), order) for rows in (split.val, split.test))
    temperature, size = fit_temperature(val), teacher.preprocess.size
    images_per_second, latency_ms = inference_speed(teacher.model, size)
    before = _own_run(teacher)
    spent = before.cost if before is not None else None
    return RunResult(
        model=teacher.name,
        method=TEACHER,
        seed=0,
        fraction=1.0,
        train_images=before.facts["train_images"] if before is not None else 0,
        images_seen=before.facts["images_seen"] if before is not None else 0,
        val=val,
        test=test,
        temperature=temperature,
        unsure_below=unsure_threshold(val, temperature),
        cost=Cost(
            parameters=count_parameters(teacher.model),
            gmacs=count_gmacs(teacher.model, size),
            images_per_second=images_per_second,
            latency_ms=latency_ms,
            train_seconds=spent.train_seconds if spent else None,
            train_flops=spent.train_flops if spent else None,
        ),
        pretraining=teacher.pretraining,
    )


def _reordered(found: Predictions, order: Sequence[int]) -> Predictions:
    return replace(found, logits=found.logits[:, order])


def _own_run(teacher: LoadedModel) -> Run | None:
    """The finished run that the teacher was loaded from, if any."""
    folder = Path(teacher.source.get("model") or "")
    run = Run(folder)
    return run if (folder / "config.yaml").is_file() and run.finished else None


def known_to(teacher: LoadedModel, images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """Those of the rows whose images were training or validation images of the run that the teacher comes from.

    Images are the same where their contents are; those of published sets, where the set and their id are. What a
    teacher of another origin has seen is not known.
    """
    run = _own_run(teacher)
    if run is None:
        return rows[:0]
    with open(run.split_path, encoding="utf-8", newline="") as file:
        used = {line["id"] for line in csv.DictReader(file) if line["split"] in ("train", "val")}
    before = read_contents(run.contents_path)
    if not before:
        same_set = run.config["data"] == images.name
        return np.array([row for row in rows if same_set and images.ids[row] in used], dtype=np.int64)
    digests = {digest for id_, digest in before.items() if id_ in used}
    now = contents(images, rows)
    return np.array([row for row in rows if now.get(images.ids[row]) in digests], dtype=np.int64)


# What came of it


def candidates(found: Found) -> list[Candidate]:
    """The rows in the order of the report: the student distilled, which is named, then alone, and the teacher."""
    listed = []
    for role, runs in found.items():
        model, method = runs[0].model, runs[0].method
        name = {STUDENT: f"{model} {method}", TEACHER: f"{model} ({method})"}.get(role, method)
        listed.append(Candidate(name, model, method, tuple(_as_one(runs, found))))
    return listed


def _as_one(runs: list[RunResult], found: Found) -> list[RunResult]:
    """The runs; those of the student with one figure of its size and speed, as they are the same network."""
    if runs[0].method == TEACHER:
        return runs
    measured = found[STUDENT][0].cost
    speed = {"images_per_second": measured.images_per_second, "latency_ms": measured.latency_ms}
    return [replace(run, cost=replace(run.cost, **speed)) for run in runs]


def of_one_seed(ordered: Sequence[Candidate], untested: Sequence[Verdict]) -> str:
    """Why there is no verdict, and the differences between these runs with what the photos alone make of them."""
    lines = []
    for one in untested:
        rival = next(other for other in ordered if other.name == one.b)
        tested = mcnemar(ordered[0].runs[0].test.correct, rival.runs[0].test.correct)
        half = 1.96 * math.sqrt(one.photo_variance)
        low, high = (100 * (one.difference + sign * half) for sign in (-1, 1))
        lines.append(
            f"{100 * one.difference:+.1f} points ({low:+.1f} to {high:+.1f}, McNemar p {tested.p_value:.2g}) "
            f"against {rival.method}"
        )
    gaps = ", ".join(lines).replace("-", "−")
    return (
        "one seed never yields a verdict about recipes, run at least 3; of these runs, with 95% intervals over photos: "
        f"distilled {gaps}"
    )


def protocol(plan: Plan, task: Task) -> tuple[str, ...]:
    """How the runs came about, one line each."""
    how = "its most probable class" if plan.kind == "hard" else f"its probabilities at temperature {plan.tau:g}"
    kept = "its head fitted to these classes, " if not task.fits else ""
    lines = [
        f"Teacher: {task.teacher.name}, {kept}gives {how} with a share of {plan.alpha:g} of the loss; it sees each "
        "picture as the student does, cropped, mirrored and mixed, in its own size and normalisation"
    ]
    if len(plan.roles) > 1:
        lines.append(
            "Tested, stated in advance: distilled against the same student alone, by the same recipe; the teacher is a "
            "reference"
        )
    if "alone-compute" in plan.roles:
        head = "" if task.fits else ", the fitting of its head among them"
        lines.append(
            f"Equal compute: forward and backward passes of the student and forward passes of the teacher{head}; what "
            "the teacher itself once took is not in it"
        )
    return tuple(lines)


def budget(plan: Plan, found: Found) -> str:
    """Images and choices of the first seed's runs, in a line."""
    seen = "; ".join(f"{WORDS[role]} {found[role][0].images_seen:,}" for role in plan.roles)
    trials = f"{plan.trials} learning-rate trials for each of them" if plan.trials else "no tuning trial"
    precision = found[STUDENT][0].recipe["recipe"]["precision"]
    return f"training images seen, {seen}; {trials}; {precision} for every run"


# What it will cost


@dataclass(frozen=True)
class Estimate:
    """What to expect: runs, minutes on this machine, memory and disk in MB, and files to download.

    parts: what the minutes consist of, with the minutes of each.
    """

    runs: int
    parts: tuple[tuple[str, float], ...]
    memory_mb: float
    disk_mb: float
    downloads: tuple[str, ...]

    @property
    def minutes(self) -> float:
        """All of them."""
        return sum(minutes for _, minutes in self.parts)

    def __str__(self) -> str:
        long = [f"{in_minutes(minutes)} {words}" for words, minutes in self.parts if minutes >= 1]
        parts = f" (of them {', '.join(long)})" if long else ""
        about = "about " if self.minutes >= 1 else ""
        return (
            f"{self.runs} runs, {about}{in_minutes(self.minutes)}{parts}, "
            f"{self.memory_mb:,.0f} MB of memory, {self.disk_mb:,.0f} MB of disk; "
            f"downloads: {'; '.join(self.downloads) or 'none'}"
        )


def estimate(plan: Plan, split: Split, student: LoadedModel, teacher: LoadedModel, fits: bool) -> Estimate:
    """Add up the plan at the speed of a few steps. Decoding is not in it: it overlaps with the steps.

    student, teacher: of the right kind and size, untrained ones do; fits: the teacher needs no new head.
    """
    recipe = Recipe.from_config(plan.recipe)
    step = seconds_per_image(student.model, student.preprocess.size, recipe.micro_batch, True, ("fp32",))["fp32"]
    asked = seconds_per_image(teacher.model, teacher.preprocess.size, recipe.micro_batch, False, ("fp32",))["fp32"]
    gmacs = [count_gmacs(one.model, one.preprocess.size) for one in (student, teacher)]
    length = recipe.length(len(split.train))
    images = length * recipe.batch_size if length is not None else 60 * (recipe.minutes or 0) / (step + asked)
    head = 0 if fits else (2 if recipe.flip else 1) * len(split.train)
    ratio = 1 + gmacs[1] * (images + head) / (gmacs[0] * PASSES[recipe.method] * images)
    evaluating = 0.4 * step * recipe.evaluations * len(split.val)
    seconds = {
        "for the head of the teacher": asked * (head and head + len(split.val) + len(split.test)),
        "distilled": images * (step + asked) + evaluating,
        "alone on equal images": (images * step + evaluating) * ("images" in plan.alone),
        "alone on equal compute": (images * ratio * step + evaluating) * ("compute" in plan.alone),
    }
    trained = [value for words, value in seconds.items() if "head" not in words]
    parts = {words: plan.seeds * value for words, value in seconds.items()}
    parts["for learning-rate trials"] = plan.trials * SHARE * sum(trained)
    parameters = [count_parameters(one.model) for one in (student, teacher)]
    wanted: list[Key] = []
    if not plan.weights:
        wanted.append((plan.student, recipe.method))
    if not plan.teacher_weights:
        wanted.append((plan.teacher, "head"))
    runs = len(plan.roles) + (0 if fits else 1)
    kept = STATE_COPIES * len(plan.roles) * parameters[0] + (0 if fits else parameters[1])
    return Estimate(
        runs=plan.seeds * runs,
        parts=tuple((words, value / 60) for words, value in parts.items() if value),
        memory_mb=BASE_MEMORY_MB + 16e-6 * parameters[0] + 4e-6 * parameters[1],
        disk_mb=4e-6 * plan.seeds * kept,
        downloads=downloads(wanted),
    )
