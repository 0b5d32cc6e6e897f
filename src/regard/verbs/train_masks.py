"""`regard train --task segment`: a segmenter on images with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.verbs.events import OnEvent

if TYPE_CHECKING:
    from regard.data.mask_sets import MaskSet
    from regard.data.splits import Split
    from regard.reporting.segmenting import SegmentReport, Tile
    from regard.runs.run import Run
    from regard.segmentation.segmenter import Segmenter
    from regard.training.agreement import Found
    from regard.training.segmenting import Segmented

MODEL_TASK = "mask-generation"
SHOWN = 24  # objects in the report
# Arguments of `train` that say something here; the others are about labels.
USED = frozenset(
    (
        "data", "model", "out", "task", "tune", "objects", "rounds", "method", "weights", "epochs", "minutes",
        "images_seen", "batch_size", "accumulation", "optimiser", "lr", "weight_decay", "warmup", "layer_decay",
        "clip_norm", "ema", "flip", "evaluations", "patience", "precision", "seed", "resume", "overwrite", "on_event",
    )
)  # fmt: skip
WORDS = {
    "click": "one click",
    "click_boundary": "one click, boundary",
    "best": "one click, best of the three masks",
    "box": "box",
    "box_boundary": "box, boundary",
}


def describe(run: Run) -> list[str]:
    """What a finished run says of itself, for the terminal."""
    facts, width = run.facts, max(map(len, WORDS.values()))
    before, after = facts["before"], facts["after"]
    rows = [f"{word:<{width}}  {before[name][0]:.3f} -> {_figure(after[name])}" for name, word in WORDS.items()]
    return [
        f"mean IoU of {facts['objects']:,} held-out objects, before -> after training:",
        *rows,
        f"{facts['model']}, {facts['train_images']:,} training images, {run.cost.train_seconds or 0:.0f} s",
        f"run folder: {run.folder}",
        f"report: {run.folder / 'report.html'}",
    ]


def _figure(metric: Sequence[float | None]) -> str:
    value, low, high = metric
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def train_masks(arguments: Mapping[str, Any], given: frozenset[str], command: str) -> Run:
    """What `train` does for --task segment. given: the arguments that have not their default."""
    refuse_others(given)
    on_event: OnEvent = arguments["on_event"]
    tune: Literal["decoder", "all"] | None = arguments["tune"]

    from regard.data.mask_sets import open_masks
    from regard.reporting.segmenting import render_segment_report
    from regard.runs.atomic import write_atomic
    from regard.runs.run import Run
    from regard.training.processes import join
    from regard.training.segmenting import Clicks, SegmentJob, recipe_for_masks, train_segmenter
    from regard.verbs.folders import no_empty_folder

    if join().world > 1:
        raise RegardError("--task segment: runs in one process; start it without torchrun")
    out = Path(arguments["out"])
    with no_empty_folder(out):
        run = Run.resume(out) if arguments["resume"] else Run.create(out, overwrite=arguments["overwrite"])
        masks = open_masks(arguments["data"])
        segmenter, fresh = _starting(arguments, on_event)
        how = Clicks(tune or ("all" if fresh else "decoder"), arguments["objects"], arguments["rounds"])
        if fresh and how.tune == "decoder":
            raise RegardError("--tune decoder: a new model's encoder knows nothing; give --weights, or use --tune all")
        split = _split(masks, arguments["seed"])
        for note in (*masks.images.notes, *split.notes):
            on_event({"event": "note", "text": note})
        recipe = recipe_for_masks(how.tune, fresh, len(split.train)).with_overrides(_options(arguments))
        weights = arguments["weights"]
        source = {"model": str(arguments["model"]), "weights": None if weights is None else str(weights)}
        if not run.finished:
            job = SegmentJob(run, masks, split, segmenter, recipe, how, source, on_event)
            done = train_segmenter(job, resume=arguments["resume"])
            write_atomic(run.folder / "report.html", render_segment_report(_report(run, masks, done, command)))
    return run


def _split(masks: MaskSet, seed: int) -> Split:
    """Train, validation and test rows, and what each is for."""
    from regard.data.splits import PARTS, split_images

    split = split_images(masks.images, seed)
    uses = ("training", "the choice of the weights", "the figures before and after")
    notes = [f"{part}: {len(getattr(split, part)):,} images, for {use}" for part, use in zip(PARTS, uses, strict=True)]
    return replace(split, notes=tuple(notes))


def _report(run: Run, masks: MaskSet, done: Segmented, command: str) -> SegmentReport:
    from regard.reporting.segmenting import MeasureRow, SegmentReport

    config, facts = run.config, run.facts
    recipe = {**config["segment"], **config["recipe"]}
    return SegmentReport(
        data=config["data"],
        model=config["model"],
        objects=facts["objects"],
        images=len({one.image for one in done.after.found}),
        measures=[MeasureRow(WORDS[name], done.before.means[name], done.after.means[name]) for name in WORDS],
        curve=run.metrics(),
        tiles=[_tile(masks, one) for one in _spread(done.after.found)],
        facts=[
            ("training images", f"{facts['train_images']:,}"),
            ("images seen", f"{facts['images_seen']:,}"),
            ("parameters trained", f"{run.cost.trainable_parameters or 0:,}"),
            ("minutes", f"{(run.cost.train_seconds or 0) / 60:.1f}"),
        ],
        recipe=[(name, str(value)) for name, value in recipe.items() if value is not None],
        notes=config["notes"],
        command=command,
    )


def _spread(found: Sequence[Found]) -> list[Found]:
    """Some objects, evenly spread from the worst to the best."""
    ordered = sorted(found, key=lambda one: (one.click, one.image, one.number))
    count = min(SHOWN, len(ordered))
    return [ordered[round(number * (len(ordered) - 1) / max(1, count - 1))] for number in range(count)]


def _tile(masks: MaskSet, one: Found) -> Tile:
    from regard.data.decoding import decode
    from regard.reporting.segmenting import Tile

    row = masks.images.ids.index(one.image)
    return Tile(
        name=f"{one.image}, object {one.number}",
        photo=decode(masks.images.sources[row]),
        truth=masks.masks(row)[one.number - 1].decode(),
        by_click=one.by_click.decode(),
        by_box=one.by_box.decode(),
        x=one.x,
        y=one.y,
        click=one.click,
        box=one.box,
    )


def refuse_others(given: frozenset[str]) -> None:
    """RegardError for an argument that says nothing where masks are learned."""
    for name in sorted(given - USED):
        raise RegardError(f"--{name.replace('_', '-')}: not with --task segment, whose images have masks and no labels")


def _options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe that were given."""
    from dataclasses import fields

    from regard.training.recipe import Recipe

    names = {one.name for one in fields(Recipe)} - {"method", "flip"}
    found = {name: value for name, value in arguments.items() if name in names & USED and value is not None}
    return {**found, "flip": arguments["flip"] != "no"}


def _starting(arguments: Mapping[str, Any], on_event: OnEvent) -> tuple[Segmenter, bool]:
    """The model that the run begins with, and whether it knows nothing yet."""
    import torch

    from regard.inference.features import default_cache
    from regard.models import create_model, model_spec
    from regard.models.sam import SAM
    from regard.segmentation.loading import load_segmenter
    from regard.segmentation.segmenter import Segmenter
    from regard.training.fresh_sam import start_fresh
    from regard.weights import checkpoints_of

    def say(text: str) -> None:
        on_event({"event": "note", "text": text})

    model, weights, method = str(arguments["model"]), arguments["weights"], arguments["method"]
    if method == "lora":
        raise RegardError("--method lora: not with --task segment; use --tune decoder or all")
    known = Path(model).exists() or weights is not None or bool(checkpoints_of(model.partition(".")[0]))
    if known and method != "scratch":
        segmenter = load_segmenter(model, weights, cache=default_cache().parent / "embeddings", announce=say)
        for message in segmenter.messages:
            say(message)
        return segmenter, False
    if weights is not None:
        raise RegardError("--weights: not with --method scratch, which begins with nothing; leave one of them out")
    spec = model_spec(model)
    if spec.task != MODEL_TASK:
        raise RegardError(f"{model}: its task is {spec.task!r}; --task segment trains a SAM, for example sam_nano_128")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments["seed"])
        fresh = create_model(model)
        assert isinstance(fresh, SAM)
        start_fresh(fresh)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Segmenter(fresh.to(device), model), True
