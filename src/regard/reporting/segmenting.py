"""The report of a trained segmenter: held-out objects before and after, the learning curve, and what was found."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from regard.reporting.figures import Figure
from regard.reporting.overlays import small
from regard.reporting.plots import Frame, Series, legend, line_chart
from regard.reporting.records import Estimate
from regard.reporting.report import TEMPLATES, source_hash
from regard.reporting.words import clip, count, decimal, decimal_2, interval, short

TRUTH, CLICK = (255, 255, 255), (0, 90, 255)
SHADE = 0.4  # of the light of what was not found
DOT = 0.012  # radius of the click, as a share of the picture's longer side


class MeasureRow(NamedTuple):
    """One kind of prompt and measure: means over held-out objects."""

    name: str
    before: Estimate
    after: Estimate


class Tile(NamedTuple):
    """One object: (H, W, 3) uint8, and bool masks; x, y: the click, in pixels; click, box: IoU."""

    name: str
    photo: np.ndarray
    truth: np.ndarray
    by_click: np.ndarray
    by_box: np.ndarray
    x: float
    y: float
    click: float
    box: float


@dataclass(frozen=True)
class SegmentReport:
    """What the page says. curve: rows of metrics.jsonl; facts, recipe, environment: names and values."""

    data: str
    model: str
    objects: int
    images: int
    measures: Sequence[MeasureRow]
    curve: Sequence[Mapping[str, Any]]
    tiles: Sequence[Tile]
    facts: Sequence[tuple[str, str]]
    recipe: Sequence[tuple[str, str]]
    notes: Sequence[str]
    command: str


def render_segment_report(report: SegmentReport) -> str:
    """The page as HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {word.__name__: word for word in (clip, count, decimal, interval)}
    environment.filters["between"] = lambda one: interval(one.low, one.high, decimal)
    styles = [(TEMPLATES / name).read_text("utf-8") for name in ("report.css", "segmenting.css")]
    hashes = " ".join(f"'{source_hash(style)}'" for style in styles)
    return environment.get_template("segmenting.html").render(
        report=report,
        styles=[Markup(style) for style in styles],
        figures=[one for one in (_agreement(report.curve), _loss(report.curve)) if one.svg],
        pictures=[(tile, _coded(tile, tile.by_click, True), _coded(tile, tile.by_box, False)) for tile in report.tiles],
        policy=f"default-src 'none'; img-src data:; style-src {hashes}; base-uri 'none'; form-action 'none'",
    )


def painted(tile: Tile, found: np.ndarray, click: bool) -> np.ndarray:
    """(H, W, 3) uint8: what was found in its colours, the rest grey, the truth as a line, the click as a dot."""
    picture = tile.photo.astype(np.float32)
    picture[~found] = SHADE * picture[~found].mean(axis=1, keepdims=True)
    width = max(1, round(max(found.shape) / 200))
    edge = _edge(tile.truth, width)
    picture[_edge(tile.truth, 2 * width)] *= 0.35  # a dark line beside the light one shows on any ground
    picture[edge] = TRUTH
    if click:
        y, x = np.ogrid[: found.shape[0], : found.shape[1]]
        away = np.hypot(x - tile.x, y - tile.y) / max(found.shape)
        picture[away < 1.7 * DOT] = TRUTH
        picture[away < DOT] = CLICK
    return picture.astype(np.uint8)


def _edge(mask: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: pixels of a mask within so many of what is not it."""
    from scipy import ndimage

    return mask & ~np.asarray(ndimage.binary_erosion(mask, iterations=width), bool)


def _coded(tile: Tile, found: np.ndarray, click: bool) -> str:
    picture = painted(tile, found, click)
    side = max(picture.shape[:2])
    if side < 256:  # small pictures are shown pixel by pixel
        grown = 256 // side
        picture = np.asarray(Image.fromarray(picture).resize(
            (picture.shape[1] * grown, picture.shape[0] * grown), Image.Resampling.NEAREST
        ))  # fmt: skip
    return base64.b64encode(small(picture)).decode()


def _agreement(curve: Sequence[Mapping[str, Any]]) -> Figure:
    series = [
        Series(name, colour, dash, points=_points(curve, key), markers=False)
        for colour, (dash, name, key) in enumerate(((0, "one click", "val/click_iou"), (1, "box", "val/box_iou")))
    ]
    frame = Frame(
        "Mean IoU of validation objects", "images seen", "mean IoU", x_text=short, y_text=decimal_2, y_range=(0.0, 1.0)
    )
    return Figure("Validation objects, during training", line_chart("agreement", frame, series), legend(series))


def _loss(curve: Sequence[Mapping[str, Any]]) -> Figure:
    series = [Series("training", 0, points=_points(curve, "loss"), markers=False)]
    frame = Frame("Loss", "images seen", "loss", x_text=short, y_text=decimal_2)
    return Figure("Loss", line_chart("loss", frame, series), legend(series))


def _points(curve: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(row["images"]), float(row[key])) for row in curve if key in row)
