"""A page of figures: each with its title, formula, how to read it and its numbers; one file, no script, no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regard.reporting.pictures import Language, Picture
from regard.reporting.pictures.picture import captions

FORMULA_SIZE = 11  # points
WORDS: dict[str, dict[str, str]] = {
    "en": {
        "heading": "What goes on inside {model}",
        "images": "{count} images", "image": "one image", "without": "without images",
        "table": "numbers (CSV)", "drawing": "figure (SVG)", "skipped": "Not drawn", "formula": "Formula",
    },
    "fr": {
        "heading": "Ce qui se passe dans {model}",
        "images": "{count} images", "image": "une image", "without": "sans images",
        "table": "valeurs (CSV)", "drawing": "figure (SVG)", "skipped": "Non tracées", "formula": "Formule",
    },
    "ro": {
        "heading": "Ce se petrece în {model}",
        "images": "{count} imagini", "image": "o imagine", "without": "fără imagini",
        "table": "valori (CSV)", "drawing": "figură (SVG)", "skipped": "Nedesenate", "formula": "Formula",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Gallery:
    """models: the one looked at, and the one beside it; images: how many were used; pictures: by name, in their order;
    skipped: name of a figure -> why it was not drawn.
    """

    models: tuple[str, ...]
    images: int
    pictures: Mapping[str, Picture]
    skipped: Mapping[str, str]


def render_gallery(gallery: Gallery, lang: Language = "en") -> str:
    """The page; NAME.csv and NAME.svg are linked as files beside it."""
    import jinja2
    from markupsafe import Markup

    from regard.reporting.report import TEMPLATES, source_hash
    from regard.reporting.words import clip

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["clip"] = clip
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "gallery.css"))
    words = WORDS[lang]
    key = "without" if not gallery.images else "image" if gallery.images == 1 else "images"
    return environment.get_template("gallery.html").render(
        lang=lang,
        words=words,
        models=gallery.models,
        heading=words["heading"].format(model=clip(gallery.models[0], 60)),
        count=words[key].format(count=f"{gallery.images:,}".replace(",", "\u202f")),
        figures=[_shown(name, picture, lang) for name, picture in gallery.pictures.items()],
        skipped=_grouped(gallery.skipped),
        style=Markup(style),
        policy=f"default-src 'none'; img-src data:; style-src '{source_hash(style)}'; base-uri 'none'; "
        "form-action 'none'",
    )


def _shown(name: str, picture: Picture, lang: Language) -> dict[str, Any]:
    words = captions(picture.NAME, lang)
    return {
        "name": name,
        "title": words["title"],
        "formula": words["formula"].replace("$", ""),
        "formula_image": _data(formula_svg(words["formula"])),
        "read": " ".join(words["read"].split()),
        "image": _data(picture.svg(lang, captioned=False)),
    }


def formula_svg(formula: str) -> str:
    """A formula, words and mathematics between dollars, as an SVG document in black."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "regard"}):
        figure = Figure(figsize=(0.01, 0.01))
        figure.text(0, 0, formula, fontsize=FORMULA_SIZE)
        text = io.StringIO()
        options: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.02, "transparent": True}
        figure.savefig(text, format="svg", metadata={"Date": None}, **options)
    return text.getvalue()


def _data(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _grouped(skipped: Mapping[str, str]) -> list[tuple[str, str]]:
    """(names, reason), figures of the same reason together."""
    found: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        found.setdefault(reason, []).append(name)
    return [(", ".join(names), reason) for reason, names in found.items()]
