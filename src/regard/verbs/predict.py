"""`regard predict`: what a model says about photos, one row each, whatever state they are in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent, silent
from regard.verbs.prepare import load_aloud
from regard.verbs.tables import table_writer

if TYPE_CHECKING:
    from torch import nn

    from regard.inference.loaded import LoadedModel
    from regard.inference.rows import Row

SHOWN = 1000  # rows in a terminal


@dataclass(frozen=True)
class Photo:
    """One photo's answer; an unreadable photo has an error code, a message, and no answer.

    probability: of the class, after the model's temperature; unsure: below the model's threshold; top: the
    most probable classes with their probabilities, highest first.
    """

    path: str
    label: str | None
    probability: float | None
    unsure: bool | None
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    message: str = ""

    def row(self, top: int) -> dict[str, Any]:
        """The cells of a table: path, class, probability, unsure, error, class_2, probability_2, ..."""
        cells: dict[str, Any] = {
            "path": self.path,
            "class": self.label,
            "probability": self.probability,
            "unsure": self.unsure,
            "error": self.error,
        }
        for place in range(1, top):
            name, probability = self.top[place] if self.top else (None, None)
            cells |= {f"class_{place + 1}": name, f"probability_{place + 1}": probability}
        return cells


@dataclass(frozen=True)
class PhotoAnswers:
    """What `predict` did: counts, the file written, or the rows themselves where no file was asked for."""

    model: str
    photos: int
    unsure: int
    errors: int
    out: Path | None
    rows: tuple[Photo, ...]

    def lines(self) -> Iterator[str]:
        """The rows for a terminal, or the name of the file, and the counts."""
        for photo in self.rows[:SHOWN]:
            if photo.error:
                yield f"{photo.path}  error: {photo.error}"
            else:
                doubt = "  unsure" if photo.unsure else ""
                yield f"{photo.path}  {photo.label}  {100 * (photo.probability or 0):.1f}%{doubt}"
        if len(self.rows) > SHOWN:
            yield f"... and {len(self.rows) - SHOWN:,} more; --out FILE writes all of them"
        where = f" in {self.out}" if self.out else ""
        yield f"{self.photos:,} photos{where}: {self.unsure:,} unsure, {self.errors:,} unreadable"


def predict(
    model: str | Path | LoadedModel | nn.Module,
    photos: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    top: int = 3,
    weights: str | Path | None = None,
    batch_size: int = 32,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    on_event: OnEvent = silent,
) -> PhotoAnswers:
    """Classify photos, one row each, whatever state they are in.

    Rows come in the order of the photos. A photo that cannot be read keeps its row, with an error code.
    Cells of a CSV that a spreadsheet would run as a formula begin with an apostrophe. The file appears when
    it is whole.

    Args:
        model: a run folder, a name, a name with a weights tag, or timm:NAME
        photos: image files, and folders that are searched for image files
        out: table to write (.csv, .jsonl or .parquet); without it the rows are returned
        top: most probable classes to give
        weights: weights file to use in place of a download
        batch_size: photos in one pass
        precision: auto takes bfloat16 where a short measurement finds it faster, fp32 gives the same bits each time
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    from regard.data.sources import list_photos
    from regard.inference.precision import choose_precision
    from regard.inference.rows import predict_rows

    if top < 1:
        raise RegardError(f"top={top}: expected at least 1")
    ids, sources = list_photos([photos] if isinstance(photos, str | Path) else photos)
    loaded = load_aloud(model, on_event, weights)
    chosen = choose_precision(loaded.model, loaded.preprocess.size, len(ids), precision)
    top = min(top, len(loaded.classes))
    kept: list[Photo] = []
    counts = {"unsure": 0, "errors": 0}
    with table_writer(out, columns(top)) if out else nullcontext() as write:
        for done, row in enumerate(predict_rows(loaded, ids, sources, batch_size, chosen), start=1):
            photo = photo_of(row, loaded, top)
            counts["unsure"] += bool(photo.unsure)
            counts["errors"] += bool(photo.error)
            if write:
                write(photo.row(top))
            else:
                kept.append(photo)
            if done % batch_size == 0 or done == len(ids):
                on_event({"event": "progress", "title": "predicting", "done": done, "total": len(ids)})
    return PhotoAnswers(loaded.name, len(ids), out=Path(out) if out else None, rows=tuple(kept), **counts)


def columns(top: int) -> dict[str, type]:
    """The columns of the table and what they hold."""
    kinds: dict[str, type] = {"path": str, "class": str, "probability": float, "unsure": bool, "error": str}
    for place in range(2, top + 1):
        kinds |= {f"class_{place}": str, f"probability_{place}": float}
    return kinds


def photo_of(row: Row, loaded: LoadedModel, top: int) -> Photo:
    """One photo's answer from its logits."""
    if row.logits is None:
        return Photo(row.id, None, None, None, error=row.error, message=row.message)
    scaled = row.logits.astype(np.float64) / loaded.temperature
    exponentials = np.exp(scaled - scaled.max())
    probabilities = exponentials / exponentials.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    best = tuple((loaded.classes[place], float(probabilities[place])) for place in order)
    label, probability = best[0]
    return Photo(row.id, label, probability, probability < loaded.unsure_below, best)
