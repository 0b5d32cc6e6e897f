"""Which photos a report shows and where: galleries, and the one store of thumbnails and answers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from regard.reporting.answers import Answers
from regard.reporting.records import ModelDetail, ReportData
from regard.reporting.thumbnails import make_thumbnails
from regard.reporting.words import clip, number, percent

MOST_PHOTOS = 3000  # test photos kept with thumbnails; mistakes come first
MOST_IN_GALLERY = 120
MOST_COLUMNS = 8  # columns of numbers that are drawn and kept for the photos
MOST_LABELS = 12  # missed or added labels kept per photo, surest first


class Tile(NamedTuple):
    """A photo of a gallery with its caption: what is true, what was said, how sure (0..1), a note."""

    id: str
    label: str
    said: str
    sure: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """A row of photos; the pictures and captions are in the store under `key`."""

    key: str
    title: str
    total: int
    items: tuple[Tile, ...] = field(repr=False, default=())
    model: int | None = None  # whose boxes are drawn
    unit: str = "photo"


def mistakes(data: ReportData, index: int) -> Gallery:
    """The wrong answers that model number `index` was surest of; of numbers the largest errors."""
    given, name = data.shown[index], data.models[index].name
    if data.problem == "multi_label":
        return _label_mistakes(given, name, index)
    quality = given.quality
    if data.problem == "regression":
        rows = np.flatnonzero(np.isfinite(quality))
        ordered = rows[np.argsort(quality[rows], kind="stable")]
    else:
        rows = np.flatnonzero(quality == 0)
        ordered = rows[np.argsort(-given.sure[rows], kind="stable")]
    return Gallery(f"mistakes-{index}", name, len(rows), tiles(data, given, ordered), index)


def _label_mistakes(given: Answers, name: str, index: int) -> Gallery:
    """Each label that was wrongly given or missed, the one furthest from the truth first."""
    rows, columns = np.nonzero(given.missed | given.added)
    sure = given.outputs[rows, columns]
    order = np.argsort(-np.abs(sure - given.labels[rows, columns]), kind="stable")[:MOST_IN_GALLERY]
    items = tuple(
        Tile(
            given.ids[row],
            given.classes[column],
            "missed" if given.missed[row, column] else "added",
            float(given.outputs[row, column]),
            _labels_text(given, row, "has "),
        )
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
    )
    return Gallery(f"mistakes-{index}", name, len(rows), items, index, "label")


def disagreements(data: ReportData, right: ModelDetail, wrong: ModelDetail, key: str) -> Gallery:
    """Photos that `right` answers better than `wrong` does, over all its runs, widest gap first."""
    at = data.models.index(wrong)
    given = data.shown[at]
    better, worse = (_mean_quality(data, detail) for detail in (right, wrong))
    gap = np.array([better.get(id_, np.nan) - worse.get(id_, np.nan) for id_ in given.ids])
    own = given.quality
    shown = np.isfinite(own) if data.problem == "regression" else own < 1 - (data.problem == "multi_label")
    rows = np.flatnonzero((gap > 0) & shown)
    second = -given.sure[rows] if data.problem == "single_label" else own[rows]
    words = {
        "single_label": "{} is right, {} is wrong",
        "multi_label": "{} gets more labels right than {}",
        "regression": "{} is closer than {}",
    }[data.problem]
    title = words.format(clip(right.name, 60), clip(wrong.name, 60))
    return Gallery(key, title, len(rows), tiles(data, given, rows[np.lexsort((second, -gap[rows]))]), at)


def _mean_quality(data: ReportData, detail: ModelDetail) -> dict[str, float]:
    """Photo id -> how right its answers are, mean over the full runs that hold it."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in data.full_runs(detail):
        given = data.answers_of((run,))
        for id_, quality in zip(given.ids, given.quality.tolist(), strict=True):
            found[id_].append(quality)
    return {id_: sum(values) / len(values) for id_, values in found.items()}


def suspects(data: ReportData) -> Gallery:
    """Photos whose label the out-of-fold head disputes, surest first."""
    ordered = sorted(data.suspects, key=lambda one: -one.confidence)
    items = tuple(Tile(one.id, one.given, one.suggested, one.confidence) for one in ordered[:MOST_IN_GALLERY])
    return Gallery("suspects", "Likely mislabelled", len(ordered), items)


def tiles(data: ReportData, given: Answers, rows: np.ndarray) -> tuple[Tile, ...]:
    """Captions of the photos in `rows`, at most as many as a gallery holds."""
    chosen = rows[:MOST_IN_GALLERY].tolist()
    names = given.classes
    if data.problem == "single_label":
        return tuple(
            Tile(given.ids[row], names[given.labels[row]], names[given.said[row]], float(given.sure[row]))
            for row in chosen
        )
    if data.problem == "multi_label":
        return tuple(
            Tile(given.ids[row], _labels_text(given, row), "", note=_errors_text(given, row)) for row in chosen
        )
    if data.boxes:
        return tuple(Tile(given.ids[row], "", "", note=f"IoU {percent(float(given.quality[row]))}") for row in chosen)
    return tuple(_number_tile(given, row) for row in chosen)


def _number_tile(given: Answers, row: int) -> Tile:
    """The column in which a photo is furthest off: its number, what was said, and the difference."""
    known = np.isfinite(given.errors[row])
    column = int(np.where(known, np.abs(given.errors[row]) / given.spread, -1).argmax())
    true, said = given.labels[row, column], given.outputs[row, column]
    name = f"{given.classes[column]} " if len(given.classes) > 1 else ""
    way = "above" if said > true else "below"
    return Tile(given.ids[row], f"{name}{number(true)}", number(said), note=f"{number(abs(said - true))} {way}")


def _labels_text(given: Answers, row: int, before: str = "") -> str:
    return before + (_names(given, given.labels[row] == 1) or "no label")


def _errors_text(given: Answers, row: int) -> str:
    """'missed clouds; added dog, tree'."""
    parts = [(name, _names(given, mask[row])) for name, mask in _masks(given)]
    return "; ".join(f"{name} {names}" for name, names in parts if names)


def _names(given: Answers, mask: np.ndarray) -> str:
    return ", ".join(given.classes[column] for column in np.flatnonzero(mask)[:MOST_LABELS])


def store(data: ReportData, galleries: Sequence[Gallery]) -> str:
    """The JSON that the page reads: every photo once, what each model said of it, and the galleries.

    Escaped so that it can stand inside a script element whatever the names are.
    """
    ids = _chosen(data, galleries)
    place = {id_: at for at, id_ in enumerate(ids)}
    thumbs = make_thumbnails(ids, data.pixels) if data.pixels else None
    labels, models = _kept(data, ids)
    content = {
        "problem": data.problem,
        "boxes": data.boxes,
        "classes": [clip(name, 100) for name in data.classes],
        "photos": [clip(id_, 100) for id_ in ids],
        "thumbs": [thumbs.data[id_] for id_ in ids] if thumbs else [],
        "labels": labels,
        "models": models,
        "galleries": {
            gallery.key: {
                "model": gallery.model,
                "items": [
                    [
                        place[one.id],
                        clip(one.label, 160),
                        clip(one.said, 160),
                        _thousandths(one.sure),
                        clip(one.note, 160),
                    ]
                    for one in gallery.items
                    if one.id in place
                ],
            }
            for gallery in galleries
        },
    }
    return script_json(content)


def script_json(content: object) -> str:
    """JSON that no name can end early or turn into markup: `<`, `>`, `&`, all beyond ASCII are \\uXXXX."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _thousandths(share: float | None) -> int:
    return -1 if share is None else round(1000 * share)


def _chosen(data: ReportData, galleries: Sequence[Gallery]) -> list[str]:
    """Photo ids in order of need: galleries, mistakes, then the rest, evenly thinned to the limit."""
    wrong: dict[str, None] = {}
    rest: dict[str, None] = {}
    for given in data.shown:
        if data.problem != "regression":
            best = 1 if data.problem == "single_label" else 0
            wrong.update((given.ids[row], None) for row in np.flatnonzero(given.quality < best))
        rest.update((id_, None) for id_ in given.ids)
    in_galleries = {item.id: None for gallery in galleries for item in gallery.items}
    others = [id_ for id_ in rest if id_ not in wrong]
    room = max(0, MOST_PHOTOS - len(wrong))
    if len(others) > room:
        others = [others[at * len(others) // room] for at in range(room)]
    chosen = [*wrong, *others][:MOST_PHOTOS]
    return list({**in_galleries, **dict.fromkeys(chosen)})


def _kept(data: ReportData, ids: Sequence[str]) -> tuple[list[Any], list[dict[str, Any]]]:
    """(labels, what each model said) of the photos in the store, in the form that the problem has."""
    if data.problem == "single_label":
        labels = _column(data.shown[0], ids, data.shown[0].labels, -1)
        return labels, [
            {
                "said": _column(given, ids, given.said, -1),
                "sure": _column(given, ids, np.round(given.sure * 1000).astype(int), -1),
            }
            for given in data.shown
        ]
    if data.problem == "multi_label":
        sets = [np.flatnonzero(row == 1).tolist() for row in data.shown[0].labels]
        return _column(data.shown[0], ids, sets, []), [
            {name: _column(given, ids, _wrong(given, mask), []) for name, mask in _masks(given)} for given in data.shown
        ]
    return _numbers(data.shown[0], ids, data.shown[0].labels), [
        {"numbers": _numbers(given, ids, given.outputs)} for given in data.shown
    ]


def _masks(given: Answers) -> tuple[tuple[str, np.ndarray], ...]:
    return ("missed", given.missed), ("added", given.added)


def _wrong(given: Answers, mask: np.ndarray) -> list[list[list[int]]]:
    """Per photo the [label, probability in thousandths] of the labels in `mask`, most probable first."""
    found = []
    for row in range(len(given)):
        columns = np.flatnonzero(mask[row])
        columns = columns[np.argsort(-given.outputs[row, columns], kind="stable")][:MOST_LABELS]
        found.append([[int(column), round(1000 * given.outputs[row, column])] for column in columns])
    return found


def _numbers(given: Answers, ids: Sequence[str], values: np.ndarray) -> list[Any]:
    """The first columns with four digits each, None where unknown."""
    rows = [
        [float(f"{value:.4g}") if np.isfinite(value) else None for value in row[:MOST_COLUMNS]]
        for row in values.tolist()
    ]
    return _column(given, ids, rows, None)


def _column(given: Answers, ids: Sequence[str], values: Any, absent: Any) -> list[Any]:
    found = dict(zip(given.ids, values.tolist() if isinstance(values, np.ndarray) else values, strict=True))
    return [found.get(id_, absent) for id_ in ids]
