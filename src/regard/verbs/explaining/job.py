"""The work of `explain`: photo by photo asked, drawn and written; what is kept of a photo is its row of the sheet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent
from regard.verbs.explaining.boxes import COLUMNS, Boxes, MeanInside, summary
from regard.verbs.explaining.photos import Photo, View, batches, plain, safe_names
from regard.verbs.explaining.sides import Explained, Side
from regard.verbs.explaining.targets import Photos
from regard.verbs.tables import table_writer

if TYPE_CHECKING:
    from regard.explanation.inside import Inside
    from regard.reporting.explanations import Entry, Panel
    from regard.verbs.explaining.score_table import ScoreTable

WRITERS = 2  # threads that draw and compress
EXPLAINED: dict[str, type] = {
    "path": str, "name": str, "model": str, "answer": str, "answer_value": float, "explained": str,
    "explained_value": float, "width": int, "height": int, "left": float, "top": float, "right": float, "bottom": float,
}  # fmt: skip


class Marked(NamedTuple):
    """The object in what one model sees of a photo: boxes (n, 4) as shares of it, and by method how its map lies."""

    boxes: np.ndarray
    found: dict[str, Inside]


@dataclass
class Job:
    """A call of `explain`, resolved, and what it has found so far.

    entries: of the first photos, for the sheet; found: of every photo with boxes, by side and method; read: places of
    the photos that could be read, and classes: those explained of each, by side.
    """

    sides: Sequence[Side]
    photos: Photos
    folder: Path
    boxes: Boxes | None
    entries: list[Entry] = field(default_factory=list)
    found: dict[tuple[int, str], list[Inside]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    classes: list[tuple[int, ...]] = field(default_factory=list)
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = safe_names(self.photos.ids)

    def inside(self, number: int, method: str) -> MeanInside | None:
        """The means over photos of a method of a side; None where no photo of it has a box."""
        found = self.found.get((number, method))
        return summary(found) if found else None

    def score(self, number: int, on_event: OnEvent) -> ScoreTable:
        """How far the maps of a side can be trusted, on photos spread over those that were read."""
        from regard.verbs.explaining.score import score_methods

        side = self.sides[number]
        return score_methods(
            side.loaded,
            side.methods,
            [self.photos.files[place] for place in self.read],
            [classes[number] for classes in self.classes],
            ids=[self.photos.ids[place] for place in self.read],
            out=self.folder / f"{side.prefix}score",
            on_event=on_event,
        )

    def run(self, batch_size: int, on_event: OnEvent) -> None:
        """Explain and write all photos. Raises RegardError where none can be read."""
        from regard.reporting.explanations import SHOWN

        total, start = len(self.photos), 0
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(WRITERS, thread_name_prefix="draw"))
            listed = stack.enter_context(table_writer(self.folder / "explained.csv", EXPLAINED))
            boxed = stack.enter_context(table_writer(self.folder / "boxes.csv", COLUMNS)) if self.boxes else None
            for group in batches(self.photos.files, [side.loaded.preprocess for side in self.sides], batch_size):
                good: list[tuple[int, Photo]] = []
                for place, photo in enumerate(group, start=start):
                    if isinstance(photo, Photo):
                        good.append((place, photo))
                    else:
                        self.skipped.append(self.photos.ids[place])
                        on_event({"event": "note", "text": f"skipped: {photo}"})
                said = self._asked(good)
                marked = [self._marked(*one, answers) for one, answers in zip(good, said, strict=True)]
                room = SHOWN - len(self.entries)
                shown = [number < room for number in range(len(good))]
                self.entries += [one for one in pool.map(self._written, good, said, marked, shown) if one is not None]
                for (place, photo), answers, marks in zip(good, said, marked, strict=True):
                    self.read.append(place)
                    self.classes.append(tuple(one.number for one in answers))
                    for row in self._rows(place, photo, answers):
                        listed(row)
                    if boxed is not None:
                        for row in self._boxed(place, answers, marks):
                            boxed(row)
                start += len(group)
                on_event({"event": "progress", "title": "explaining", "done": start, "total": total})
            if not self.read:
                raise RegardError(f"photos: none of {total:,} can be read (first: {self.skipped[0]})")

    def _asked(self, photos: Sequence[tuple[int, Photo]]) -> list[tuple[Explained, ...]]:
        """What each side says of each photo."""
        import torch

        if not photos:
            return []
        truths = [self.photos.truths[place] for place, _ in photos] if self.photos.truths is not None else None
        said = [
            side.explain(torch.stack([photo.views[number].pixels for _, photo in photos]), truths)
            for number, side in enumerate(self.sides)
        ]
        return list(zip(*said, strict=True))

    def _marked(self, place: int, photo: Photo, said: tuple[Explained, ...]) -> tuple[Marked, ...]:
        """Where the object lies, and the maps to it, for each side; none where there are no boxes."""
        from regard.explanation.inside import share_inside

        marked = []
        for number, (view, one) in enumerate(zip(photo.views, said, strict=True)):
            boxes = np.empty((0, 4))
            if self.boxes is not None:
                boxes = self.boxes.seen(self.photos.ids[place], one.explained, photo.height, photo.width, view.window)
            found = {method: share_inside(values, boxes) for method, values in one.maps.items()} if len(boxes) else {}
            for method, one_found in found.items():
                self.found.setdefault((number, method), []).append(one_found)
            marked.append(Marked(boxes, found))
        return tuple(marked)

    def _rows(self, place: int, photo: Photo, said: tuple[Explained, ...]) -> Iterator[dict[str, Any]]:
        """Of explained.csv."""
        for side, view, one in zip(self.sides, photo.views, said, strict=True):
            yield {
                "path": self.photos.ids[place], "name": self.names[place], "model": side.title, "answer": one.answer,
                "answer_value": one.given, "explained": one.explained, "explained_value": one.value,
                "width": photo.width, "height": photo.height,
            } | dict(zip(("left", "top", "right", "bottom"), view.window, strict=True))  # fmt: skip

    def _boxed(self, place: int, said: tuple[Explained, ...], marks: tuple[Marked, ...]) -> Iterator[dict[str, Any]]:
        """Of boxes.csv."""
        for side, one, mark in zip(self.sides, said, marks, strict=True):
            for method, found in mark.found.items():
                about = {"path": self.photos.ids[place], "model": side.title, "method": method, "class": one.explained}
                yield about | found._asdict()

    def _written(
        self, placed: tuple[int, Photo], said: tuple[Explained, ...], marked: tuple[Marked, ...], shown: bool
    ) -> Entry | None:
        """The files of a photo, and its row of the sheet if it is shown there."""
        from regard.reporting.explanations import Entry

        place, photo = placed
        arrays: dict[str, Any] = {"size": (photo.width, photo.height)}
        panels = []
        for side, view, one, marks in zip(self.sides, photo.views, said, marked, strict=True):
            about = {
                **one.maps, "methods": list(one.maps), "model": side.title, "answer": one.answer,
                "answer_value": one.given, "explained": one.explained, "explained_value": one.value,
                "window": view.window,
            }  # fmt: skip
            arrays |= {f"{side.prefix}{key}": value for key, value in about.items()}
            panels.append(self._panel(side, self.names[place], view, one, marks, shown))
        out = io.BytesIO()
        np.savez_compressed(out, **arrays)
        self._put(f"maps/{self.names[place]}.npz", out.getvalue())
        return Entry(self.photos.ids[place], tuple(panels)) if shown else None

    def _panel(self, side: Side, name: str, view: View, one: Explained, marks: Marked, shown: bool) -> Panel:
        """The pictures of one side, written, and small for the sheet."""
        from regard.reporting.explanations import Panel, Tile, value_words
        from regard.reporting.overlays import framed, overlay, png, small

        tiles = []
        for method, values in one.maps.items():
            picture = framed(overlay(view.picture, values), marks.boxes)
            self._put(f"overlays/{name}.{side.prefix}{plain(method)}.png", png(picture))
            found = marks.found.get(method)
            measured = (found.inside, found.peak_inside) if found else (None, None)
            tiles.append(Tile(method, small(picture) if shown else b"", *measured))
        numbers = side.loaded.problem == "regression"
        explained = "" if one.explained == one.answer else value_words(one.explained, one.value, numbers)
        answer = value_words(one.answer, one.given, numbers)
        photo = small(framed(view.picture, marks.boxes)) if shown else b""
        first = next(iter(marks.found.values()), None)
        measured = (first.area, first.centre) if first else (None, None)
        return Panel(side.title, photo, answer, explained, tuple(tiles), *measured)

    def _put(self, name: str, data: bytes) -> None:
        put(self.folder / name, data)


def put(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all. Raises RegardError where the disk refuses."""
    from regard.runs.atomic import write_atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError as error:
        raise RegardError(
            f"{path}: cannot be written ({error.strerror or error}); make room or choose another --out"
        ) from None
