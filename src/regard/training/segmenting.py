"""From images with masks and a SAM to a finished run folder, by the one loop.

What differs from the paper's training (arXiv 2304.02643, appendix A), beside its length: a few rounds in place of
eleven, each with a new point; all images of a step begin with a point, or all, more rarely, with a box; masks are
compared with the truth at the resolution of their logits.
"""

from __future__ import annotations

import copy
import csv
import io
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from regard.data.contents import contents, write_contents
from regard.data.mask_sets import MaskSet
from regard.data.splits import Split, read_split, write_split
from regard.errors import RegardError
from regard.models import count_parameters
from regard.models.sam import SAM
from regard.results import Cost
from regard.runs.atomic import write_atomic
from regard.runs.run import Run
from regard.segmentation.segmenter import Segmenter
from regard.training.agreement import Agreement, Quick, agreement
from regard.training.click_batches import ClickBatches
from regard.training.clicks import click_loss
from regard.training.cost import peak_memory_mb, reset_peak_memory
from regard.training.environment import environment
from regard.training.interrupts import Interrupts
from regard.training.loop import Event, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.precision import measure_steps
from regard.training.recipe import Recipe
from regard.training.run import save_weights
from regard.training.state import Progress, States

OnEvent = Callable[[Event], None]
Tune = Literal["decoder", "all"]
WATCH = "val/click_iou"
MOST_VAL = 200  # validation images that choose the weights


@dataclass(frozen=True)
class Clicks:
    """What belongs to a recipe for masks only.

    tune: decoder leaves the image encoder as it is, so that an image is embedded once; objects: of each image in a
    batch; rounds: prompts in a row for each.
    """

    tune: Tune = "all"
    objects: int = 8
    rounds: int = 3

    def __post_init__(self) -> None:
        for name, low, high in (("objects", 1, 64), ("rounds", 1, 11)):
            if not low <= getattr(self, name) <= high:
                raise RegardError(f"--{name} {getattr(self, name)}: expected {low} to {high}")


def recipe_for_masks(tune: Tune, fresh: bool, train_images: int) -> Recipe:
    """A sensible recipe: from nothing, or from weights that know how to segment."""
    if fresh:
        return Recipe(
            method="scratch", epochs=_epochs(train_images, 60_000), batch_size=2, lr=1.2e-3, weight_decay=0.05,
            warmup=0.05, layer_decay=0.3, precision="fp32", evaluations=10,
        )  # fmt: skip
    lr, decay = (1e-4, 1.0) if tune == "decoder" else (2e-5, 0.8)
    return Recipe(
        method="finetune", epochs=_epochs(train_images, 2_000), batch_size=4, lr=lr, weight_decay=0.01, warmup=0.1,
        layer_decay=decay, precision="fp32", evaluations=10,
    )  # fmt: skip


def _epochs(images: int, seen: int) -> float:
    return float(min(100, max(1, round(seen / max(images, 1)))))


@dataclass(frozen=True)
class SegmentJob:
    """One run: what is trained on what, and who is told. fresh: the model begins with nothing."""

    run: Run
    masks: MaskSet
    split: Split
    segmenter: Segmenter
    recipe: Recipe
    how: Clicks
    source: dict[str, str | None]
    emit: OnEvent

    @property
    def module(self) -> SAM:
        """What is trained, as a model of its own: for the decoder alone, one to which embeddings are images."""
        model = self.segmenter.model
        model.requires_grad_(True)
        if self.how.tune == "all":
            return model
        model.image_encoder.requires_grad_(False)
        alone = copy.copy(model)
        alone._modules = {**model._modules, "image_encoder": nn.Identity()}
        return alone


@dataclass(frozen=True)
class Segmented:
    """A finished training: how well the held-out objects were found before and after."""

    before: Agreement
    after: Agreement


def train_segmenter(job: SegmentJob, resume: bool = False) -> Segmented:
    """Train the job's model in place on the train rows by its recipe, and write the run folder.

    The validation rows choose the weights, by the IoU from one click; the test rows are answered before and after.
    Interrupted, it continues with `resume`, bit by bit. Raises RegardError, and leaves nothing half-written.
    """
    run, masks, split, segmenter = job.run, job.masks, job.split, job.segmenter
    for name in ("train", "val", "test"):
        if not len(getattr(split, name)):
            raise RegardError(f"{masks.images.name}: no {name} images in the split; give more images or another split")
    reset_peak_memory()
    module = job.module
    continued = resume and (run.folder / "config.yaml").is_file()
    recipe = _begun_with(job) if continued else job.recipe
    batches = ClickBatches(
        masks,
        split.train,
        segmenter,
        batch_size=recipe.batch_size,
        objects=job.how.objects,
        rounds=job.how.rounds,
        seed=recipe.seed,
        flip=recipe.flip,
        embedded=job.how.tune == "decoder",
    )
    quick = Quick(batches, split.val[:MOST_VAL])
    before = _judge(job, "before training")
    if not continued:
        recipe = _resolved(job, module, batches, quick)
        _write_start(job, recipe)
    with Interrupts() as interrupts:
        outcome = fit(
            module,
            batches.from_step,
            click_loss,
            make_optimiser(
                recipe.optimiser,
                parameter_groups(module, recipe.lr, recipe.weight_decay, recipe.layer_decay),
                recipe.lr,
            ),
            recipe.plan(WATCH),
            evaluators=[quick],
            states=States(run.folder),
            resume=resume,
            on_event=job.emit,
            on_row=run.append_metrics,
            on_resume=run.truncate_metrics,
            name_batch=lambda batch: ", ".join(masks.images.ids[int(row)] for row in batch.rows),
            interrupts=interrupts,
        )
        segmenter.model.eval()
        done = Segmented(before, _judge(job, "after training"))
        _finish(job, recipe, done, outcome.progress)
        interrupts.check()
    return done


# start


def _judge(job: SegmentJob, when: str) -> Agreement:
    rows = job.split.test

    def told(done: int) -> None:
        job.emit({"event": "progress", "title": f"held-out images, {when}", "done": done, "total": len(rows)})

    found = agreement(job.segmenter, job.masks, rows, told)
    means = found.means
    text = f"{when}, {len(found.found):,} held-out objects: mean IoU {means['click'].value:.3f} from one click, "
    job.emit({"event": "note", "text": text + f"{means['box'].value:.3f} from the box"})
    return found


def _resolved(job: SegmentJob, module: SAM, batches: ClickBatches, quick: Quick) -> Recipe:
    """The recipe with its precision and its number of steps; what has to be measured is, on a copy of the model."""
    recipe = job.recipe if job.recipe.precision != "auto" else replace(job.recipe, precision="fp32")
    steps = recipe.length(len(job.split.train))
    if steps is None:
        assert recipe.precision != "auto"
        job.emit({"event": "note", "text": f"measuring the step of {job.segmenter.name} before the first one"})
        stream: Iterator[Any] = batches.from_step()
        asked = (recipe.precision,)
        taken = measure_steps(module, stream, click_loss, asked, recipe.accumulation, least=recipe.measuring)
        seconds = taken[recipe.precision]
        recipe = recipe.timed(seconds, _seconds(quick, module))
        steps = recipe.steps
        text = f"{recipe.batch_size / seconds:.1f} images/s, {steps} steps of {recipe.batch_size} images"
        job.emit({"event": "note", "text": text})
    return replace(recipe, steps=steps)


def _seconds(quick: Quick, module: SAM) -> float:
    """Of an evaluation but the first, which also draws the prompts."""
    with torch.no_grad():
        list(quick(module.eval()))
    began = time.perf_counter()
    with torch.no_grad():
        list(quick(module.eval()))
    return time.perf_counter() - began


def _begun_with(job: SegmentJob) -> Recipe:
    """The resolved recipe of an interrupted run, whose arguments must be those given now."""
    config = job.run.config
    begun = Recipe.from_config(config["recipe"])
    now = job.recipe.measured_as(begun).to_config()
    before = begun.to_config()
    changed = [f"{name} was {before[name]!r}, is {now[name]!r}" for name in now if now[name] != before[name]]
    for name, value in (("model", job.segmenter.name), ("segment", asdict(job.how))):
        if config[name] != value:
            changed.append(f"{name} was {config[name]!r}, is {value!r}")
    stored = read_split(job.run.split_path, job.masks.images)
    if any(not np.array_equal(getattr(stored, part), getattr(job.split, part)) for part in ("train", "val", "test")):
        changed.append("the split differs from split.csv")
    if changed:
        raise RegardError(
            f"{job.run.folder}: --resume needs what it began with ({'; '.join(changed)}); use another --out"
        )
    return begun


def _write_start(job: SegmentJob, recipe: Recipe) -> None:
    """Everything that is known before step 0; config.yaml last, since it marks the folder as a run."""
    run, images = job.run, job.masks.images
    try:
        write_split(run.split_path, images, job.split)
        used = np.concatenate([job.split.train, job.split.val, job.split.test])
        write_contents(run.contents_path, contents(images, used))
    except OSError as error:
        raise RegardError(
            f"{run.folder}: cannot be written to ({error.strerror}); make room, then use --resume"
        ) from None
    run.write_environment(environment())
    run.write_config(
        {
            "version": 1,
            "task": "segment",
            "model": job.segmenter.name,
            "method": recipe.method,
            "data": images.name,
            "source": {"data": images.origin, **job.source},
            "train_images": len(job.split.train),
            "notes": [*images.notes, *job.split.notes],
            "img_size": job.segmenter.model.img_size,
            "segment": asdict(job.how),
            "recipe": recipe.to_config(),
            "threads": torch.get_num_threads(),
        }
    )


# end


def _finish(job: SegmentJob, recipe: Recipe, done: Segmented, progress: Progress) -> None:
    """Weights, what each held-out object was found as, cost; result.json last."""
    run, model = job.run, job.segmenter.model
    save_weights(run.weights_path, model.state_dict(), job.segmenter.name)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for when, found in (("before", done.before), ("after", done.after)):
        names, *rows = found.rows()
        writer.writerows([["when", *names]] if when == "before" else [])
        writer.writerows([when, *row] for row in rows)
    write_atomic(run.folder / "masks.csv", text.getvalue())
    trained = job.module.parameters()
    run.write_result(
        {
            "task": "segment",
            "model": job.segmenter.name,
            "method": recipe.method,
            "seed": recipe.seed,
            "train_images": len(job.split.train),
            "images_seen": progress.step * recipe.batch_size,
            "steps": progress.step,
            "best_step": progress.best_step,
            "objects": len(done.after.found),
            "before": {name: list(metric) for name, metric in done.before.means.items()},
            "after": {name: list(metric) for name, metric in done.after.means.items()},
        },
        Cost(
            parameters=count_parameters(model),
            trainable_parameters=sum(one.numel() for one in trained if one.requires_grad),
            peak_memory_mb=peak_memory_mb(),
            train_seconds=progress.seconds,
        ),
    )
    shutil.rmtree(States(run.folder).previous, ignore_errors=True)  # a finished run needs no second state
