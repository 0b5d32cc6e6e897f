"""`regard explain`: where in a photo a model's answer comes from, by one method or several, for one model or two."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.verbs.events import OnEvent, silent
from regard.verbs.explaining.boxes import HEAD, MeanInside, read_boxes
from regard.verbs.explaining.job import Job, put
from regard.verbs.explaining.score import check_scorable
from regard.verbs.explaining.score_table import aligned
from regard.verbs.explaining.sides import Side, methods_of
from regard.verbs.explaining.targets import chooser, find, target_words, with_classes
from regard.verbs.folders import no_empty_folder
from regard.verbs.prepare import load_aloud

if TYPE_CHECKING:
    from torch import nn

    from regard.inference.loaded import LoadedModel
    from regard.verbs.explaining.score_table import ScoreTable

AGAINST = "against."  # before the names of the second model's files and arrays
NAMED = 20  # unreadable photos that the sheet names


@dataclass(frozen=True)
class MethodRow:
    """What a method took, and, with boxes, how its maps lie to the objects."""

    model: str
    method: str
    seconds_per_photo: float
    inside: MeanInside | None = None


@dataclass(frozen=True)
class Explanations:
    """What `explain` did.

    photos: explained; skipped: ids of those that cannot be read; boxes: what was used of the table of boxes; scores: of
    each model, where that was asked for; out: the folder, with index.html.
    """

    models: tuple[str, ...]
    target: str
    photos: int
    skipped: tuple[str, ...]
    rows: tuple[MethodRow, ...]
    boxes: str
    scores: tuple[ScoreTable, ...]
    out: Path

    def lines(self) -> Iterator[str]:
        """Each method with its time and, with boxes, its share inside; then where everything lies."""
        from regard.reporting.words import plural

        for model in self.models:
            yield f"{model}, maps {self.target}"
            rows = [row for row in self.rows if row.model == model]
            measured = any(row.inside for row in rows)
            table = [["", "a photo", *HEAD]] if measured else []
            table += [[row.method, _short(row.seconds_per_photo), *_cells(row, measured)] for row in rows]
            yield from (f"  {line}" for line in aligned(table))
        if self.boxes and not any(row.inside for row in self.rows):
            yield "no map was compared with a box: no photo has one of its class in what the model sees"
        for score in self.scores:
            yield from ("", *score.lines(), "")
        unreadable = f", {len(self.skipped):,} unreadable" if self.skipped else ""
        yield f"{plural(self.photos, 'photo')}{unreadable}; sheet: {self.out / 'index.html'}"
        yield f"pictures in {self.out / 'overlays'}, maps as numbers in {self.out / 'maps'}"


def explain(
    model: str | Path | LoadedModel | nn.Module,
    images: Sequence[str | Path],
    *,
    out: str | Path,
    method: str | Sequence[str] = (),
    target: str = "top1",
    against: str | Path | LoadedModel | nn.Module | None = None,
    boxes: str | Path | None = None,
    score: bool = False,
    weights: str | Path | None = None,
    batch_size: int = 8,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    on_event: OnEvent = silent,
) -> Explanations:
    """Show where in photos the answers of a model come from.

    Each photo is cut as the model sees it and gets one picture per method (OUT/overlays) and its maps as numbers
    (OUT/maps/*.npz); OUT/index.html and contact.png show them side by side, OUT/explained.csv lists them. What it will
    take is said first. Photos that cannot be read are named and left out.

    Args:
        model: a run folder, a name, a name with a weights tag, or timm:NAME
        images: image files, and folders that are searched for image files; with --target true one table (path, label)
            will do too
        out: folder to make
        method: attention, rollout, gradient_rollout, relevance, gradcam, integrated_gradients, occlusion, with options
            as in rollout+fusion=max+discard=0.9; without it, those of a pass or two that the model has
        target: the class that the maps are of: top1 is the model's own answer, true the class of the folder that a
            photo lies in, else the name of a class, of a label, or of a column of numbers
        against: another model beside it: a run folder, a name, or timm:NAME
        boxes: table (path, x0, y0, x1, y1, perhaps class) of the objects, a row each, in pixels of the photo, or COCO's
            JSON: how much of each map lies inside, beside what the area and a map of the centre would give
        score: measure on up to 50 of the photos whether each method is better than a random map and a map of the
            centre, and whether its maps change with the weights and with the class (OUT/score)
        weights: weights file to use in place of a download
        batch_size: photos in one pass
        precision: fp32, bf16, or auto, which takes bfloat16 where a short measurement finds it faster
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    if batch_size < 1:
        raise RegardError(f"batch_size={batch_size}: expected at least 1")
    folder = _free(Path(out))
    photos = find([images] if isinstance(images, str | Path) else images, target)
    loaded = [_load(one, on_event, file) for one, file in ((model, weights), (against, None)) if one is not None]
    for one in loaded if score else ():
        check_scorable(one)
    photos = with_classes(photos, target, loaded)
    sides = _sides(loaded, [method] if isinstance(method, str) else method, target, precision, len(photos))
    names = {name: None for side in sides for name in side.loaded.classes}
    found = read_boxes(boxes, photos.ids, photos.files, list(names)) if boxes is not None else None
    if found is not None:
        on_event({"event": "note", "text": found.note})
    _announce(sides, len(photos), on_event)
    words = target_words(target, loaded)
    with no_empty_folder(folder):
        job = Job(sides, photos, folder, found)
        job.run(batch_size, on_event)
        scores = [job.score(number, on_event) for number in range(len(sides))] if score else []
        rows = [
            MethodRow(side.title, name, seconds / len(job.read), job.inside(number, name))
            for number, side in enumerate(sides)
            for name, seconds in side.seconds.items()
        ]
        note = found.note if found else ""
        _write_sheet(job, words, rows, note, scores)
    titles = tuple(side.title for side in sides)
    return Explanations(titles, words, len(job.read), tuple(job.skipped), tuple(rows), note, tuple(scores), folder)


def _write_sheet(job: Job, target: str, rows: Sequence[MethodRow], note: str, scores: Sequence[ScoreTable]) -> None:
    from regard.reporting.explanations import InsideRow, Sheet, picture_of, render_sheet

    unreadable = f"unreadable, left out: {', '.join(job.skipped[:NAMED])}" if job.skipped else ""
    more = f" and {len(job.skipped) - NAMED:,} more" if len(job.skipped) > NAMED else ""
    sheet = Sheet(
        models=tuple(side.title for side in job.sides),
        target=target,
        entries=job.entries,
        total=len(job.read),
        inside=[InsideRow(row.model, row.method, *row.inside) for row in rows if row.inside],
        notes=[one for one in (note, f"{unreadable}{more}") if one],
        tables=[_score_table(score) for score in scores],
    )
    put(job.folder / "contact.png", picture_of(sheet))
    put(job.folder / "index.html", render_sheet(sheet))


def _score_table(score: ScoreTable) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """The verdict on each method, for the sheet; the numbers are in OUT/score."""
    from regard.reporting.words import MISSING, decimal_2, interval

    passes = {None: MISSING, True: "passes", False: "fails"}
    changes = {None: MISSING, True: "changes", False: "hardly changes"}
    rows = [
        [
            row.name,
            row.judged.outcome,
            *(
                f"{decimal_2(one.mean)} ({interval(one.low, one.high, decimal_2)})" if one else MISSING
                for one in (row.judged.random, row.judged.centre)
            ),
            passes[row.passes],
            changes[row.changes] if row.of_class else "same for every class",
        ]
        for row in score.rows
        if row.judged is not None
    ]
    head = ("method", "verdict", "better than random by", "better than centre by", "weights shuffled", "another class")
    return f"Can the maps of {score.model} be trusted?", head, rows


def _free(folder: Path) -> Path:
    """The folder, which may not hold anything yet."""
    if folder.exists() and not folder.is_dir():
        raise RegardError(f"{folder}: is a file; expected a folder to make: choose another --out")
    if folder.is_dir() and (held := sorted(os.listdir(folder))):
        raise RegardError(f"{folder}: already holds {held[0]!r}; choose another --out, or empty it")
    return folder


def _load(model: Any, on_event: OnEvent, weights: str | Path | None) -> LoadedModel:
    """Hooks do nothing in a compiled module, so it is refused before it is compiled for nothing."""
    from torch import nn

    from regard.taps import refuse_frozen

    if isinstance(model, nn.Module):
        refuse_frozen(model)
    loaded = load_aloud(model, on_event, weights)
    refuse_frozen(loaded.model)
    loaded.model.eval()
    return loaded


def _sides(
    models: Sequence[LoadedModel],
    methods: Sequence[str],
    target: str,
    precision: Literal["auto", "fp32", "bf16"],
    photos: int,
) -> list[Side]:
    from regard.inference.precision import choose_precision

    titles = [loaded.name for loaded in models]
    if len(set(titles)) < len(titles):
        titles = [str(loaded.source.get("model") or loaded.name) for loaded in models]
    if len(set(titles)) < len(titles):
        titles = [f"{title} ({place})" for title, place in zip(titles, ("first", "second"), strict=False)]
    sides = []
    for number, loaded in enumerate(models):
        other = models[1 - number] if len(models) > 1 else None
        chosen = choose_precision(loaded.model, loaded.preprocess.size, photos, precision)
        prefix = AGAINST if number else ""
        own = methods_of(loaded, methods, other)
        sides.append(Side(loaded, own, chooser(loaded, target), chosen, titles[number], prefix))
    return sides


def _announce(sides: Sequence[Side], photos: int, on_event: OnEvent) -> None:
    """How long it will take, and what is not done."""
    from regard.explanation.methods import METHODS
    from regard.reporting.words import duration, plural

    for side in sides:
        seconds = side.pass_seconds(photos)
        asked = side.expected(side.methods, seconds)
        on_event(
            {
                "event": "note",
                "text": f"{side.title}: {', '.join(asked)} of {plural(photos, 'photo')}: about "
                f"{duration(photos * sum(asked.values()))} (a pass of one photo takes {_short(seconds[0])}, "
                f"{_short(sum(seconds))} with gradients)",
            }
        )
        named = {name.partition("+")[0] for name in asked}
        others = [one for name, one in METHODS.items() if name not in named and one.refusal(side.loaded.model) is None]
        rest = {
            name: f"{name} (about {duration(photos * cost)})" for name, cost in side.expected(others, seconds).items()
        }
        undefined = [name for name, one in METHODS.items() if one.refusal(side.loaded.model) is not None]
        if rest:
            on_event({"event": "note", "text": f"not done, --method names them: {', '.join(rest.values())}"})
        if undefined:
            on_event({"event": "note", "text": f"do not apply to {side.title}: {', '.join(undefined)}"})


def _cells(row: MethodRow, measured: bool) -> list[str]:
    if row.inside is None:
        return [""] * len(HEAD) if measured else ["a photo"]
    return row.inside.cells()


def _short(seconds: float) -> str:
    """12 ms, 1.4 s."""
    from regard.reporting.words import duration

    return duration(seconds) if seconds >= 1 else f"{1000 * seconds:.0f} ms"
