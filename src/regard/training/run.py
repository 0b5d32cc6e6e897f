"""From images, a split, a model and a recipe to a finished run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError

from regard.data.loader import Batch
from regard.data.splits import Split, read_split, write_split
from regard.errors import RegardError
from regard.evaluation.calibration import fit_temperature, unsure_threshold
from regard.evaluation.metrics import ClassificationEvaluator
from regard.inference.features import default_cache
from regard.inference.loaded import LoadedModel
from regard.models import count_gmacs, count_parameters, timm_reference
from regard.results import Cost, Predictions
from regard.runs.run import Run
from regard.training.classification import (
    Trainee,
    predict_set,
    prepare,
    training_batches,
    validation_answers,
)
from regard.training.cost import inference_speed, peak_memory_mb, reset_peak_memory
from regard.training.environment import environment
from regard.training.interrupts import Interrupts
from regard.training.loop import Event, Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.precision import choose_precision, measure_steps
from regard.training.recipe import Recipe
from regard.training.state import States
from regard.weights.save import save_state

if TYPE_CHECKING:
    from regard.data.sources import ImageSet

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Job:
    """One run: what is trained on what, and who is told."""

    run: Run
    images: ImageSet
    split: Split
    loaded: LoadedModel
    recipe: Recipe
    fraction: float
    cache_dir: Path
    emit: OnEvent


@dataclass(frozen=True)
class Fitted:
    """What training a model gave, besides the weights in it."""

    val: Predictions
    test: Predictions
    images_seen: int
    seconds: float
    trainable_parameters: int
    passes: float  # forward passes of one image that the training cost; a backward pass counts as two
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
    cache_dir: str | Path | None = None,
) -> Run:
    """Train `loaded` on the train rows of `split` by `recipe`, and write everything that a run folder holds.

    The validation rows choose the weights, the temperature and the threshold; the test rows are answered
    once, at the end. `loaded` is trained in place: afterwards it answers with the saved weights. For
    "scratch" and "finetune" a registered model is made anew by the recipe's seed (its initialisation or its
    new head). `fraction` is recorded only: the caller has taken it. A finished run is returned as it is; one
    that was interrupted continues with `resume`, under the choices measured at its start. SIGTERM and SIGINT
    save and raise `Stopped` (exit code 143 or 130). Raises RegardError, and leaves nothing half-written.
    """
    if resume and run.finished:
        return run
    emit = on_event or (lambda event: None)
    if tuple(loaded.classes) != tuple(images.classes):
        raise RegardError(f"{loaded.name}: answers {_some(loaded.classes)}, but the images are {_some(images.classes)}")
    for name in ("train", "val", "test"):
        if not len(getattr(split, name)):
            raise RegardError(f"{images.name}: no {name} images in the split; give more images or another split")
    job = Job(run, images, split, loaded, recipe, fraction, Path(cache_dir or default_cache()), emit)
    reset_peak_memory()
    with Interrupts() as interrupts, _deterministic(recipe.deterministic):
        solved = recipe.method == "head" and recipe.head == "linear"
        fitted = _solve(job) if solved else _fit(job, resume, interrupts)
        _finish(job, fitted, deterministic=solved)
        interrupts.check()
    return run


def _fit(job: Job, resume: bool, interrupts: Interrupts) -> Fitted:
    """Train by the loop."""
    loaded, n_train = job.loaded, len(job.split.train)
    continued = resume and (job.run.folder / "config.yaml").is_file()
    recipe = _begun_with(job) if continued else job.recipe
    trainee = prepare(loaded, recipe)
    batches = training_batches(job.images, job.split.train, loaded, recipe)
    if not continued:
        recipe = _resolved(job, recipe, trainee, batches.from_step(0))
        _write_start(job, recipe)
    steps = recipe.length(n_train)
    assert steps is not None
    assert recipe.precision != "auto"
    groups = parameter_groups(trainee.module, recipe.lr, recipe.weight_decay, recipe.layer_decay)
    plan = Plan(
        steps=steps,
        images_per_step=recipe.batch_size,
        warmup=round(recipe.warmup * steps),
        accumulation=recipe.accumulation,
        clip_norm=recipe.clip_norm,
        ema=recipe.ema,
        precision=recipe.precision,
        seed=recipe.seed,
        evaluate_every=-(-steps // recipe.evaluations),
        watch=f"val/{recipe.watch}",
        lower_is_better=recipe.watch == "nll",
        patience=recipe.patience,
    )
    answers = validation_answers(job.images, job.split.val, loaded, trainee)

    def name_batch(batch: Batch) -> str:
        names = [job.images.ids[row] for row in batch.rows]
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

    outcome = fit(
        trainee.module,
        batches.from_step,
        trainee.loss,
        make_optimiser(recipe.optimiser, groups, recipe.lr),
        plan,
        evaluators=[ClassificationEvaluator(answers, "val/")],
        states=States(job.run.folder),
        resume=resume,
        on_event=job.emit,
        on_row=job.run.append_metrics,
        on_resume=job.run.truncate_metrics,
        name_batch=name_batch,
        interrupts=interrupts,
    )
    progress = outcome.progress
    images_seen = progress.step * recipe.batch_size
    return Fitted(
        val=predict_set(loaded, job.images, job.split.val),
        test=predict_set(loaded, job.images, job.split.test),
        images_seen=images_seen,
        seconds=progress.seconds,
        trainable_parameters=sum(p.numel() for p in trainee.module.parameters() if p.requires_grad),
        passes=images_seen * (1 if recipe.method == "head" else 3),
        extra={
            "steps": progress.step,
            "best_step": progress.best_step,
            "stopped_early": outcome.stopped_early,
        },
    )


def _solve(job: Job) -> Fitted:
    """Solve a linear head on cached features: no loop, nothing to resume but the cache."""
    from regard.training.heads import fit_head, head_predictions

    job.run.truncate_metrics(-1)
    _write_start(job, job.recipe)
    views = tuple(range(job.recipe.views))
    precision = "fp32" if job.recipe.deterministic else job.recipe.precision
    done = fit_head(
        job.loaded, job.images, job.split, job.cache_dir, views=views, precision=precision, on_event=job.emit
    )
    test = head_predictions(
        job.loaded, job.images, job.split.test, job.cache_dir, precision=done.precision, on_event=job.emit
    )
    best = next(point for point in done.grid if point.strength == done.strength)
    row = {"step": 1, "images": len(views) * done.train_images, "val/top1": best.top1, "val/nll": best.nll}
    job.run.append_metrics(row | {"seconds": round(done.feature_seconds + done.solve_seconds, 3)})
    linear = job.loaded.model.get_submodule(job.loaded.head)
    grid = [{"strength": p.strength, "top1": p.top1, "nll": p.nll} for p in done.grid]
    return Fitted(
        val=done.val,
        test=test,
        images_seen=len(views) * done.train_images,
        seconds=done.feature_seconds + done.solve_seconds,
        trainable_parameters=sum(parameter.numel() for parameter in linear.parameters()),
        passes=len(views) * done.train_images,
        extra={"strength": done.strength, "grid": grid, "precision": done.precision},
    )


# Start


def _resolved(job: Job, recipe: Recipe, trainee: Trainee, batches: Iterator[Batch]) -> Recipe:
    """The recipe with precision and steps fixed; what has to be measured is measured on a copy of the
    model.
    """
    if recipe.precision == "auto" and recipe.deterministic:
        recipe = replace(recipe, precision="fp32")
    steps = recipe.length(len(job.split.train))
    if recipe.precision != "auto" and steps is not None:
        return replace(recipe, steps=steps)
    wanted: tuple[Literal["fp32", "bf16"], ...] = (
        ("fp32", "bf16") if recipe.precision == "auto" else (recipe.precision,)
    )
    # A measurement is worth a hundredth or so of the run; below some 50 steps there is nothing to gain.
    if steps is not None and steps < 50:
        return replace(recipe, precision="fp32", steps=steps)
    job.emit({"event": "note", "text": f"measuring the step of {job.loaded.name} before the first one"})
    seconds = measure_steps(trainee.module, batches, trainee.loss, wanted, recipe.accumulation)
    precision = choose_precision(seconds) if recipe.precision == "auto" else recipe.precision
    if steps is None:
        assert recipe.minutes is not None
        # Validation costs a forward pass, a third of a step, for each of its images at each evaluation.
        validation = recipe.evaluations * len(job.split.val) / recipe.batch_size * seconds[precision] / 3
        steps = max(1, int((60 * recipe.minutes - validation) / seconds[precision]))
    speed = recipe.batch_size / seconds[precision]
    job.emit(
        {
            "event": "note",
            "text": f"{precision}, {speed:.0f} images/s, {steps} steps of {recipe.batch_size} images",
        }
    )
    return replace(recipe, precision=precision, steps=steps)


def _begun_with(job: Job) -> Recipe:
    """The resolved recipe of an interrupted run, whose arguments must be those given now."""
    begun = Recipe.from_config(job.run.config["recipe"])
    now = replace(job.recipe, steps=begun.steps, precision=begun.precision).to_config()
    before = begun.to_config()
    changed = [f"{name} was {before[name]!r}, is {now[name]!r}" for name in now if now[name] != before[name]]
    if job.run.config["model"] != job.loaded.name:
        changed.insert(0, f"model was {job.run.config['model']!r}, is {job.loaded.name!r}")
    stored = read_split(job.run.split_path, job.images)
    if any(not np.array_equal(getattr(stored, part), getattr(job.split, part)) for part in ("train", "val", "test")):
        changed.append("the split differs from split.csv")
    if changed:
        raise RegardError(
            f"{job.run.folder}: --resume needs what it began with ({'; '.join(changed)}); use another --out"
        )
    return begun


def _write_start(job: Job, recipe: Recipe) -> None:
    """Everything that is known before step 0; config.yaml last, since it marks the folder as a run."""
    loaded = job.loaded
    write_split(job.run.split_path, job.images, job.split)
    job.run.write_classes(tuple(loaded.classes))
    job.run.write_environment(environment())
    if (config := _timm_config(loaded)) is not None:
        job.run.write_timm_config(config)
    job.run.write_config(
        {
            "version": 1,
            "model": loaded.name,
            "method": recipe.method,
            "data": job.images.name,
            "fraction": job.fraction,
            "train_images": len(job.split.train),
            "notes": list(job.split.notes),
            "img_size": loaded.preprocess.size,
            "num_classes": len(loaded.classes),
            "pretraining": loaded.pretraining,
            "preprocess": loaded.preprocess.to_config(),
            "recipe": recipe.to_config(),
            "threads": torch.get_num_threads(),
        }
    )


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
    try:
        save_state(job.run.weights_path, loaded.model.state_dict(), {"architecture": loaded.name})
    except (OSError, SafetensorError) as error:
        raise RegardError(
            f"{job.run.weights_path}: cannot be written ({getattr(error, 'strerror', None) or error}); "
            "make room, then use --resume"
        ) from None
    job.run.write_predictions({"val": fitted.val, "test": fitted.test}, job.recipe.seed, job.fraction)
    job.run.write_result(
        {
            "model": loaded.name,
            "method": job.recipe.method,
            "seed": job.recipe.seed,
            "fraction": job.fraction,
            "train_images": len(job.split.train),
            "images_seen": fitted.images_seen,
            "temperature": loaded.temperature,
            "unsure_below": loaded.unsure_below,
            "pretraining": loaded.pretraining,
            "deterministic": deterministic,
            **fitted.extra,
        },
        _cost(loaded, fitted),
    )
    shutil.rmtree(States(job.run.folder).previous, ignore_errors=True)  # a finished run needs no second state


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
        train_flops=2e9 * gmacs * fitted.passes,
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
