"""From images, a split, a model and a recipe to a finished run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from regard.data.contents import contents, write_contents
from regard.data.loader import Batch
from regard.data.splits import Split, read_split, write_split
from regard.errors import RegardError
from regard.evaluation.calibration import fit_temperature, unsure_threshold
from regard.evaluation.multilabel import fit_thresholds
from regard.inference.features import default_cache
from regard.inference.loaded import LoadedModel
from regard.models import count_gmacs, count_parameters, timm_reference
from regard.results import Cost, Predictions
from regard.runs.run import Run
from regard.training.cost import inference_speed, peak_memory_mb, reset_peak_memory
from regard.training.distillation import Teacher
from regard.training.environment import environment
from regard.training.fitting import OnEvent, ready, resolved, run_loop
from regard.training.heads import fit_head, head_predictions
from regard.training.interrupts import Interrupts
from regard.training.nonfinite import keep_batch
from regard.training.processes import Team, join
from regard.training.recipe import Recipe
from regard.training.state import States
from regard.training.tasks import suited
from regard.training.trainee import answer_these, predict_set, settle, settled_state
from regard.weights.save import save_state

if TYPE_CHECKING:
    from regard.data.sources import ImageSet

ECHO = 5.0  # seconds within which torchrun passes on a signal that has come already
# Passes of one image through the model that training by one image costs; a backward pass counts as two, and half of
# that where the weights it would give gradients to are frozen.
PASSES = {"head": 1, "lora": 2, "finetune": 3, "scratch": 3}


@dataclass(frozen=True)
class Job:
    """One run: what is trained on what, and who is told."""

    run: Run
    images: ImageSet
    split: Split
    loaded: LoadedModel
    recipe: Recipe
    fraction: float
    fold: int | None
    opened: Mapping[str, Any]
    cache_dir: Path
    emit: OnEvent
    team: Team
    teacher: Teacher | None


@dataclass(frozen=True)
class Fitted:
    """What training a model gave, besides the weights in it."""

    val: Predictions
    test: Predictions
    images_seen: int
    seconds: float
    trainable_parameters: int
    passes: float  # forward passes of one image that the training cost (`PASSES`)
    further_flops: float = 0.0  # of other models, which ran beside it
    extra: dict[str, Any] = field(default_factory=dict)


def train_run(
    run: Run,
    images: ImageSet,
    split: Split,
    loaded: LoadedModel,
    recipe: Recipe,
    on_event: OnEvent | None = None,
    resume: bool = False,
    *,
    fraction: float = 1.0,
    fold: int | None = None,
    opened: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    teacher: Teacher | None = None,
) -> Run:
    """Train `loaded` on the train rows of `split` by `recipe`, and write everything that a run folder holds.

    The validation rows choose the weights, the temperature and the thresholds; the test rows are answered
    once, at the end. `loaded` is trained in place: afterwards it answers with the saved weights. For all but
    "head" a registered model is made anew by the recipe's seed (its initialisation or its new head).
    `fraction` and `fold` are recorded only: the caller has taken them. `opened`: how `images` were opened, as
    far as they do not say so themselves ("target", "group", "slices"), for config.yaml. What the kind of
    labels forbids in the recipe is switched off aloud (`suited`). A finished run is returned as it is; one
    that was interrupted continues with `resume`, under the choices measured at its start. SIGTERM and SIGINT
    save and raise `Stopped` (exit code 143 or 130). With a `teacher`, a model that is trained by steps learns from it
    too (distillation.py). Raises RegardError, and leaves nothing half-written.

    Under torchrun every process calls this alike; the first one writes, and its `loaded` is the one to go on
    with.
    """
    if resume and run.finished:
        return run
    team = join()
    emit = on_event if on_event and team.first else lambda event: None
    if tuple(loaded.classes) != tuple(images.classes):
        raise RegardError(f"{loaded.name}: answers {_some(loaded.classes)}, but the images are {_some(images.classes)}")
    for name in ("train", "val", "test"):
        if not len(getattr(split, name)):
            raise RegardError(f"{images.name}: no {name} images in the split; give more images or another split")
    if teacher is not None and recipe.method == "head":
        raise RegardError("--method head: a teacher cannot teach a frozen model; use scratch, finetune or lora")
    recipe, notes = suited(recipe, images.problem, images.boxes)
    for note in notes:
        emit({"event": "note", "text": note})
    answer_these(loaded, images)
    cache = Path(cache_dir or default_cache())
    job = Job(run, images, split, loaded, recipe, fraction, fold, opened or {}, cache, emit, team, teacher)
    reset_peak_memory()
    with Interrupts(ECHO if team.world > 1 else 0.0) as interrupts, _deterministic(recipe.deterministic):
        conclude = partial(_solve, job) if recipe.solved else _fit(job, resume, interrupts)
        team.first_does(lambda: _finish(job, conclude(), deterministic=recipe.solved))
        interrupts.check()
    team.close()
    return run


def _fit(job: Job, resume: bool, interrupts: Interrupts) -> Callable[[], Fitted]:
    """Train by the loop; what is returned answers the images with the trained model."""
    run, loaded, team = job.run, job.loaded, job.team
    continued = team.first_does(lambda: resume and (run.folder / "config.yaml").is_file())
    recipe = _begun_with(job) if continued else job.recipe
    training = ready(job.images, job.split, loaded, recipe, job.teacher, job.cache_dir, job.emit)
    trainee = training.trainee
    if not continued:
        recipe = resolved(training, recipe, team, job.emit)
        team.first_does(lambda: _write_start(job, recipe))
    trainable = sum(p.numel() for p in trainee.module.parameters() if p.requires_grad)

    def keep_snapshot(step: int, module: nn.Module) -> None:
        save_weights(run.snapshot_path(step), settled_state(loaded, trainee, module), loaded.name)

    def keep_bad(batch: Batch) -> Path:
        return keep_batch(run.bad_batch_path, batch, [job.images.ids[int(row)] for row in batch.rows])

    outcome = run_loop(
        training,
        recipe,
        team,
        states=States(run.folder),
        resume=resume,
        on_event=job.emit,
        on_row=run.append_metrics,
        on_resume=run.truncate_metrics,
        on_snapshot=keep_snapshot,
        keep_batch=keep_bad,
        interrupts=interrupts,
    )
    settle(loaded, trainee.task)
    progress = outcome.progress
    images_seen = progress.step * recipe.batch_size
    return lambda: Fitted(
        val=predict_set(loaded, job.images, job.split.val),
        test=predict_set(loaded, job.images, job.split.test),
        images_seen=images_seen,
        seconds=progress.seconds,
        trainable_parameters=trainable,
        passes=images_seen * PASSES[recipe.method],
        further_flops=trainee.further_flops(images_seen),
        extra={
            "steps": progress.step,
            "best_step": progress.best_step,
            "stopped_early": outcome.stopped_early,
        },
    )


def _solve(job: Job) -> Fitted:
    """Solve a head on cached features: no loop, nothing to resume but the cache."""
    recipe, loaded = job.recipe, job.loaded
    job.run.truncate_metrics(-1)
    _write_start(job, recipe)
    views = tuple(range(recipe.views))
    done = fit_head(
        loaded,
        job.images,
        job.split,
        job.cache_dir,
        views=views,
        precision="fp32" if recipe.deterministic else recipe.precision,
        on_event=job.emit,
        head=recipe.head,
        balance=recipe.balance,
    )
    test = head_predictions(loaded, job.images, job.split.test, done.cache, precision=done.precision, on_event=job.emit)
    row = {"step": 1, "images": len(views) * done.train_images}
    row |= {f"val/{name}": value for name, value in done.best.metrics.items()}
    job.run.append_metrics(row | {"seconds": round(done.feature_seconds + done.solve_seconds, 3)})
    head = loaded.model.get_submodule(loaded.head)
    return Fitted(
        val=done.val,
        test=test,
        images_seen=len(views) * done.train_images,
        seconds=done.feature_seconds + done.solve_seconds,
        trainable_parameters=sum(parameter.numel() for parameter in head.parameters()),
        passes=len(views) * done.train_images * PASSES["head"],
        extra={
            "head": done.best.settings,
            "grid": [{**point.settings, **point.metrics} for point in done.grid],
            "precision": done.precision,
        },
    )


# Start


def _begun_with(job: Job) -> Recipe:
    """The resolved recipe of an interrupted run, whose arguments must be those given now."""
    begun = Recipe.from_config(job.run.config["recipe"])
    now = job.recipe.measured_as(begun).to_config()
    before = begun.to_config()
    changed = [f"{name} was {before[name]!r}, is {now[name]!r}" for name in now if now[name] != before[name]]
    if job.run.config["model"] != job.loaded.name:
        changed.insert(0, f"model was {job.run.config['model']!r}, is {job.loaded.name!r}")
    stored = read_split(job.run.split_path, job.images)
    if any(not np.array_equal(getattr(stored, part), getattr(job.split, part)) for part in ("train", "val", "test")):
        changed.append("the split differs from split.csv")
    taught = job.run.config.get("distillation", {})  # the source may have been named otherwise
    if {**taught, "source": None} != {**_distillation(job), "source": None}:
        changed.append("the teacher, or how it teaches, was another")
    if changed:
        raise RegardError(
            f"{job.run.folder}: --resume needs what it began with ({'; '.join(changed)}); use another --out"
        )
    return begun


def _write_start(job: Job, recipe: Recipe) -> None:
    """Everything that is known before step 0; config.yaml last, since it marks the folder as a run."""
    loaded = job.loaded
    try:
        write_split(job.run.split_path, job.images, job.split)
        used = np.concatenate([job.split.train, job.split.val, job.split.test])
        write_contents(job.run.contents_path, contents(job.images, used))
    except OSError as error:
        raise RegardError(
            f"{job.run.folder}: cannot be written to ({error.strerror}); make room, then use --resume"
        ) from None
    job.run.write_classes(tuple(loaded.classes))
    job.run.write_environment(environment())
    if recipe.solved and recipe.head == "knn":
        text = (
            "the head knn keeps the features of the training images in the run; timm has no such layer: no config.json"
        )
        job.emit({"event": "note", "text": text})
    elif (config := _timm_config(loaded)) is not None:
        job.run.write_timm_config(config)
    job.run.write_config(
        {
            "version": 1,
            "model": loaded.name,
            "method": recipe.method,
            "data": job.images.name,
            "source": {"data": job.images.origin, **loaded.source},
            "problem": job.images.problem,
            "target": list(job.opened.get("target", ())),
            "group": job.opened.get("group"),
            "slices": list(job.opened.get("slices", ())),
            "boxes": job.images.boxes,
            "fraction": job.fraction,
            "train_images": len(job.split.train),
            "notes": list(job.split.notes),
            "img_size": loaded.preprocess.size,
            "num_classes": len(loaded.classes),
            "pretraining": loaded.pretraining,
            "preprocess": loaded.preprocess.to_config(),
            "recipe": recipe.to_config(),
            **({"distillation": _distillation(job)} if job.teacher else {}),
            "threads": torch.get_num_threads(),
        }
    )


def _distillation(job: Job) -> dict[str, Any]:
    return job.teacher.to_config() if job.teacher is not None else {}


def _timm_config(loaded: LoadedModel) -> dict[str, Any] | None:
    """timm's config.json, by which `timm.create_model("local-dir:RUN", pretrained=True)` rebuilds the
    model.
    """
    reference = timm_reference(loaded.spec, loaded.preprocess.size) if loaded.spec is not None else None
    if reference is not None:
        architecture, arguments = reference
    elif loaded.name.startswith("timm:"):
        architecture, arguments = loaded.name.removeprefix("timm:"), {}
    else:
        return None
    classes = len(loaded.classes)
    return {
        "architecture": architecture,
        "num_classes": classes,
        "model_args": {**arguments, "num_classes": classes},
        "label_names": list(loaded.classes),
        "pretrained_cfg": {
            **loaded.preprocess.to_config(),
            "num_classes": classes,
            "label_names": list(loaded.classes),
        },
    }


# End


def _finish(job: Job, fitted: Fitted, deterministic: bool) -> None:
    """Weights, answers, cost; result.json last."""
    loaded = job.loaded
    loaded.temperature = fit_temperature(fitted.val)
    loaded.unsure_below = unsure_threshold(fitted.val, loaded.temperature)
    if fitted.val.problem == "multi_label":
        loaded.thresholds = fit_thresholds(fitted.val, loaded.temperature)
    save_weights(job.run.weights_path, loaded.model.state_dict(), loaded.name)
    job.run.write_predictions({"val": fitted.val, "test": fitted.test}, job.recipe.seed, job.fraction)
    job.run.write_result(
        {
            "model": loaded.name,
            "method": job.recipe.method,
            "seed": job.recipe.seed,
            "fraction": job.fraction,
            "fold": job.fold,
            "problem": fitted.test.problem,
            "train_images": len(job.split.train),
            "images_seen": fitted.images_seen,
            "temperature": loaded.temperature,
            "unsure_below": loaded.unsure_below,
            "thresholds": list(loaded.thresholds),
            "pretraining": loaded.pretraining,
            "deterministic": deterministic,
            **fitted.extra,
        },
        _cost(loaded, fitted),
    )
    shutil.rmtree(States(job.run.folder).previous, ignore_errors=True)  # a finished run needs no second state


def save_weights(path: Path, state: Mapping[str, Tensor], architecture: str) -> None:
    """Write weights with the name of their model; RegardError where the disk refuses."""
    try:
        path.parent.mkdir(exist_ok=True)
        save_state(path, state, {"architecture": architecture})
    except (OSError, SafetensorError) as error:
        raise RegardError(
            f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}); make room, then use --resume"
        ) from None


def _cost(loaded: LoadedModel, fitted: Fitted) -> Cost:
    peak = peak_memory_mb()
    size = loaded.preprocess.size
    gmacs = count_gmacs(loaded.model, size)
    images_per_second, latency_ms = inference_speed(loaded.model, size)
    return Cost(
        parameters=count_parameters(loaded.model),
        trainable_parameters=fitted.trainable_parameters,
        gmacs=gmacs,
        peak_memory_mb=peak,
        images_per_second=images_per_second,
        latency_ms=latency_ms,
        train_seconds=fitted.seconds,
        train_flops=2e9 * gmacs * fitted.passes + fitted.further_flops,
    )


@contextmanager
def _deterministic(on: bool) -> Iterator[None]:
    """torch raises, by name, at an operation that has no deterministic form; switched back afterwards."""
    if not on:
        yield
        return
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(islice(names, 5))
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 5 else ''})"
