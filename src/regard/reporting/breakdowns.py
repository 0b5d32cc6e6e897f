"""Tables that break a figure down: per class, label, column, slice and fold, and known against unknown photos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.reporting.records import ClassScore, ModelDetail, ReportData, SliceScore
from regard.reporting.sentences import headline, photos_shown
from regard.reporting.words import (
    MISSING,
    Score,
    bounded,
    count,
    decimal,
    decimal_2,
    interval,
    known,
    number,
    percent,
    plural,
    range_of,
)

MOST_SLICES = 60  # values of a column that are printed, worst first


@dataclass(frozen=True)
class Table:
    """A table of names and numbers: the first column holds names; a cell is (value, small print)."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    note: str = ""


def class_tables(data: ReportData) -> tuple[tuple[str, tuple[ClassScore, ...]], ...]:
    """(model, its classes, lowest recall first) where the classes were scored."""
    return tuple(
        (
            detail.name,
            tuple(sorted(detail.per_class, key=lambda one: one.recall if known(one.recall) else 2.0)),
        )
        for detail in data.models
        if detail.per_class
    )


def score_tables(data: ReportData) -> tuple[Table, ...]:
    """One table per model: its labels, lowest average precision first, or its columns of numbers."""
    return tuple(table for detail in data.models for table in (_label_table(detail), _column_table(detail)) if table)


def _label_table(detail: ModelDetail) -> Table | None:
    if not detail.per_label:
        return None
    ordered = sorted(
        detail.per_label,
        key=lambda one: (
            one.average_precision.value if one.average_precision and known(one.average_precision.value) else 2.0
        ),
    )
    rows = tuple(
        (
            one.name,
            (
                (count(one.photos), ""),
                *(bounded(value, percent) for value in (one.average_precision, one.precision, one.recall, one.f1)),
                (range_of(one.thresholds, decimal_2), ""),
            ),
        )
        for one in ordered
    )
    head = ("label", "photos", "average precision", "precision", "recall", "F1", "threshold")
    return Table(detail.name, head, rows)


def _column_table(detail: ModelDetail) -> Table | None:
    if not detail.per_column:
        return None
    rows = tuple(
        (
            one.name,
            ((count(one.photos), ""), bounded(one.mae, number), bounded(one.rmse, number), bounded(one.r2, decimal)),
        )
        for one in detail.per_column
    )
    return Table(detail.name, ("column", "photos", "MAE", "RMSE", "R²"), rows)


def slice_tables(data: ReportData) -> tuple[tuple[Table, tuple[str, ...]], ...]:
    """Per column: every value with its photos and each model's headline, worst for the first model first; warnings."""
    score = headline(data)
    columns = dict.fromkeys(column for detail in data.models for column in detail.slices)
    found = []
    for column in columns:
        scored = {detail.name: {one.value: one for one in detail.slices.get(column, ())} for detail in data.models}
        lead = next(rows for rows in scored.values() if rows)
        photos = {value: one.photos for rows in scored.values() for value, one in rows.items()}
        ordered = sorted(photos, key=lambda value: _slice_order(score, lead.get(value)))
        rows = tuple(
            (value, ((count(photos[value]), ""), *(_slice_cell(rows.get(value), score) for rows in scored.values())))
            for value in ordered[:MOST_SLICES]
        )
        overall = tuple(bounded(detail.metrics.get(score.key), score.text) for detail in data.models)
        rows += (("all test photos", ((count(photos_shown(data, data.models[0])), ""), *overall)),)
        note = f"The {MOST_SLICES} worst of {len(ordered):,} values." if len(ordered) > MOST_SLICES else ""
        table = Table(column, ("value", "photos", *(detail.name for detail in data.models)), rows, note)
        found.append((table, slice_warnings(data, column)))
    return tuple(found)


def _slice_order(score: Score, one: SliceScore | None) -> tuple[float, int]:
    """Worst first, unknown last; of equals the smaller slice first."""
    if one is None or one.score is None or not known(one.score.value):
        return np.inf, 0
    return -one.score.value if score.less_is_better else one.score.value, one.photos


def _slice_cell(one: SliceScore | None, score: Score) -> tuple[str, str]:
    return bounded(one.score, score.text) if one else (MISSING, "")


def slice_warnings(data: ReportData, column: str) -> tuple[str, ...]:
    """A line for each slice whose whole interval is worse than the model's figure over all photos."""
    score = headline(data)
    lines = []
    for detail in data.models:
        overall = detail.metrics.get(score.key)
        if overall is None or not known(overall.value):
            continue
        for one in detail.slices.get(column, ()):
            best = (one.score.low if score.less_is_better else one.score.high) if one.score else None
            # Judged by what is printed: the bound of a perfect slice is 1 but for rounding.
            apart = known(best) and score.text(best) != score.text(overall.value)
            if one.score and known(best) and apart and score.better(overall.value, best):
                lines.append(
                    f"{detail.name} is worse on {column} = {one.value}: {score.text(one.score.value)} {score.title} "
                    f"({interval(one.score.low, one.score.high, score.text)}) on {plural(one.photos, 'photo')}, "
                    f"{score.text(overall.value)} over all"
                )
    return tuple(lines)


def unknown_tables(data: ReportData) -> tuple[Table, ...]:
    """Per model: how well each score tells known photos from unknown ones, and what its threshold does."""
    found = []
    for detail in data.models:
        rows = tuple(
            (
                one.score,
                (
                    bounded(one.auroc, decimal),
                    bounded(one.fpr95, percent),
                    (number(one.threshold), ""),
                    (percent(one.known_rejected), ""),
                    (percent(one.unknown_rejected), ""),
                ),
            )
            for one in detail.unknown
        )
        head = ("score", "AUROC", "FPR95", "threshold", "known photos called unknown", "unknown photos found")
        if rows:
            first = detail.unknown[0]
            note = f"{plural(first.known, 'known photo')}, {plural(first.unknown, 'unknown photo')}"
            found.append(Table(detail.name, head, rows, note))
    return tuple(found)


def fold_table(data: ReportData) -> Table | None:
    """Every fold of every repeat: its test photos and the headline metric of each model."""
    if not data.folds:
        return None
    score = headline(data)
    places = sorted({(run.seed, run.fold) for run in data.runs if run.fold is not None})
    rows = []
    for seed, fold in places:
        runs = [
            next((run for run in data.full_runs(detail) if (run.seed, run.fold) == (seed, fold)), None)
            for detail in data.models
        ]
        photos = next(len(run.test) for run in runs if run)
        name = f"repeat {seed}, fold {fold + 1}" if data.repeats > 1 else f"fold {fold + 1}"
        cells = tuple((score.text(data.score(run)) if run else MISSING, "") for run in runs)
        rows.append((name, ((count(photos), ""), *cells)))
    head = ("fold", "test photos", *(detail.name for detail in data.models))
    return Table(f"{score.title} of every fold", head, tuple(rows))
