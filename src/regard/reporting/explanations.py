"""The contact sheet of explanations: photos in rows, methods in columns, one offline page inert to hostile names."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from regard.reporting.overlays import FULL, colour_bar, contact_sheet
from regard.reporting.records import Estimate
from regard.reporting.report import TEMPLATES, source_hash
from regard.reporting.words import clip, count, interval, number, percent, plural

SHOWN = 100  # photos on the page; all are in the folder
IN_PICTURE = 24  # photos in the contact sheet that is one picture

WHAT = {
    "attention": "where the class token looks in one layer, or the mean over all queries where there is none",
    "rollout": "attention of all layers multiplied, each with its shortcut: what of each patch reaches the answer",
    "gradient_rollout": "the same with each attention weighted by its gradient, so that it depends on the class",
    "relevance": "attention times its gradient, positive part, added up layer by layer (Chefer et al. 2021)",
    "gradcam": "the last feature map, its channels weighted by their mean gradient, positive part",
    "integrated_gradients": "gradients of the pixels, summed on the way from an image of the mean colour to this one",
    "occlusion": "how much the answer falls when a square of the image is covered",
}


class Tile(NamedTuple):
    """One map over the photo, a WebP file. inside: its share in the object, 0..1; peak: its maximum lies there."""

    method: str
    picture: bytes
    inside: float | None = None
    peak: bool | None = None


class Panel(NamedTuple):
    """What one model sees and says of a photo, a WebP file; explained: of which class the maps are, where that is not
    the answer; area, centre: what of the picture, and of a map of its centre, lies in the object.
    """

    model: str
    picture: bytes
    answer: str
    explained: str
    tiles: tuple[Tile, ...]
    area: float | None = None
    centre: float | None = None


class Entry(NamedTuple):
    """A photo with its panels, one per model."""

    id: str
    panels: tuple[Panel, ...]


class InsideRow(NamedTuple):
    """A row of the table of maps and boxes: means over photos, the first and last with intervals."""

    model: str
    method: str
    photos: int
    inside: Estimate
    area: float
    centre: float
    peak: Estimate


@dataclass(frozen=True)
class Sheet:
    """What the page shows. methods: by model, those asked; total: photos explained, of which `entries` are shown.

    target: for which class the maps are, in words; notes: in plain words, what was left out or decided. tables:
    (heading, column names, rows of cells) of whatever was measured on the maps.
    """

    models: tuple[str, ...]
    target: str
    entries: Sequence[Entry]
    total: int
    inside: Sequence[InsideRow] = ()
    notes: Sequence[str] = ()
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=tuple)

    @property
    def methods(self) -> list[tuple[str, str]]:
        """(method, what it is) of those on the page."""
        names = dict.fromkeys(tile.method for one in self.entries for panel in one.panels for tile in panel.tiles)
        return [(name, WHAT.get(name.partition("+")[0], "")) for name in names]


def render_sheet(sheet: Sheet) -> str:
    """The page as HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {word.__name__: word for word in (clip, count, interval, percent, plural)}
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    styles = [(TEMPLATES / name).read_text("utf-8") for name in ("report.css", "explain.css")]
    hashes = " ".join(f"'{source_hash(style)}'" for style in styles)
    return environment.get_template("explain.html").render(
        sheet=sheet,
        styles=[Markup(style) for style in styles],
        bar=colour_bar(),
        full=f"{FULL:.0f}",
        policy=f"default-src 'none'; img-src data:; style-src {hashes}; base-uri 'none'; form-action 'none'",
    )


def picture_of(sheet: Sheet) -> bytes:
    """The first photos of the page as one PNG file."""
    several = len(sheet.models) > 1
    heads: list[str] = []
    rows: list[tuple[list[bytes | None], list[str]]] = []
    for one in sheet.entries[:IN_PICTURE]:
        heads, pictures, lines = [], [], []
        for panel in one.panels:
            heads += [panel.model if several else "photo", *(tile.method for tile in panel.tiles)]
            pictures += [panel.picture, *(tile.picture for tile in panel.tiles)]
            lines += [panel.explained or panel.answer, *(inside_words(tile) for tile in panel.tiles)]
        rows.append((pictures, lines))
    return contact_sheet(heads, rows)


def inside_words(tile: Tile) -> str:
    """62.0% inside."""
    return "" if tile.inside is None else f"{percent(tile.inside)} inside"


def value_words(name: str, value: float, numbers: bool) -> str:
    """dress 93.1%, or covered 0.431."""
    return f"{name} {number(value) if numbers else percent(value)}"
