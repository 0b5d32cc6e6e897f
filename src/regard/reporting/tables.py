"""The tables and texts of a report, as rows of finished strings; a missing value is '–'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from regard.reporting.confusions import shown_words
from regard.reporting.photos import Gallery, disagreements
from regard.reporting.records import ModelDetail, ReportData
from regard.reporting.sentences import (
    basis_of,
    cost_of,
    gap_of,
    headline,
    headline_estimate,
    leader_first,
    photos_shown,
    pretraining_of,
)
from regard.reporting.words import (
    GAPS,
    IOU,
    MISSING,
    TABLED,
    Score,
    bounded,
    count,
    decimal,
    decimal_2,
    duration,
    interval,
    known,
    level,
    percent,
    probability,
    range_of,
    short,
)
from regard.results import Verdict

COLUMNS = {
    "single_label": ("class", "classes"),
    "multi_label": ("label", "labels"),
    "regression": ("column", "columns"),
}


@dataclass(frozen=True)
class Row:
    """One line of a table of models: a label, what it means, and (value, small print) per model."""

    label: str
    hint: str
    cells: tuple[tuple[str, str], ...]

    @property
    def known(self) -> bool:
        """True where at least one model has a value."""
        return any(value != MISSING for value, _ in self.cells)


def facts(data: ReportData) -> tuple[tuple[str, str], ...]:
    """The scene in a few numbers: (number, what it counts)."""
    first = data.models[0]
    run = data.shown_runs(first)[0]
    fractions = {one.fraction for one in data.runs if (one.model, one.method) == (first.model, first.method)}
    what = COLUMNS[data.problem][len(data.classes) != 1]
    tested, references = len(data.tested), len(data.models) - len(data.tested)
    rows = [
        (count(photos_shown(data, first)), "photos, each a test photo once" if data.folds else "test photos"),
        (count(len(data.classes)), "sides of a box" if data.boxes else what),
        (count(run.train_images), "training images of each fold" if data.folds else "training images")
        if run.train_images
        else None,
        (count(tested), _tested_words(data)),
        (count(references), _reference_words(data)) if references else None,
        (count(data.folds), "folds") if data.folds else None,
        (count(data.repeats), "repeats" if data.folds else "seeds" if data.repeats > 1 else "seed")
        if run.method != "given" and not (data.folds and data.repeats == 1)
        else None,
        (count(len(fractions)), "training-set sizes") if len(fractions) > 1 else None,
    ]
    return tuple(row for row in rows if row)


def _tested_words(data: ReportData) -> str:
    if len(data.tested) > 1 and len({detail.model for detail in data.tested}) == 1:
        return "ways to train one model"
    return "models" if len(data.tested) > 1 else "model"


def _reference_words(data: ReportData) -> str:
    references = [detail for detail in data.models if detail.reference]
    if all(detail.method == "teacher" for detail in references):
        return "teacher"
    return "references" if len(references) > 1 else "reference"


def key_figures(data: ReportData) -> tuple[Row, ...]:
    """How good and at what cost, one column per model; rows without any value fall away."""
    costs: tuple[tuple[str, str, str, Callable[[float | None], str]], ...] = (
        ("parameters", "Parameters", "all weights", short),
        ("trainable_parameters", "Trained", "weights that training changes", short),
        ("gmacs", "GMACs", "multiply-adds of one image, 10⁹", lambda value: decimal(value, 2)),
        ("peak_memory_mb", "Peak memory", "of the training process", lambda value: f"{count(value)} MB"),
        ("images_per_second", "Images/s", "inference, largest measured batch", short),
        ("latency_ms", "Latency", "inference, one image", lambda value: f"{decimal(value, 1)} ms"),
        ("train_seconds", "Training time", "one run on the full set", duration),
        ("train_flops", "Training compute", "one run on the full set", lambda value: short(value, "FLOPs")),
    )
    score = headline(data)
    rows = [Row(score.title, score.hint, tuple(_headline_cell(data, detail) for detail in data.models))]
    if data.boxes:
        rows.insert(0, _metric_row(data, IOU, shown=True))
    for name, label, hint, text in costs:
        values = [cost_of(data.full_runs(detail), name) for detail in data.models]
        rows.append(Row(label, hint, tuple((text(value) if known(value) else MISSING, "") for value in values)))
    trained = tuple((pretraining_of(data, detail) or MISSING, "") for detail in data.models)
    rows.append(Row("Pre-training", "data and licence of the weights it started from", trained))
    return tuple(row for row in rows if row.known)


def _headline_cell(data: ReportData, detail: ModelDetail) -> tuple[str, str]:
    score, runs = headline(data), data.full_runs(detail)
    measured = headline_estimate(data, detail)
    bounds = interval(measured.low, measured.high, score.text) if measured else ""
    each = f"mean of {', '.join(score.text(data.score(run)) for run in runs)}" if 1 < len(runs) <= 6 else ""
    each = each or (f"mean of {len(runs)} runs" if len(runs) > 1 else "")
    return score.text(data.mean_score(detail)), "\n".join(part for part in (bounds, each) if part)


def verdict_lede(data: ReportData) -> str:
    """What the test is, and what its three outcomes mean."""
    first = data.verdicts[0]
    score = {
        "top1": "top1",
        "lrap": "label ranking average precision (1 where the labels of a photo all rank above the others)",
        "scaled_mae": "absolute error in standard deviations of the training labels",
    }[first.metric]
    if first.folds:
        test = (
            f"the {basis_of(data, first)} (Nadeau and Bengio 2003) on the difference of mean {score}. The training "
            "images of two folds overlap, so their results are no independent measurements: the test enlarges the "
            "variance by the share of test to training images."
        )
    else:
        test = (
            f"the difference of mean {score} at the full training set, with the variance of seeds and of photos in it."
        )
    pairs = (
        f" With {len(data.verdicts)} pairs the p values are corrected by Holm, so an interval clear of 0 need not "
        "suffice."
        if len(data.verdicts) > 1
        else ""
    )
    return (
        f"One test, stated in advance: {test} Better means that equality is ruled out; equivalent means that a gap of "
        f"{gap_of(first, first.margin)} or more, the edge of the shaded band, is ruled out both ways; anything else is "
        f"too close to call.{pairs}"
    )


def verdict_texts(data: ReportData) -> tuple[tuple[str, str], ...]:
    """(headline, explanation) of every tested pair, better mean first."""
    return tuple((_verdict_head(led), _verdict_body(led)) for led in map(leader_first, data.verdicts))


def _verdict_head(verdict: Verdict) -> str:
    if verdict.outcome == "better":
        return f"{verdict.a} is better than {verdict.b} by {gap_of(verdict, verdict.difference)}"
    if verdict.outcome == "equivalent":
        return f"{verdict.a} and {verdict.b} are equivalent within {gap_of(verdict, verdict.margin)}"
    return f"{verdict.a} against {verdict.b}: too close to call"


def _verdict_body(verdict: Verdict) -> str:
    gap = GAPS[verdict.metric]
    total = verdict.seed_variance + verdict.photo_variance
    shares = (
        f" Of its variance {100 * verdict.seed_variance / total:.0f}% comes from seeds and "
        f"{100 * verdict.photo_variance / total:.0f}% from photos."
        if known(total) and total > 0 and not verdict.folds
        else ""
    )
    freedom = f", {verdict.degrees_of_freedom:.1f} degrees of freedom" if known(verdict.degrees_of_freedom) else ""
    return (
        f"Difference {gap.text(verdict.difference, True)} {gap.unit}, {level(verdict.alpha)} interval "
        f"{gap.text(verdict.low, True)} to {gap.text(verdict.high, True)}{freedom}. Equality: p "
        f"{probability(verdict.p_value)}. A gap of {gap.text(verdict.margin)} or more: p "
        f"{probability(verdict.p_equivalent)}.{shares}"
    )


def model_notes(data: ReportData, shown: bool = False) -> tuple[str, ...]:
    """Small print below each model's name: that it is no candidate, and which run's figures stand below."""
    several = shown and any(len(data.full_runs(detail)) > 1 for detail in data.models)
    seeds = [shown_words(data, detail) for detail in data.models]
    return tuple(
        ", ".join(filter(None, (_kind_of(detail), seed if several else "")))
        for detail, seed in zip(data.models, seeds, strict=True)
    )


def _kind_of(detail: ModelDetail) -> str:
    if not detail.reference:
        return ""
    return "not tested" if detail.method == "teacher" else "reference, not tested"


def metric_table(data: ReportData) -> tuple[Row, ...]:
    """Every metric with its interval, one column per model."""
    rows = [_metric_row(data, score) for score in TABLED[data.problem]]
    calibrated = tuple((decimal(detail.ece_if_calibrated), "") for detail in data.models)
    rows.append(Row("ECE if calibrated", "what a calibrated model would show on this many photos", calibrated))
    if data.problem != "regression":
        rows += _confidence_rows(data)
    return tuple(row for row in rows if row.known)


def _confidence_rows(data: ReportData) -> list[Row]:
    runs = [data.shown_runs(detail) for detail in data.models]
    judged = [own[0].method != "given" or own[0].temperature != 1.0 for own in runs]
    temperatures = tuple(
        (range_of([run.temperature for run in own], decimal_2) if ok else MISSING, "")
        for own, ok in zip(runs, judged, strict=True)
    )
    below = tuple((range_of([run.unsure_below for run in own if run.unsure_below > 0], percent), "") for own in runs)
    return [
        Row("Temperature", "fitted on validation; logits are divided by it", temperatures),
        Row("Unsure below", "confidence under which an answer counts as unsure", below),
    ]


def _metric_row(data: ReportData, score: Score, shown: bool = False) -> Row:
    """The metric of the photos shown; with `shown` it says of which of several runs."""
    cells = [bounded(detail.metrics.get(score.key), score.text) for detail in data.models]
    if shown:
        several = [len(data.full_runs(detail)) > 1 for detail in data.models]
        words = [shown_words(data, one) if more else "" for one, more in zip(data.models, several, strict=True)]
        cells = [(value, "\n".join(filter(None, (own, at)))) for (value, own), at in zip(cells, words, strict=True)]
    return Row(score.title, score.hint, tuple(cells))


def disagreement_pairs(data: ReportData) -> tuple[tuple[Gallery, Gallery], ...]:
    """For every judged pair (or the first two models): what each gets right that the other gets wrong."""
    named = {detail.name: detail for detail in data.models}
    judged = [(v.a, v.b) for v in data.verdicts] or [(t.a, t.b) for t in data.file_tests]
    if not judged and len(data.tested) > 1:
        judged = [(data.tested[0].name, data.tested[1].name)]
    pairs = [(named[a], named[b]) for a, b in dict.fromkeys(judged) if a in named and b in named]
    return tuple(
        (disagreements(data, a, b, f"pair-{at}-a"), disagreements(data, b, a, f"pair-{at}-b"))
        for at, (a, b) in enumerate(pairs[:6])
    )


def split_table(data: ReportData) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(head, rows) of images per class or label and split, all of them last; empty without a check."""
    if data.check is None or not data.check.counts:
        return (), ()
    counts, images = data.check.counts, data.check.images
    splits = tuple(counts)
    names = () if data.problem == "regression" else data.check.classes
    rows = [(name, *(count(counts[split].get(name, 0)) for split in splits)) for name in names]
    rows.append(("all", *(count(images.get(split, sum(counts[split].values()))) for split in splits)))
    return (COLUMNS[data.problem][0] if names else "", *splits), tuple(rows)


def recipes(data: ReportData) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """(model, settings) of the shown run of each model; settings in dotted names."""
    shown = [(detail.name, data.shown_runs(detail)[0].recipe) for detail in data.models]
    return tuple((name, tuple(_flat(recipe))) for name, recipe in shown if recipe)


def _flat(settings: dict, prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _plain(value)))
    return rows


def _plain(value: object) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(map(_plain, value))
    return MISSING if value is None else str(value)


def solver_notes(data: ReportData) -> tuple[str, ...]:
    """One line per model whose seeds change nothing but the training images."""
    return tuple(
        f"{detail.name} is a solver on fixed features: a seed only redraws its training images, "
        "so that equal values over seeds are no certainty."
        for detail in data.models
        if len(data.full_runs(detail)) > 1 and data.shown_runs(detail)[0].deterministic and not data.folds
    )


def leak_text(data: ReportData) -> str:
    """What became of test photos that have a near-duplicate in training or validation; empty without any."""
    leaked = set(data.check.leaked) if data.check else set()
    if not leaked:
        return ""
    scored = len(leaked & {id_ for detail in data.models for run in data.shown_runs(detail) for id_ in run.test.ids})
    one, many = "1 test photo has a near-duplicate", f"{len(leaked):,} test photos have near-duplicates"
    found = one if len(leaked) == 1 else many
    fate = "left out of the scoring" if not scored else f"{scored:,} of them scored all the same"
    return f"{found} in training or validation, {fate}"


def folded(command: str) -> str:
    """A long command over several lines, one option each; left alone where it holds quotes."""
    line = "".join(char if char.isprintable() else " " for char in command)
    if len(line) <= 90 or "'" in line or '"' in line:
        return line
    return line.replace(" --", " \\\n    --")
