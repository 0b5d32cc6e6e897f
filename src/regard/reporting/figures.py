"""The charts of a report, drawn from its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from regard.reporting.confusions import Confusion
from regard.reporting.plots import (
    Frame,
    Point,
    Series,
    cell_chart,
    forest,
    legend,
    line_chart,
    span,
    verdict_chart,
)
from regard.reporting.records import ModelDetail, ReportData
from regard.reporting.sentences import headline, headline_estimate, leader_first
from regard.reporting.words import GAPS, Score, clip, count, decimal_2, known, percent, percent_tick, short
from regard.results import RunResult


@dataclass(frozen=True)
class Figure:
    """A chart with its legend, a note, and the numbers behind it where they stand in no other table."""

    title: str
    svg: Markup
    legend: Markup | str = ""
    note: str = ""
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def styles(data: ReportData) -> dict[str, tuple[int, int]]:
    """(colour, dash) per model name: one colour per architecture, one dash per method."""
    models = list(dict.fromkeys(detail.model for detail in data.models))
    methods = list(dict.fromkeys(detail.method for detail in data.models))
    return {d.name: (models.index(d.model), methods.index(d.method)) for d in data.models}


def tick_of(score: Score) -> Callable[[float | None], str]:
    """How a metric is printed on an axis."""
    return percent_tick if score.text is percent else short


def headline_figure(data: ReportData) -> Figure | None:
    """Every model's mean headline metric with its interval and its runs."""
    score = headline(data)
    rows = []
    for detail in data.models:
        value, runs = data.mean_score(detail), [data.score(run) for run in data.full_runs(detail)]
        measured = headline_estimate(data, detail)
        low, high = (measured.low, measured.high) if measured else (None, None)
        if known(value):
            dots = tuple((one, 0.0) for one in runs) if len(runs) > 1 else ()
            one = Series(clip(detail.name, 42), *styles(data)[detail.name], dots=dots)
            rows.append((one, value, low if known(low) else None, high if known(high) else None))
    if len(rows) < 2:
        return None
    bars = "Line: its interval." if any(low is not None for _, _, low, _ in rows) else ""
    single = "folds" if data.folds else "seeds"
    dots = f"Large: mean over {single}. Small: single {single}." if any(one.dots for one, *_ in rows) else ""
    title = f"{score.title} on the test photos"
    svg = forest(score.key, title, rows, score.text, tick_of(score))
    less = "Lower is better." if score.less_is_better else ""
    return Figure(title, svg, note=" ".join(filter(None, (dots, bars, less))))


def verdict_figure(data: ReportData) -> Figure | None:
    """Every tested difference with its interval, against 0 and the margin of equivalence."""
    if not data.verdicts:
        return None
    led = [leader_first(verdict) for verdict in data.verdicts]
    rows = [(f"{clip(v.a, 26)} − {clip(v.b, 26)}", v.difference, v.low, v.high) for v in led]
    gap = GAPS[led[0].metric]
    title = f"Difference in {gap.of} with its interval"
    svg = verdict_chart("verdict-chart", title, rows, led[0].margin, lambda value: gap.text(value, True), gap.axis)
    note = "To the right: smaller errors of the first." if led[0].metric == "scaled_mae" else ""
    return Figure(title, svg, note=note)


def data_curves(data: ReportData) -> Figure | None:
    """The headline metric against training images: mean as line, lowest to highest run as band, runs as dots."""
    score = headline(data)
    series, rows = [], []
    for detail in data.models:
        groups: dict[int, list[float]] = defaultdict(list)
        sizes = _images_at_fraction(data.runs_of(detail))
        for run in sorted(data.runs_of(detail), key=lambda run: run.seed):
            groups[sizes[run.fraction]].append(data.score(run))
        at = sorted(groups)
        colour, dash = styles(data)[detail.name]
        series.append(
            Series(
                clip(detail.name, 60),
                colour,
                dash,
                points=tuple((x, float(np.mean(groups[x]))) for x in at),
                band=tuple((x, min(groups[x]), max(groups[x])) for x in at),
                dots=tuple((x, y) for x in at for y in groups[x] if len(groups[x]) > 1),
            )
        )
        rows += [
            (
                detail.name,
                count(x),
                score.text(float(np.mean(groups[x]))),
                ", ".join(score.text(y) for y in groups[x]),
            )
            for x in at
        ]
    ticks = sorted({x for one in series for x, _ in one.points})
    if len(ticks) < 2:
        return None
    title = f"{score.title} against training images"
    frame = Frame(title, "training images", f"{score.noun}, test", True, tuple(ticks), count, tick_of(score))
    runs = "fold" if data.folds else "seed"
    return Figure(
        frame.title,
        line_chart("data-curves", frame, series),
        legend(series),
        f"Line: mean over {runs}s. Band: lowest to highest {runs}. Dots: single {runs}s.",
        ("model", "training images", f"mean {score.noun}", f"each {runs}"),
        tuple(rows),
    )


def _images_at_fraction(runs: Iterable[RunResult]) -> dict[float, int]:
    """Training images per fraction: the median, as seeds redraw the cut and may differ by a photo or two."""
    sizes: dict[float, list[int]] = defaultdict(list)
    for run in runs:
        sizes[run.fraction].append(run.train_images)
    return {fraction: int(np.median(images)) for fraction, images in sizes.items()}


def _progress(data: ReportData, run: RunResult) -> list[Point]:
    """(FLOPs spent, headline metric on validation) along one run; its end alone where it has no curve."""
    flops, key = run.cost.train_flops, f"val/{headline(data).key}"
    if not flops:
        return []
    rows = [(row["images"], row[key]) for row in run.curve if row.get("images", 0) > 0 and known(row.get(key))]
    if rows and run.images_seen:
        return [(flops * images / run.images_seen, value) for images, value in rows]
    return [(flops, data.validation_score(run))] if known(data.validation_score(run)) else []


def compute_figure(data: ReportData) -> Figure | None:
    """Validation figures against training compute, and each model's compute to reach the same figure."""
    score = headline(data)
    progress = {detail.name: [_progress(data, run) for run in data.full_runs(detail)] for detail in data.models}
    progress = {name: curves for name, curves in progress.items() if curves and all(curves)}
    if not progress:
        return None
    series = []
    for name, curves in progress.items():
        steps = list(zip(*curves, strict=False))  # evaluations that every run reached
        mean = tuple((float(np.mean([x for x, _ in at])), float(np.mean([y for _, y in at]))) for at in steps)
        band = tuple((mean[i][0], min(y for _, y in at), max(y for _, y in at)) for i, at in enumerate(steps))
        series.append(Series(clip(name, 60), *styles(data)[name], points=mean, band=band, markers=len(mean) < 12))
    best, worst = (min, max) if score.less_is_better else (max, min)
    target = worst(best(y for _, y in one.points) for one in series)
    rows = []
    for name, one in zip(progress, series, strict=True):
        reached = next((x for x, y in one.points if not score.better(target, y)), None)
        rows.append((name, short(one.points[-1][0], "FLOPs"), short(reached, "FLOPs")))
    title = f"{score.title} against training compute"
    frame = Frame(title, "training FLOPs", f"{score.noun}, validation", x_log=True, y_text=tick_of(score))
    return Figure(
        frame.title,
        line_chart("compute", frame, series),
        legend(series),
        "Compute of training on the full set alone; pre-training is not counted.",
        ("model", "spent", f"until {score.text(target)} {score.title} on validation"),
        tuple(rows),
    )


def learning_figures(data: ReportData) -> tuple[tuple[str, tuple[Figure, ...]], ...]:
    """Per model: loss and headline against images seen, training solid and validation dashed, a line per run."""
    score = headline(data)
    kinds = (
        ("loss", "Loss", "loss", ("loss", "val/loss"), decimal_2),
        (score.key, score.title, score.noun, (f"train/{score.key}", f"val/{score.key}"), tick_of(score)),
    )
    ranges = {kind: _common_range(data, keys) for kind, _, _, keys, _ in kinds}
    most = max((row["images"] for run in data.runs for row in run.curve if "images" in row), default=0)
    blocks = []
    for index, detail in enumerate(data.models):
        figures = []
        for kind, title, noun, keys, text in kinds:
            series = _curve_series(data, detail, keys)
            limits = ranges[kind]
            if series and limits and most:
                frame = Frame(f"{title}, {clip(detail.name, 60)}", "images seen", noun, x_text=short, y_text=text,
                              x_range=(0.0, float(most)), y_range=limits)  # fmt: skip
                first_of_kind = tuple({one.dash: one for one in series}.values())
                svg = line_chart(f"learning-{index}-{kind}", frame, series)
                figures.append(Figure("", svg, legend(first_of_kind)))
        if figures:
            blocks.append((detail.name, tuple(figures)))
    return tuple(blocks)


def _curve_series(data: ReportData, detail: ModelDetail, keys: Sequence[str]) -> list[Series]:
    colour, _ = styles(data)[detail.name]
    series = []
    for dash, key in enumerate(keys):
        name = "validation" if key.startswith("val/") else "training"
        for run in data.full_runs(detail):
            rows = [
                (float(row["images"]), float(row[key])) for row in run.curve if "images" in row and known(row.get(key))
            ]
            rows = _thinned(rows)
            if len(rows) > 1:
                series.append(Series(name, colour, dash, points=tuple(rows), markers=False))
    return series


def _thinned(rows: list[Point], most: int = 160) -> list[Point]:
    """At most `most` points, means of neighbours: a log of 10,000 steps stays a small drawing."""
    if len(rows) <= most:
        return rows
    chunks = np.array_split(np.asarray(rows), most)
    return [(float(x), float(y)) for x, y in (chunk.mean(axis=0) for chunk in chunks)]


def _common_range(data: ReportData, keys: Sequence[str]) -> Point | None:
    values = [y for detail in data.models for one in _curve_series(data, detail, keys) for _, y in one.points]
    return span(values, floor=0.0) if values else None


def reliability_figure(data: ReportData) -> Figure | None:
    """How often answers of a claimed confidence were right; the diagonal is perfect calibration."""
    several = data.problem == "multi_label"
    x_label, y_label = ("probability of a label", "label is there") if several else ("confidence", "right")
    note = (
        "Every label of every photo counts. Above the diagonal: more often there than it claims; below: less often. "
        if several
        else "After the temperature. Above the diagonal: better than it claims; below: over-confident. "
    )
    return _unit_figure(
        data,
        "reliability",
        Frame("Reliability", x_label, y_label, x_text=percent_tick,
              x_range=(0.0, 1.0), y_range=(0.0, 1.0), diagonal=True),
        lambda detail: tuple((one.confidence, one.accuracy) for one in detail.reliability if one.photos),
        f"{note}{'Ten bins of equal width.' if several else 'Points hold equally many photos.'}",
    )  # fmt: skip


def risk_figure(data: ReportData) -> Figure | None:
    """Error among the photos accepted when the least confident are set aside."""
    return _unit_figure(
        data,
        "risk-coverage",
        Frame("Risk and coverage", "share of photos accepted", "error among accepted", x_text=percent_tick,
              x_range=(0.0, 1.0)),
        lambda detail: tuple(_thinned([(float(x), float(y)) for x, y in detail.risk_coverage])),
        "Most confident photos first: what remains wrong when the rest is put before a person.",
        markers=False,
    )  # fmt: skip


def _unit_figure(
    data: ReportData,
    chart_id: str,
    frame: Frame,
    read: Callable[[ModelDetail], tuple[Point, ...]],
    note: str,
    markers: bool = True,
) -> Figure | None:
    series = []
    for detail in data.models:
        colour, dash = styles(data)[detail.name]
        if points := read(detail):
            series.append(Series(clip(detail.name, 60), colour, dash, points=points, markers=markers))
    return Figure(frame.title, line_chart(chart_id, frame, series), legend(series), note) if series else None


def confusion_drawing(matrix: Confusion) -> Markup:
    """A matrix of too many classes for numbers: the cells that hold photos as squares that open them."""
    return cell_chart(
        f"confusion-{matrix.model}",
        f"Confusions of {clip(matrix.name, 60)}",
        len(matrix.rows_named),
        [(cell.row, cell.column, cell.photos, cell.heat, matrix.model) for cell in matrix.cells],
    )
