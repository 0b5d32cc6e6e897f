"""A page of photos to look at again, in the dress of the report: no script, no network, inert to hostile names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jinja2
import numpy as np
from markupsafe import Markup

from regard.reporting.records import Suspect
from regard.reporting.report import TEMPLATES, source_hash
from regard.reporting.thumbnails import make_thumbnails
from regard.reporting.words import clip, count, percent

SHOWN = 2000  # photos with a picture; the table beside the page names all


def render_worklist(
    title: str, source: str, suspects: Sequence[Suspect], pixels: Callable[[str], np.ndarray | None]
) -> str:
    """The page: a picture, the label given, the label suggested and how sure, row by row in the order given.

    source: what disputes the labels, in words; pixels: photo id -> HxWx3 uint8, None where it cannot be read.
    """
    shown = suspects[:SHOWN]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {word.__name__: word for word in (clip, count, percent)}
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template("worklist.html").render(
        title=title,
        source=source,
        suspects=shown,
        total=len(suspects),
        thumbs=make_thumbnails(list(dict.fromkeys(one.id for one in shown)), pixels).data,
        style=Markup(style),
        policy=f"default-src 'none'; img-src data:; style-src '{source_hash(style)}'; base-uri 'none'; "
        "form-action 'none'",
    )
