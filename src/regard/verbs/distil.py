"""`regard distil`: a small model that learns from a large one, beside what it would have learned alone."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.results import ProblemChoice
from regard.verbs.command import command_line
from regard.verbs.compare import Answer, answer_of
from regard.verbs.events import OnEvent, silent
from regard.verbs.folders import make_folder, no_empty_folder
from regard.verbs.prepare import (
    OnBadImage,
    Prepared,
    load_aloud,
    load_for,
    prepare,
    recipe_of,
    recipe_options,
    untrained,
)

if TYPE_CHECKING:
    import numpy as np

    from regard.comparison.students import Estimate, Found, Plan, Task
    from regard.data.splits import Split
    from regard.inference.loaded import LoadedModel
    from regard.training.recipe import Recipe

ALONE: dict[str, tuple[Literal["images", "compute"], ...]] = {
    "both": ("images", "compute"),
    "images": ("images",),
    "none": (),
}


@dataclass(frozen=True)
class Distilled(Answer):
    """What a distillation found; `student` is the run folder to go on with (of several seeds, the first)."""

    student: Path


def distil(
    data: str | Path,
    *,
    teacher: str | LoadedModel,
    student: str | LoadedModel,
    out: str | Path,
    kind: Literal["hard", "soft"] = "hard",
    alpha: float = 0.5,
    tau: float | None = None,
    alone: Literal["both", "images", "none"] = "both",
    seeds: int = 1,
    method: Literal["finetune", "scratch", "lora"] = "finetune",
    weights: str | Path | None = None,
    teacher_weights: str | Path | None = None,
    target: tuple[str, ...] = (),
    problem: ProblemChoice = "auto",
    group: str | None = None,
    slices: tuple[str, ...] = (),
    lora_rank: int | None = None,
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
    watch: Literal["top1", "nll"] | None = None,
    evaluations: int | None = None,
    patience: int | None = None,
    trials: int = 0,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    margin: float = 0.01,
    deterministic: bool = False,
    keep_leaks: bool = False,
    on_bad_image: OnBadImage = "skip",
    max_bad: float = 0.01,
    force: bool = False,
    dry_run: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    on_event: OnEvent = silent,
) -> Distilled | Estimate:
    """Teach a small model by a large one, and say what the teaching was worth.

    The student learns the labels and the teacher's answers to the same pictures. Beside it the same student is trained
    alone, on as many images and once more for as much compute, the teacher's share in it. The report sets distilled,
    alone and teacher side by side; the student is a run folder as `regard train` makes it, in OUT/student.

    Args:
        data: class folders (with or without train/val/test), a CSV or Parquet table (path, label column),
            torchvision:NAME, or digits
        teacher: a run folder, a name, a name with a weights tag, or timm:NAME; where it answers other classes, its
            last layer is fitted to these first
        student: a name, a name with a weights tag, timm:NAME, or a run folder to go on from
        out: folder to make
        kind: hard learns the teacher's most probable class, soft its probabilities
        alpha: share of the teacher's answers in the loss; the labels have the rest
        tau: temperature of the soft answers, 3 unless said otherwise
        alone: trainings of the student without a teacher: on equal images and equal compute (both), on equal images,
            or none
        seeds: runs of each, which a verdict needs 3 or more of; a seed redraws initialisation, order, augmentation
            and validation cut
        method: finetune trains everything from published weights, scratch everything from nothing, lora low-rank
            additions to the attention of published weights
        weights: weights file of the student to use in place of a download
        teacher_weights: weights file of the teacher to use in place of a download
        target: label column of a table
        problem: what the labels are; distilling needs one class per photo
        group: column of a table, or regular expression on the path, of images that stay in one part of the split
            (one patient, camera or product): the first parenthesis, else the whole match
        slices: columns of a table by which the report lists every metric
        lora_rank: for the lora method, rank of what is added to each matrix
        img_size: side of the square that the student sees, in pixels
        epochs: passes over the training images
        minutes: time to train the distilled student, in place of epochs
        images_seen: training images that pass through the student, in place of epochs
        batch_size: images per step
        accumulation: parts in which a batch passes through the model, to save memory
        optimiser: adamw or sgd with momentum
        lr: highest learning rate
        weight_decay: not applied to norms, biases, positions and tokens
        warmup: share of the steps in which the learning rate rises
        layer_decay: learning rate of a block divided by that of the block above
        clip_norm: largest norm of the gradient
        ema: decay of the average of the weights that is evaluated and saved
        dropout: dropout inside the student
        drop_path: stochastic depth of the last block
        label_smoothing: share of the target spread over all classes; the teacher's answers are not smoothed
        mixup: alpha of MixUp
        cutmix: alpha of CutMix
        randaugment: number of operations and magnitude from 0 to 10
        erasing: probability that a rectangle of an image becomes noise
        crop: a random part of the image, a shift, or the centre
        flip: mirror half of the training images
        repeated_augmentation: times that each drawn image comes in a row, augmented anew
        balance: for unequal classes, loss lets an image weigh inversely to the frequency of its class, sampler draws
            classes equally often
        watch: validation metric that chooses the saved weights
        evaluations: evaluations on the validation images during training; of minutes, a fifth at most goes to them
        patience: stop distilling after so many evaluations without improvement
        trials: short trainings that choose each run's learning rate on the validation images first
        precision: auto takes bfloat16 where a short measurement finds it faster
        margin: difference of top1 that does not matter, as a share of 1
        deterministic: the same bits each time, no choices by measuring
        keep_leaks: score test images that have a near-duplicate in train or val, or that the teacher's run learned from
        on_bad_image: skip leaves unreadable files out by name, error stops at the first
        max_bad: share of unreadable files above which training is refused
        force: allow models with fewer than 16 patches
        dry_run: print runs, minutes, memory, disk and downloads, and stop
        resume: continue what was begun in --out
        overwrite: replace what is in --out
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    arguments = locals().copy()
    command = command_line(distil, arguments)
    if tau is not None and kind == "hard":
        raise RegardError(f"--tau {tau:g}: the teacher's most probable class has no temperature; use --kind soft")
    if seeds < 1:
        raise RegardError(f"--seeds {seeds}: at least 1 (3 or more for a verdict)")
    from regard.comparison.plan import keep_arguments, refuse_changed
    from regard.comparison.students import FILE, Plan, estimate, run_all
    from regard.training.distillation import TAU, check_how

    check_how(kind, alpha, TAU if tau is None else tau)
    folder = Path(out)
    columns = {"target": tuple(target), "group": group, "slices": tuple(slices)}
    with no_empty_folder(folder):
        continued = resume and (folder / FILE).is_file()
        if not continued and not dry_run:
            parts = ("student*", "alone-*", "teacher-head*", "trials")
            make_folder(folder, "distillation", (FILE, "report.html"), parts, resume, overwrite)
        prepared = prepare(
            data, max_bad=max_bad, on_bad_image=on_bad_image, keep_leaks=keep_leaks, on_event=on_event,
            problem=problem, **columns,
        )  # fmt: skip
        images = prepared.images
        if images.problem != "single_label":
            raise RegardError(f"{images.name}: distilling needs one class per photo; `regard train` takes other labels")
        split = prepared.split(0)
        for note in split.notes:
            on_event({"event": "note", "text": note})
        sheet = untrained(student, images.classes, img_size, force)
        recipe = recipe_of(sheet, method, "linear", images, split.train, recipe_options(arguments, images), on_event)
        plan = Plan(
            data=str(data),
            teacher=_name(teacher),
            student=_name(student),
            weights=str(weights) if weights is not None else None,
            teacher_weights=str(teacher_weights) if teacher_weights is not None else None,
            kind=kind,
            alpha=alpha,
            tau=TAU if tau is None else tau,
            alone=ALONE[alone],
            seeds=seeds,
            trials=trials,
            margin=margin,
            recipe=recipe.to_config(),
            img_size=img_size,
            keep_leaks=keep_leaks,
            **columns,
        )
        if continued:
            refuse_changed(folder / FILE, asdict(plan))
        else:
            master = untrained(teacher, images.classes, force=True)
            known = not isinstance(teacher, str) or Path(teacher).is_dir()
            expected = estimate(plan, split, sheet, master, known and sorted(master.classes) == sorted(images.classes))
            if dry_run:
                return expected
            on_event({"event": "note", "text": f"expected: {expected}"})
        task = _task(plan, prepared, student, teacher, force, recipe, on_event)
        keep_arguments(folder / FILE, asdict(plan))
        found = run_all(plan, task, folder, on_event)
        return _answer(plan, prepared, task, found, folder, command)


def _name(model: str | LoadedModel) -> str:
    return model if isinstance(model, str) else model.name


def _task(
    plan: Plan,
    prepared: Prepared,
    student: str | LoadedModel,
    teacher: str | LoadedModel,
    force: bool,
    recipe: Recipe,
    on_event: OnEvent,
) -> Task:
    """What the runs share. A model without weights is refused here, and not after the work of the others."""
    from regard.comparison.students import Task

    said: set[str] = set()

    def once(event: dict[str, Any]) -> None:
        """What loading says is the same for every run: it is said once."""
        if event["text"] not in said:
            said.add(event["text"])
            on_event(event)

    def load() -> LoadedModel:
        model = copy.deepcopy(student)  # a loaded model is trained in place: each run begins with its own
        return load_for(
            model, recipe.method, prepared.images.classes, once,
            weights=plan.weights, img_size=plan.img_size, force=force,
        )  # fmt: skip

    master = load_aloud(teacher, on_event, plan.teacher_weights)
    if master.problem != "single_label":
        raise RegardError(f"--teacher {plan.teacher}: it does not answer one class per photo")
    load()

    @cache
    def split(seed: int) -> Split:
        return _unseen(prepared, prepared.split(seed), master, plan, on_event if seed == 0 else silent)

    opened = {"target": list(plan.target), "group": plan.group, "slices": list(plan.slices)}
    return Task(prepared.images, split, load, master, opened)


def _unseen(prepared: Prepared, split: Split, teacher: LoadedModel, plan: Plan, on_event: OnEvent) -> Split:
    """The split without the test images that the teacher's own run learned from."""
    import numpy as np

    from regard.comparison.students import known_to

    seen: np.ndarray = known_to(teacher, prepared.images, split.test)
    if not len(seen):
        return split
    line = f"{len(seen)} of {len(split.test)} test images were training or validation images of the teacher"
    if plan.keep_leaks:
        line = f"{line}, and are scored all the same (--keep-leaks)"
        on_event({"event": "warning", "text": line})
        return replace(split, notes=(*split.notes, line))
    if len(seen) == len(split.test):
        raise RegardError(f"{plan.teacher}: {line}; take a teacher that was trained on the same split, or --keep-leaks")
    line = f"{line} and are left out of scoring"
    on_event({"event": "warning", "text": line})
    return replace(split, test=np.setdiff1d(split.test, seen), notes=(*split.notes, line))


def _answer(plan: Plan, prepared: Prepared, task: Task, found: Found, folder: Path, command: str) -> Distilled:
    from regard.comparison.compare import verdicts
    from regard.comparison.details import Story, report_data
    from regard.comparison.students import budget, candidates, of_one_seed, protocol
    from regard.data.draws import together
    from regard.runs.run import Run

    images, split = task.images, task.split(0)
    listed = candidates(found)
    tested = [one for one in listed if not one.reference]
    groups = together(images, prepared.checked.groups)
    judged = verdicts(tested, plan.margin, groups) if len(tested) > 1 else ()
    story = Story(
        title=images.name,
        command=command,
        check=prepared.checked,
        protocol=(*split.notes, *protocol(plan, task)),
        budget=budget(plan, found),
        environment={key: str(value) for key, value in Run.open(found["student"][0].folder).environment.items()},
    )
    record = report_data(story, listed, [run for one in listed for run in one.runs], judged, images)
    if plan.seeds == 1 and judged:
        record = replace(record, no_verdict=of_one_seed(tested, judged))
    answer = answer_of(record, listed, judged, folder)
    return Distilled(**vars(answer), student=folder / plan.folder("student", 0))
