"""One photo's answer, for every kind of label: from a model's numbers to a row of a table or a line."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from regard.results import Predictions, Problem

if TYPE_CHECKING:
    from regard.data.photos import PhotoList
    from regard.inference.backends import Backend
    from regard.inference.loaded import LoadedModel

FIXED = ("path", "error", "bytes", "modified", "unknown")  # columns of every table
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Unknown(Protocol):
    """A run's fitted threshold for photos of none of its classes."""

    @property
    def threshold(self) -> float: ...

    def score(self, pooled: np.ndarray, probabilities: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Photo:
    """One photo's answer; an unreadable photo has an error code, a message, and no answer.

    label: the most probable class, with its probability after the model's temperature; unsure: below the
    threshold of the run; unknown: looks like none of the classes; both None where the model has no such threshold;
    top: the most probable classes with their probabilities, highest first. Several labels: `labels` that are
    given, and in `values` every label's probability. Numbers: `values`. bytes, modified: of the file as it
    was read, the time in UTC.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    unsure: bool | None = None
    unknown: bool | None = None
    top: tuple[tuple[str, float], ...] = ()
    labels: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    bytes: int | None = None
    modified: str | None = None
    error: str = ""
    message: str = ""

    def line(self, classes: tuple[str, ...]) -> str:
        """The answer for a terminal; classes: the names of `values`."""
        if self.error:
            return f"{self.path}  error: {self.error}"
        if self.label is not None:
            words = [f"{self.label}  {100 * (self.probability or 0):.1f}%"]
        elif self.top:
            words = [", ".join(f"{name} {100 * share:.1f}%" for name, share in self.top if name in self.labels)]
            words = words if self.labels else ["no label"]
        else:
            words = [", ".join(f"{name} {value:.6g}" for name, value in zip(classes, self.values, strict=True))]
        words += [word for word, said in (("unsure", self.unsure), ("unknown", self.unknown)) if said]
        return "  ".join([self.path, *words])


@dataclass(frozen=True)
class Layout:
    """The table of a model's answers; top: classes to give, unknown: there is a threshold of unknown photos."""

    problem: Problem
    classes: tuple[str, ...]
    top: int
    unknown: bool

    def columns(self) -> dict[str, type]:
        """The columns of the table and what they hold."""
        kinds: dict[str, type] = {"path": str}
        if self.problem == "single_label":
            kinds |= {"class": str, "probability": float, "unsure": bool}
        elif self.problem == "multi_label":
            kinds |= {"labels": str}
        else:
            kinds |= dict.fromkeys(self._value_columns(), float)
        kinds |= {"unknown": bool} if self.unknown else {}
        kinds |= {"error": str}
        if self.problem == "single_label":
            for place in range(2, self.top + 1):
                kinds |= {f"class_{place}": str, f"probability_{place}": float}
        elif self.problem == "multi_label":
            kinds |= dict.fromkeys(self._value_columns(), float)
        return kinds | {"bytes": int, "modified": str}

    def _value_columns(self) -> list[str]:
        """Names of the columns of `Photo.values`."""
        if self.problem == "multi_label":
            return [f"probability_{name}" for name in self.classes]
        return [f"predicted_{name}" if name in FIXED else name for name in self.classes]

    def cells(self, photo: Photo) -> dict[str, Any]:
        """The cells of `columns` for one photo."""
        cells: dict[str, Any] = {name: getattr(photo, name) for name in FIXED}
        if self.problem == "single_label":
            cells |= {"class": photo.label, "probability": photo.probability, "unsure": photo.unsure}
            for place in range(2, self.top + 1):
                name, probability = photo.top[place - 1] if photo.top else (None, None)
                cells |= {f"class_{place}": name, f"probability_{place}": probability}
            return cells
        if self.problem == "multi_label":
            cells["labels"] = None if photo.error else "|".join(photo.labels)
        values = photo.values or (None,) * len(self.classes)
        return cells | dict(zip(self._value_columns(), values, strict=True))


@dataclass(frozen=True)
class Answerer:
    """A model and what computes it; top: most probable classes to give."""

    loaded: LoadedModel
    backend: Backend
    unknown: Unknown | None
    top: int
    batch_size: int

    def photos(self, photos: PhotoList, start: int, stop: int) -> Iterator[Photo]:
        """Answers to the photos from `start` to before `stop`, in order and in constant memory."""
        from regard.inference.rows import output_batches

        states: deque[dict[str, Any]] = deque()

        def files() -> Iterator[str]:
            for place in range(start, stop):
                path = photos.path(place)
                states.append(file_state(path))
                yield path

        place = start
        for decoded, found in output_batches(self.backend.run, files(), self.loaded.preprocess, self.batch_size):
            answers = dict(zip(decoded.good, self._answers(found), strict=True)) if found is not None else {}
            for inner in range(len(decoded)):
                cells: dict[str, Any] = states.popleft()
                if inner in decoded.errors:
                    error = decoded.errors[inner]
                    cells |= {"error": error.code, "message": str(error)}
                else:
                    cells |= answers[inner]
                yield Photo(photos.id(place), **cells)
                place += 1

    def _answers(self, found: np.ndarray) -> list[dict[str, Any]]:
        """Fields of `Photo` for each row of a backend's output."""
        loaded, count = self.loaded, len(self.loaded.classes)
        logits, pooled = found[:, :count], found[:, count:]
        answers = Predictions(("",) * len(found), logits, np.zeros(0), loaded.classes, loaded.problem)
        numbers = logits.astype(np.float64)
        told = self._numbers
        if loaded.problem != "regression":
            numbers = answers.probabilities(loaded.temperature)
            told = self._labels if loaded.problem == "multi_label" else self._class
        strange = np.full(len(found), None)
        if self.unknown is not None:
            strange = self.unknown.score(pooled, numbers) < self.unknown.threshold
        rows = []
        for row, unknown in zip(numbers, strange.tolist(), strict=True):
            if np.isfinite(row).all():
                rows.append(told(row) | {"unknown": unknown})
            else:
                rows.append({"error": "not-finite", "message": "the model gave a number that is not finite"})
        return rows

    def _class(self, row: np.ndarray) -> dict[str, Any]:
        best = self._best(row)
        label, probability = best[0]
        unsure = probability < self.loaded.unsure_below if self.loaded.unsure_below > 0 else None
        return {"label": label, "probability": probability, "unsure": unsure, "top": best}

    def _labels(self, row: np.ndarray) -> dict[str, Any]:
        thresholds = self.loaded.thresholds or (0.5,) * len(row)
        given = [name for name, p, least in zip(self.loaded.classes, row, thresholds, strict=True) if p >= least]
        order = self._best(row, len(row))
        return {"labels": tuple(given), "values": tuple(row.tolist()), "top": order}

    def _numbers(self, row: np.ndarray) -> dict[str, Any]:
        return {"values": tuple(row.tolist())}

    def _best(self, row: np.ndarray, most: int | None = None) -> tuple[tuple[str, float], ...]:
        order = np.argsort(-row, kind="stable")[: most or self.top]
        return tuple((self.loaded.classes[place], float(row[place])) for place in order)


def file_state(path: str) -> dict[str, Any]:
    """Size in bytes and time of change of a file (ISO 8601, UTC), as far as they can be had."""
    try:
        status = os.stat(path)
        modified = EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
    except (OSError, ValueError, OverflowError):  # gone, or a time that no calendar has
        return {}
    return {"bytes": status.st_size, "modified": modified.isoformat(timespec="microseconds")}
