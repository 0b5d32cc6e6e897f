"""`regard evaluate`: how good a model is on labelled images."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from regard.errors import RegardError
from regard.results import Predictions, Problem
from regard.verbs.events import OnEvent, silent
from regard.verbs.prepare import load_aloud

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from regard.data.sources import ImageSet
    from regard.evaluation.intervals import Metric
    from regard.evaluation.metrics import ClassRow, Mistake
    from regard.evaluation.multilabel import LabelRow
    from regard.evaluation.regression import ColumnRow
    from regard.evaluation.slices import SliceRow
    from regard.inference.loaded import LoadedModel


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    problem: what the labels are; images: scored; source: which they are, in words; skipped: ids of unreadable files;
    metrics with their intervals; per_class: one row per class, label or column of numbers, in their order; slices:
    column -> one row per value. Of one class per image only: confusion (K, K), row = label, column = answer (None
    otherwise), and mistakes, most confident first.
    """

    model: str
    pretraining: str
    problem: Problem
    images: int
    source: str
    skipped: tuple[str, ...]
    temperature: float
    metrics: dict[str, Metric]
    per_class: tuple[ClassRow, ...] | tuple[LabelRow, ...] | tuple[ColumnRow, ...]
    slices: dict[str, tuple[SliceRow, ...]]
    confusion: np.ndarray | None
    mistakes: tuple[Mistake, ...]


def evaluate(
    model: str | Path | LoadedModel | nn.Module,
    data: str | Path,
    *,
    weights: str | Path | None = None,
    slices: tuple[str, ...] = (),
    batch_size: int = 32,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    max_bad: float = 0.01,
    on_event: OnEvent = silent,
) -> Evaluation:
    """Score a trained model on labelled images.

    For a run, and the data it was trained on, only the test images of its split are scored. Data that come
    with a test part are scored on that part; other data on every image. Which it was is said aloud. A run knows what
    its labels were (one class, several labels, numbers, boxes), and in which columns they stand.

    Args:
        model: a run folder, a name, a name with a weights tag, or timm:NAME
        data: class folders (with or without train/val/test), a CSV or Parquet table (path, label),
            torchvision:NAME, or digits
        weights: weights file to use in place of a download
        slices: columns of a table by whose values the metrics are reported too
        batch_size: images in one pass
        precision: fp32 is what training reported; auto takes bfloat16 where a short measurement finds it faster
        max_bad: share of unreadable files above which the evaluation is refused
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    from regard.data.draws import together
    from regard.data.sources import open_images
    from regard.evaluation.metrics import confusion, most_confident_mistakes
    from regard.evaluation.problems import summarise
    from regard.evaluation.slices import per_slice

    loaded = load_aloud(model, on_event, weights)
    images = open_images(data, loaded.classes, problem=loaded.problem, slices=slices, **_as_trained(model, data))
    rows, source = rows_to_score(images, model)
    on_event({"event": "note", "text": f"scoring {len(rows):,} images: {source}"})
    predictions, skipped = answer(loaded, images, rows, batch_size, precision, max_bad, on_event)
    groups = together(images)
    temperature, thresholds = loaded.temperature, loaded.thresholds
    single = loaded.problem == "single_label"
    return Evaluation(
        model=loaded.name,
        pretraining=loaded.pretraining,
        problem=loaded.problem,
        images=len(predictions),
        source=source,
        skipped=skipped,
        temperature=temperature,
        metrics=summarise(predictions, temperature, groups, thresholds),
        per_class=_rows(predictions, temperature, thresholds, groups),
        slices={
            name: tuple(
                per_slice(predictions, dict(zip(images.ids, cells, strict=True)), temperature, groups, thresholds)
            )
            for name, cells in images.slices.items()
        },
        confusion=confusion(predictions) if single else None,
        mistakes=tuple(most_confident_mistakes(predictions, temperature)) if single else (),
    )


def _as_trained(model: object, data: str | Path) -> dict[str, Any]:
    """Arguments of `open_images` from a run's folder: its columns for a table, its groups for its own data."""
    from regard.data.tables import TABLE_SUFFIXES
    from regard.runs.run import Run

    if not isinstance(model, str | Path) or not (Path(model) / "config.yaml").is_file():
        return {}
    config = Run.open(model).config
    found: dict[str, Any] = {}
    if config.get("target") and Path(data).suffix.lower() in TABLE_SUFFIXES:
        found["target"] = tuple(config["target"])
    if config.get("group") and config.get("source", {}).get("data") == str(data):
        found["group"] = config["group"]
    return found


def _rows(
    predictions: Predictions, temperature: float, thresholds: Sequence[float], groups: Sequence[Sequence[str]]
) -> tuple[ClassRow, ...] | tuple[LabelRow, ...] | tuple[ColumnRow, ...]:
    """One row per class, label or column."""
    from regard.evaluation.metrics import per_class
    from regard.evaluation.multilabel import per_label
    from regard.evaluation.regression import per_column

    if predictions.problem == "multi_label":
        return tuple(per_label(predictions, thresholds, temperature, groups))
    if predictions.problem == "regression":
        return tuple(per_column(predictions, groups))
    return tuple(per_class(predictions))


def rows_to_score(images: ImageSet, model: object) -> tuple[np.ndarray, str]:
    """(row numbers, which images they are in words): a run's test images, a given test part, or all."""
    parts = _parts_of_run(model)
    known = [parts.get(id_) for id_ in images.ids]
    # A folder that has gained or lost a few images since is still the data of the run.
    if sum(part is not None for part in known) * 2 >= len(images):
        rows = np.flatnonzero([part == "test" for part in known])
        if len(rows):
            return rows, f"the test images of the run's split, of {len(images):,} in {images.name}"
        raise RegardError(f"{images.name}: holds only images that the run {model} was trained on or chosen by")
    rows = np.flatnonzero([part == "test" for part in images.split])
    if len(rows):
        return rows, f"the test part of {images.name}"
    return np.arange(len(images)), f"all of {images.name}"


def _parts_of_run(model: object) -> dict[str, str]:
    """Id -> train, val or test from the split.csv of a run folder; empty for any other model."""
    path = Path(model) / "split.csv" if isinstance(model, str | Path) else None
    if path is None or not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["split"] for row in csv.DictReader(file)}


def answer(
    loaded: LoadedModel,
    images: ImageSet,
    rows: np.ndarray,
    batch_size: int,
    precision: Literal["auto", "fp32", "bf16"],
    max_bad: float,
    on_event: OnEvent,
) -> tuple[Predictions, tuple[str, ...]]:
    """(predictions of the images that can be read, ids of those that cannot).

    Too many of these are a RegardError.
    """
    from regard.inference.precision import choose_precision
    from regard.inference.rows import predict_rows

    chosen = choose_precision(loaded.model, loaded.preprocess.size, len(rows), precision)
    ids = [images.ids[int(row)] for row in rows]
    sources = (images.sources[int(row)] for row in rows)
    logits, kept, skipped = [], [], []
    title = f"evaluating {loaded.name}"
    for done, row in enumerate(predict_rows(loaded, ids, sources, batch_size, chosen), start=1):
        if row.logits is None:
            skipped.append(row.id)
            on_event({"event": "note", "text": f"skipped: {row.message}"})
        else:
            kept.append(int(rows[done - 1]))
            logits.append(row.logits)
        if done % batch_size == 0 or done == len(ids):
            on_event({"event": "progress", "title": title, "done": done, "total": len(ids)})
    if len(skipped) > max_bad * len(ids) or not kept:
        raise RegardError(
            f"{images.name}: {len(skipped)} of {len(ids)} images cannot be read (first: {skipped[0]}); "
            f"`regard check` names them; remove them or raise --max-bad above {max_bad:g}"
        )
    kept_ids = tuple(images.ids[row] for row in kept)
    found = Predictions(kept_ids, np.stack(logits), images.labels[kept], loaded.classes, loaded.problem)
    return found, tuple(skipped)
