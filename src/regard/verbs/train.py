"""`regard train`: one model on one folder of labelled images, or of images with masks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.results import ProblemChoice
from regard.verbs.command import command_line
from regard.verbs.events import OnEvent, silent
from regard.verbs.folders import no_empty_folder
from regard.verbs.prepare import OnBadImage, Prepared, load_aloud, load_for, prepare, recipe_of, recipe_options

if TYPE_CHECKING:
    from torch import nn

    from regard.inference.loaded import LoadedModel
    from regard.runs.run import Run


def train(
    data: str | Path,
    *,
    model: str | LoadedModel | nn.Module,
    out: str | Path,
    task: Literal["classify", "segment"] = "classify",
    tune: Literal["decoder", "all"] | None = None,
    objects: int = 8,
    rounds: int = 3,
    target: tuple[str, ...] = (),
    problem: ProblemChoice = "auto",
    group: str | None = None,
    slices: tuple[str, ...] = (),
    method: Literal["head", "finetune", "scratch", "lora"] = "head",
    head: Literal["linear", "sgd", "knn", "svm"] = "linear",
    lora_rank: int | None = None,
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
    repeated_augmentation: int | None = None,
    balance: Literal["none", "loss", "sampler"] = "none",
    views: int | None = None,
    watch: Literal["top1", "nll", "map", "mae"] | None = None,
    evaluations: int | None = None,
    patience: int | None = None,
    trials: int = 0,
    snapshots: int = 0,
    track: Literal["tensorboard"] | None = None,
    unknown: str | Path | None = None,
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

    With --task segment, a segmenter on images with masks: the report has mean and boundary IoU of held-out objects
    before and after. A table may also give several labels a photo, numbers, or boxes. The data are checked first
    (`regard check`).
    Nothing but --model and --out is needed: the split, the preprocessing and the recipe follow from the data and the
    model, and are written to the run folder with the weights, the answers and a report. What is left out below is
    decided by the recipe of the model's family and the amount of data.

    Args:
        data: class folders (with or without train/val/test), a CSV or Parquet table (path, label columns),
            torchvision:NAME, or digits; to segment, a folder with images/ and masks/, a COCO file, or scenes:NUMBER
        model: a name, a name with a weights tag, timm:NAME, or a run folder to go on from
        out: run folder to make
        task: classify learns labels, segment the masks of objects from points and boxes
        tune: of a segmenter, decoder leaves the image encoder as it is, all trains everything
        objects: for --task segment, of each image in a batch
        rounds: for --task segment, prompts in a row for each object, those after the first where the mask was wrong;
            with 1 it learns neither to be corrected by a second point nor to follow a film
        target: label columns of a table: one of classes, of several labels (a|b) or of numbers; several of 0 and 1 or
            of numbers; four of a box
        problem: what the labels are; auto decides by what they hold, and says so
        group: column of a table, or regular expression on the path, of images that stay in one part of the split
            (one patient, camera or product): the first parenthesis, else the whole match
        slices: columns of a table by which the report lists every metric
        method: head trains the last layer on frozen features, finetune trains everything from published weights,
            scratch everything from nothing, lora low-rank additions to the attention of published weights
        head: for the head method, linear, knn (nearest neighbours) and svm are solved on cached features, sgd trains
            a linear layer over epochs of augmented views
        lora_rank: for the lora method, rank of what is added to each matrix
        weights: weights file to use in place of a download
        img_size: side of the square that the model sees, in pixels
        epochs: passes over the training images
        minutes: time to train, in place of epochs
        images_seen: training images that pass through the model, in place of epochs
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
        repeated_augmentation: times that each drawn image comes in a row, augmented anew
        balance: for unequal classes, loss lets an image weigh inversely to the frequency of its class, sampler draws
            classes equally often
        views: for head linear, 1 uses each image, 2 its mirror too
        watch: validation metric that chooses the saved weights; top1, for several labels map, for numbers mae
        evaluations: evaluations on the validation images during training; of minutes, a fifth at most goes to them
        patience: stop after so many evaluations without improvement
        trials: short trainings that choose the learning rate on the validation images first
        snapshots: copies of the weights to keep from the training, the first before it and the last after it
        track: tool that draws the training while it runs, from RUN/track
        unknown: folder of photos of other things, by which predict learns to answer unknown
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
    arguments = locals().copy()
    command = command_line(train, arguments)
    given = frozenset(name for name, one in signature(train).parameters.items() if arguments[name] != one.default)
    if task == "segment":
        from regard.verbs.train_masks import train_masks

        return train_masks(arguments, given, command)
    for name in ("tune", "objects", "rounds"):
        if name in given:
            raise RegardError(f"--{name}: belongs to --task segment; leave it out")

    from regard.runs.run import Run
    from regard.training.processes import join
    from regard.training.run import train_run
    from regard.training.trials import choose_lr

    team = join()  # the other processes of torchrun, if any: the first one alone writes and speaks
    on_event = on_event if team.first else silent
    for note in team.notes:
        on_event({"event": "note", "text": note})
    with no_empty_folder(Path(out)), ExitStack() as opened:
        with team.in_turn():
            run = Run.resume(out) if resume else Run.create(out, overwrite=overwrite)
        with team.in_turn():  # what the first one checks and downloads, the others find
            prepared = prepare(
                data,
                max_bad=max_bad,
                on_bad_image=on_bad_image,
                keep_leaks=keep_leaks,
                on_event=on_event,
                target=target,
                problem=problem,
                group=group,
                slices=slices,
            )
            images = prepared.images
            loaded = load_for(model, method, images.classes, on_event, weights=weights, img_size=img_size, force=force)
        split = prepared.split(seed)
        for note in split.notes:
            on_event({"event": "note", "text": note})
        given = recipe_options(arguments, images)
        recipe = recipe_of(loaded, method, head, images, split.train, given, on_event)
        done = resume and run.finished
        if trials and not done:

            def again() -> LoadedModel:
                own = model if isinstance(model, str) else copy.deepcopy(model)  # each trial trains a model of its own
                return load_for(own, method, images.classes, silent, weights=weights, img_size=img_size, force=force)

            rate, _ = choose_lr(images, split, again, recipe, trials, run.folder, on_event)
            recipe = recipe.with_overrides({"lr": rate})
        told = opened.enter_context(_tracked(track, run, on_event)) if team.first else silent
        columns = {"target": list(target), "group": group, "slices": list(slices)}
        train_run(run, images, split, loaded, recipe, on_event=told, resume=resume, opened=columns)
        team.close()
        if team.first:
            if unknown is not None:
                from regard.training.unknown import fit_unknown

                trained = load_aloud(run.folder, on_event) if done else loaded
                fit_unknown(run.folder, trained, images, split, unknown, on_event)
            _write_report(run, prepared, split.notes, command)
    return run


def _write_report(run: Run, prepared: Prepared, notes: tuple[str, ...], command: str) -> None:
    from regard.comparison.compare import candidates
    from regard.comparison.details import Story, report_data
    from regard.reporting import write_report

    result = run.result()
    story = Story(
        title=prepared.images.name,
        command=command,
        check=prepared.checked,
        protocol=notes,
        environment={name: str(value) for name, value in run.environment.items()},
    )
    write_report(report_data(story, candidates([result]), [result], (), prepared.images), run.folder / "report.html")


@contextmanager
def _tracked(track: str | None, run: Run, on_event: OnEvent) -> Iterator[OnEvent]:
    """A listener that tells `on_event` and the tracker, which is open so long."""
    if track is None:
        yield on_event
        return
    from regard.training.tracking import tensorboard

    with tensorboard(run.folder / "track") as tracker:

        def told(event: dict[str, Any]) -> None:
            on_event(event)
            tracker(event)

        yield told
