"""`regard train`: one model on one folder of labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from regard.verbs.command import command_line
from regard.verbs.events import OnEvent, silent
from regard.verbs.prepare import OnBadImage, load_for, mirrored, prepare

if TYPE_CHECKING:
    from torch import nn

    from regard.inference.loaded import LoadedModel
    from regard.runs.run import Run


def train(
    data: str | Path,
    *,
    model: str | LoadedModel | nn.Module,
    out: str | Path,
    method: Literal["head", "finetune", "scratch"] = "head",
    head: Literal["linear", "sgd"] = "linear",
    weights: str | Path | None = None,
    img_size: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    images_seen: int | None = None,
    batch_size: int | None = None,
    accumulation: int | None = None,
    optimiser: Literal["adamw", "sgd"] | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    warmup: float | None = None,
    layer_decay: float | None = None,
    clip_norm: float | None = None,
    ema: float | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
    label_smoothing: float | None = None,
    mixup: float | None = None,
    cutmix: float | None = None,
    randaugment: tuple[float, float] | None = None,
    erasing: float | None = None,
    crop: Literal["resized", "pad", "centre"] | None = None,
    flip: Literal["yes", "no"] | None = None,
    views: int | None = None,
    watch: Literal["top1", "nll"] | None = None,
    evaluations: int | None = None,
    patience: int | None = None,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    deterministic: bool = False,
    seed: int = 0,
    keep_leaks: bool = False,
    on_bad_image: OnBadImage = "skip",
    max_bad: float = 0.01,
    force: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    on_event: OnEvent = silent,
) -> Run:
    """Train a classifier on a folder of labelled images.

    The data are checked first (`regard check`). Nothing but --model and --out is needed: the split, the preprocessing
    and the recipe follow from the data and the model, and are written to the run folder with the weights, the answers
    and a report. What is left out below is decided by the recipe of the model's family and the amount of data.

    Args:
        data: class folders (with or without train/val/test), a CSV or Parquet table (path, label),
            torchvision:NAME, or digits
        model: a name, a name with a weights tag, timm:NAME, or a run folder to go on from
        out: run folder to make
        method: head trains a linear layer on frozen features, finetune trains everything from published weights,
            scratch everything from nothing
        head: for the head method, linear solves it on cached features, sgd trains it over epochs of augmented views
        weights: weights file to use in place of a download
        img_size: side of the square that the model sees, in pixels
        epochs: passes over the training images
        minutes: time to train, in place of epochs
        images_seen: training images drawn, repeats counted, in place of epochs
        batch_size: images per step
        accumulation: parts in which a batch passes through the model, to save memory
        optimiser: adamw or sgd with momentum
        lr: highest learning rate
        weight_decay: not applied to norms, biases, positions and class token
        warmup: share of the steps in which the learning rate rises
        layer_decay: learning rate of a block divided by that of the block above
        clip_norm: largest norm of the gradient
        ema: decay of the average of the weights that is evaluated and saved
        dropout: dropout inside the model
        drop_path: stochastic depth of the last block
        label_smoothing: share of the target spread over all classes
        mixup: alpha of MixUp
        cutmix: alpha of CutMix
        randaugment: number of operations and magnitude from 0 to 10
        erasing: probability that a rectangle of an image becomes noise
        crop: a random part of the image, a shift, or the centre
        flip: mirror half of the training images
        views: for head linear, 1 uses each image, 2 its mirror too
        watch: validation metric that chooses the saved weights
        evaluations: evaluations on the validation images during training
        patience: stop after so many evaluations without improvement
        precision: auto takes bfloat16 where a short measurement finds it faster
        deterministic: the same bits each time, no choices by measuring
        seed: redraws initialisation, order, augmentation and the validation cut
        keep_leaks: score test images that have a near-duplicate in train or val too
        on_bad_image: skip leaves unreadable files out by name, error stops at the first
        max_bad: share of unreadable files above which training is refused
        force: allow models with fewer than 16 patches
        resume: continue the run in --out
        overwrite: replace the run in --out
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    command = command_line(train, locals())

    from regard.comparison.compare import candidates
    from regard.comparison.details import Story, report_data
    from regard.reporting import write_report
    from regard.runs.run import Run
    from regard.training.recipe import recipe_for, warnings
    from regard.training.run import train_run

    run = Run.resume(out) if resume else Run.create(out, overwrite=overwrite)
    prepared = prepare(data, max_bad=max_bad, on_bad_image=on_bad_image, keep_leaks=keep_leaks, on_event=on_event)
    split = prepared.split(seed)
    for note in split.notes:
        on_event({"event": "note", "text": note})
    loaded = load_for(model, method, prepared.images.classes, on_event, weights=weights, img_size=img_size, force=force)
    given = {
        "epochs": epochs,
        "minutes": minutes,
        "images_seen": images_seen,
        "batch_size": batch_size,
        "accumulation": accumulation,
        "optimiser": optimiser,
        "lr": lr,
        "weight_decay": weight_decay,
        "warmup": warmup,
        "layer_decay": layer_decay,
        "clip_norm": clip_norm,
        "ema": ema,
        "dropout": dropout,
        "drop_path": drop_path,
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "cutmix": cutmix,
        "randaugment": randaugment,
        "erasing": erasing,
        "crop": crop,
        "flip": mirrored(prepared.images) if flip is None else flip == "yes",
        "views": views,
        "watch": watch,
        "evaluations": evaluations,
        "patience": patience,
        "precision": precision,
    }
    size = loaded.preprocess.size
    recipe = recipe_for(loaded.spec, method, len(split.train), size, images_seen, head).with_overrides(
        {name: value for name, value in given.items() if value is not None}
        | {"seed": seed, "deterministic": deterministic}
    )
    if loaded.spec is not None:
        for line in warnings(recipe, loaded.spec, size, len(split.train)):
            on_event({"event": "warning", "text": line})
    train_run(run, prepared.images, split, loaded, recipe, on_event=on_event, resume=resume)
    result = run.result()
    story = Story(
        title=prepared.images.name,
        command=command,
        check=prepared.checked,
        protocol=split.notes,
        environment={name: str(value) for name, value in run.environment.items()},
    )
    write_report(report_data(story, candidates([result]), [result], (), prepared.images), run.folder / "report.html")
    return run
