"""Which photos a report shows and where: confusion cells, galleries, and the one store of thumbnails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from regard.reporting.records import ModelDetail, ReportData
from regard.reporting.sentences import clip
from regard.reporting.thumbnails import make_thumbnails
from regard.results import Predictions, RunResult

MOST_PHOTOS = 3000  # test photos kept with thumbnails; mistakes come first
MOST_IN_GALLERY = 120
FULL_TABLE = 30  # classes up to which the confusion matrix is a table with numbers


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion matrix; `heat` 0..8 is the share of the row, for the colour."""

    row: int
    column: int
    photos: int
    heat: int


@dataclass(frozen=True)
class Confusion:
    """Counts of one shown run: rows are labels, columns what the model said."""

    model: int  # position in ReportData.models
    name: str
    seed: int
    classes: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    pairs: tuple[Cell, ...]  # mistakes, most frequent first

    @property
    def small(self) -> bool:
        """True where a table with numbers is readable."""
        return len(self.classes) <= FULL_TABLE


@dataclass(frozen=True)
class Gallery:
    """A row of photos; the pictures and captions are in the store under `key`."""

    key: str
    title: str
    total: int
    items: tuple[tuple[str, str, str, float], ...] = field(repr=False, default=())  # id, label, said, confidence


def confusion(data: ReportData, index: int) -> Confusion | None:
    """The confusion matrix of model number `index`; None where no test photo has a label."""
    detail = data.models[index]
    run = data.shown_run(detail)
    counts = confusion_counts(run.test)
    if not counts.sum():
        return None
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    heat = np.where(counts > 0, np.clip(np.ceil(shares * 8), 1, 8), 0).astype(int)
    rows = tuple(
        tuple(Cell(i, j, int(counts[i, j]), int(heat[i, j])) for j in range(len(counts))) for i in range(len(counts))
    )
    wrong = [cell for row in rows for cell in row if cell.photos and cell.row != cell.column]
    pairs = tuple(sorted(wrong, key=lambda cell: (-cell.photos, cell.row, cell.column))[:12])
    return Confusion(index, detail.name, run.seed, run.test.classes, rows, pairs)


def confusion_counts(predictions: Predictions) -> np.ndarray:
    """(K, K) int64: labelled photos by label (row) and most probable class (column)."""
    size = len(predictions.classes)
    labelled = predictions.labels >= 0
    said = predictions.logits.argmax(axis=1)[labelled]
    return np.bincount(predictions.labels[labelled] * size + said, minlength=size * size).reshape(size, size)


def hits(runs: Sequence[RunResult], ids: Sequence[str]) -> np.ndarray:
    """(N,) share of the runs that name each photo correctly; NaN for photos that a run lacks."""
    scores = np.zeros(len(ids))
    for run in runs:
        right = dict(zip(run.test.ids, run.test.correct, strict=True))
        scores += [right.get(id_, np.nan) for id_ in ids]
    return scores / max(1, len(runs))


def mistakes(data: ReportData, index: int) -> Gallery:
    """The wrong answers that model number `index` was surest of."""
    run = data.shown_run(data.models[index])
    said, sure = _answers(run)
    wrong = np.flatnonzero((said != run.test.labels) & (run.test.labels >= 0))
    ordered = wrong[np.argsort(-sure[wrong], kind="stable")]
    return Gallery(f"mistakes-{index}", data.models[index].name, len(wrong), _items(run, ordered))


def disagreements(data: ReportData, right: ModelDetail, wrong: ModelDetail, key: str) -> Gallery:
    """Photos that `right` names correctly in more of its runs than `wrong` does, widest gap first."""
    run = data.shown_run(wrong)
    gap = hits(data.full_runs(right), run.test.ids) - hits(data.full_runs(wrong), run.test.ids)
    said, sure = _answers(run)
    rows = np.flatnonzero((gap > 0) & (said != run.test.labels))
    ordered = rows[np.lexsort((-sure[rows], -gap[rows]))]
    title = f"{right.name} is right, {wrong.name} is wrong"
    return Gallery(key, title, len(rows), _items(run, ordered))


def suspects(data: ReportData) -> Gallery:
    """Photos whose label the out-of-fold head disputes, surest first."""
    ordered = sorted(data.suspects, key=lambda one: -one.confidence)
    items = tuple((one.id, one.given, one.suggested, one.confidence) for one in ordered[:MOST_IN_GALLERY])
    return Gallery("suspects", "Likely mislabelled", len(ordered), items)


def _answers(run: RunResult) -> tuple[np.ndarray, np.ndarray]:
    """(N,) most probable class and its probability after the temperature."""
    probabilities = run.test.probabilities(run.temperature)
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


def _items(run: RunResult, rows: np.ndarray) -> tuple[tuple[str, str, str, float], ...]:
    said, sure = _answers(run)
    names = run.test.classes
    return tuple(
        (run.test.ids[row], names[run.test.labels[row]], names[said[row]], float(sure[row]))
        for row in rows[:MOST_IN_GALLERY]
    )


def store(data: ReportData, galleries: Sequence[Gallery]) -> str:
    """The JSON that the page reads: every photo once, what each model said of it, and the galleries.

    Escaped so that it can stand inside a script element whatever the names are.
    """
    shown = [data.shown_run(detail) for detail in data.models]
    ids = _chosen(shown, galleries)
    place = {id_: at for at, id_ in enumerate(ids)}
    thumbs = make_thumbnails(ids, data.pixels) if data.pixels else None
    classes = list(shown[0].test.classes)
    names = {name: at for at, name in enumerate(classes)}
    content = {
        "classes": [clip(name, 100) for name in classes],
        "photos": [clip(id_, 100) for id_ in ids],
        "thumbs": [thumbs.data[id_] for id_ in ids] if thumbs else [],
        "labels": _column(shown[0], ids, shown[0].test.labels),
        "models": [
            {
                "said": _column(run, ids, _answers(run)[0]),
                "sure": _column(run, ids, np.round(_answers(run)[1] * 1000).astype(int)),
            }
            for run in shown
        ],
        "galleries": {
            gallery.key: [
                [place[id_], names.get(label, -1), names.get(said, -1), round(1000 * sure)]
                for id_, label, said, sure in gallery.items
                if id_ in place
            ]
            for gallery in galleries
        },
    }
    return script_json(content)


def script_json(content: object) -> str:
    """JSON that no name can end early or turn into markup: `<`, `>`, `&`, all beyond ASCII are \\uXXXX."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _chosen(shown: Sequence[RunResult], galleries: Sequence[Gallery]) -> list[str]:
    """Photo ids in order of need: galleries, mistakes, then the rest, evenly thinned to the limit."""
    wrong: dict[str, None] = {}
    rest: dict[str, None] = {}
    for run in shown:
        right = run.test.correct
        wrong.update((id_, None) for id_, ok in zip(run.test.ids, right, strict=True) if not ok)
        rest.update((id_, None) for id_ in run.test.ids)
    in_galleries = {item[0]: None for gallery in galleries for item in gallery.items}
    others = [id_ for id_ in rest if id_ not in wrong]
    room = max(0, MOST_PHOTOS - len(wrong))
    if len(others) > room:
        others = [others[at * len(others) // room] for at in range(room)]
    chosen = [*wrong, *others][:MOST_PHOTOS]
    return list({**in_galleries, **dict.fromkeys(chosen)})


def _column(run: RunResult, ids: Sequence[str], values: np.ndarray) -> list[int]:
    found = dict(zip(run.test.ids, values.tolist(), strict=True))
    return [found.get(id_, -1) for id_ in ids]
