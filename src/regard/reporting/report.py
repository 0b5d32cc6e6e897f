"""One self-contained HTML file from `ReportData`: no network, inert to hostile names, screen and paper."""

from __future__ import annotations

import base64
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from regard.errors import RegardError
from regard.reporting import breakdowns, confusions, figures, number_figures, photos, tables
from regard.reporting.records import ReportData
from regard.reporting.sentences import answer_parts, reference_ahead
from regard.reporting.words import clip, count, interval, percent, probability

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Page:
    """The constant parts of every report; style and script are named to the browser by their hashes."""

    template: jinja2.Template
    style: str
    script: str

    @property
    def policy(self) -> str:
        """Content-Security-Policy: pictures from the file itself, this style, this script, nothing else."""
        return (
            f"default-src 'none'; img-src data:; style-src '{source_hash(self.style)}'; "
            f"script-src '{source_hash(self.script)}'; base-uri 'none'; form-action 'none'"
        )


def source_hash(text: str) -> str:
    """How a Content-Security-Policy names a style or script that it lets run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _page() -> _Page:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (clip, count, interval, percent, probability)
    environment.filters |= {
        **{word.__name__: word for word in words},
        "drawing": figures.confusion_drawing,
        "folded": tables.folded,
    }
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return _Page(environment.get_template("report.html"), style, script)


def render_report(data: ReportData) -> str:
    """The whole report as HTML text.

    Raises:
        RegardError: there is no model, or a model has no run.
    """
    _refuse_empty(data)
    page = _page()
    matrices = [confusions.confusion(data, index) for index in range(len(data.models))]
    mistakes = [gallery for index in range(len(data.models)) if (gallery := photos.mistakes(data, index)).total]
    pairs = tables.disagreement_pairs(data)
    suspects = photos.suspects(data)
    galleries = [*[one for pair in pairs for one in pair], *mistakes, suspects]
    head, tail = answer_parts(data)
    return page.template.render(
        data=data,
        style=Markup(page.style),
        script=Markup(page.script),
        policy=page.policy,
        head=head,
        tail=tail,
        facts=tables.facts(data),
        solver_notes=tables.solver_notes(data),
        leaks=tables.leak_text(data),
        notes=tables.model_notes(data),
        ahead=reference_ahead(data, data.models[0]),
        key_figures=tables.key_figures(data),
        headline_figure=figures.headline_figure(data),
        verdict_lede=tables.verdict_lede(data) if data.verdicts else "",
        verdicts=tables.verdict_texts(data),
        verdict_figure=figures.verdict_figure(data),
        folds=breakdowns.fold_table(data),
        curves=[one for one in (figures.data_curves(data), figures.compute_figure(data)) if one],
        learning=figures.learning_figures(data),
        shown_notes=tables.model_notes(data, shown=True),
        metrics=tables.metric_table(data),
        confidence=[one for one in (figures.reliability_figure(data), figures.risk_figure(data)) if one],
        classes=breakdowns.class_tables(data),
        scores=breakdowns.score_tables(data),
        slices=breakdowns.slice_tables(data),
        unknown=breakdowns.unknown_tables(data),
        unknown_figures=number_figures.unknown_figures(data),
        columns=number_figures.column_figures(data),
        overlap=number_figures.iou_figure(data),
        confusions=[one for one in matrices if one],
        pairs=[[one for one in pair if one.total] for pair in pairs if any(one.total for one in pair)],
        mistakes=mistakes,
        suspects=suspects,
        splits=tables.split_table(data),
        recipes=tables.recipes(data),
        store=Markup(photos.store(data, galleries)),
    )


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write the report beside `path`, then rename it into place; returns the path.

    Raises:
        RegardError: there is no model, a model has no run, or the file cannot be written.
    """
    target = Path(path)
    content = render_report(data).encode("utf-8", "backslashreplace")  # for lone surrogates in recipes and notes
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        os.replace(beside, target)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise RegardError(f"{target}: the report cannot be written ({error.strerror}); choose another place") from error
    return target


def _refuse_empty(data: ReportData) -> None:
    if not data.models:
        raise RegardError(f"report of {data.title}: no model given, expected at least one; pass ReportData(models=...)")
    for detail in data.models:
        if not data.runs_of(detail):
            raise RegardError(
                f"report of {data.title}: no run of {detail.name} given, expected model {detail.model!r} "
                f"and method {detail.method!r}; pass it in ReportData(runs=...)"
            )
