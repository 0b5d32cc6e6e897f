"""Charts of numbers: predicted against true, how errors are spread, and how scores part known from unknown photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regard.reporting.figures import Figure, styles
from regard.reporting.photos import MOST_COLUMNS
from regard.reporting.plots import Frame, Point, Series, legend, line_chart, scatter_chart, span
from regard.reporting.records import ReportData, Unknown
from regard.reporting.words import clip, percent_tick, short, tick

BINS = 24


@dataclass(frozen=True)
class ColumnFigures:
    """The charts of one column of numbers: predicted against true of each model, and the errors of all."""

    name: str
    scatters: tuple[Figure, ...]
    errors: Figure


def column_figures(data: ReportData) -> tuple[ColumnFigures, ...]:
    """Charts of the first columns; empty for other problems."""
    if data.problem != "regression":
        return ()
    return tuple(
        ColumnFigures(name, _scatters(data, column), _errors(data, column))
        for column, name in enumerate(data.classes[:MOST_COLUMNS])
    )


def _scatters(data: ReportData, column: int) -> tuple[Figure, ...]:
    pairs = [_pairs(data, at, column) for at in range(len(data.models))]
    limits = span([value for dots in pairs for dot in dots for value in dot], 0.03)
    found = []
    for at, (detail, dots) in enumerate(zip(data.models, pairs, strict=True)):
        title = f"{clip(detail.name, 60)}: {clip(data.classes[column], 40)}, predicted against true"
        frame = Frame(title, "true", "predicted", y_text=short, x_range=limits)
        colour, _ = styles(data)[detail.name]
        svg = scatter_chart(f"scatter-{at}-{column}", frame, dots, Series(detail.name, colour), at, column)
        found.append(Figure(clip(detail.name, 60), svg))
    return tuple(found)


def _pairs(data: ReportData, at: int, column: int) -> list[Point]:
    """(true, predicted) of the photos whose number is known."""
    given = data.shown[at]
    true, said = given.labels[:, column], given.outputs[:, column]
    known = np.isfinite(true) & np.isfinite(said)
    return list(zip(true[known].tolist(), said[known].tolist(), strict=True))


def _errors(data: ReportData, column: int) -> Figure:
    """Share of photos by predicted minus true, a line per model."""
    errors = [given.errors[:, column] for given in data.shown]
    errors = [one[np.isfinite(one)] for one in errors]
    together = np.concatenate(errors)
    # The outermost hundredths would squeeze the rest: they are counted in the first and the last bin.
    low, high = np.quantile(together, [0.005, 0.995]) if len(together) else (-1.0, 1.0)
    edges = np.linspace(low, high, BINS + 1) if high > low else np.linspace(low - 1, high + 1, BINS + 1)
    shares = [np.histogram(np.clip(one, edges[0], edges[-1]), edges)[0] / max(1, len(one)) for one in errors]
    frame = Frame("Errors", "predicted − true", "share of photos", x_text=tick, y_text=percent_tick,
                  y_range=span([0.0, *np.concatenate(shares).tolist()], floor=0.0), marks=((0.0, ""),)
                  if edges[0] < 0 < edges[-1] else ())  # fmt: skip
    return _steps(data, f"errors-{column}", frame, edges.tolist(), [one.tolist() for one in shares])


def iou_figure(data: ReportData) -> Figure | None:
    """Share of photos by intersection over union, a line per model; None where the numbers are no boxes."""
    if not data.boxes:
        return None
    edges = np.linspace(0, 1, 21)
    found = [given.quality for given in data.shown]
    shares = [np.histogram(one[np.isfinite(one)], edges)[0] / max(1, np.isfinite(one).sum()) for one in found]
    frame = Frame("Overlap of the boxes", "intersection over union", "share of photos", x_text=percent_tick,
                  x_range=(0.0, 1.0), y_range=span([0.0, *np.concatenate(shares).tolist()], floor=0.0))  # fmt: skip
    return _steps(data, "overlap", frame, edges.tolist(), [one.tolist() for one in shares])


def _steps(
    data: ReportData, chart_id: str, frame: Frame, edges: Sequence[float], shares: Sequence[Sequence[float]]
) -> Figure:
    series = [
        Series(clip(detail.name, 60), styles(data)[detail.name][0], dash, points=outline(edges, own), markers=False)
        for dash, (detail, own) in enumerate(zip(data.models, shares, strict=True))
    ]
    return Figure(frame.title, line_chart(chart_id, frame, series), legend(series))


def outline(edges: Sequence[float], heights: Sequence[float]) -> tuple[Point, ...]:
    """The outline of a histogram, B + 1 edges and B heights, from 0 to 0."""
    corners = [(edge, height) for at, height in enumerate(heights) for edge in (edges[at], edges[at + 1])]
    return ((edges[0], 0.0), *corners, (edges[-1], 0.0))


def unknown_figures(data: ReportData) -> tuple[Figure, ...]:
    """Per model and score: the histograms of known and of unknown photos, and the threshold."""
    found = []
    for at, detail in enumerate(data.models):
        for place, one in enumerate(detail.unknown):
            if one.edges:
                found.append(
                    _unknown_figure(f"unknown-{at}-{place}", f"{clip(detail.name, 40)}: {clip(one.score)}", one)
                )
    return tuple(found)


def _unknown_figure(chart_id: str, title: str, one: Unknown) -> Figure:
    series = [
        Series("known photos", 0, points=outline(one.edges, one.known_shares), markers=False),
        Series("unknown photos", 1, 1, points=outline(one.edges, one.unknown_shares), markers=False),
    ]
    marks = ((one.threshold, "threshold"),) if one.threshold is not None else ()
    top = span([0.0, *one.known_shares, *one.unknown_shares], floor=0.0)
    inside = (*one.edges, *(at for at, _ in marks))
    frame = Frame(title, one.score, "share of photos", x_text=tick, y_text=percent_tick,
                  x_range=span(inside, 0.02), y_range=top, marks=marks)  # fmt: skip
    note = "To the left of the threshold a photo is called unknown." if marks else ""
    return Figure(title, line_chart(chart_id, frame, series), legend(series), note)
