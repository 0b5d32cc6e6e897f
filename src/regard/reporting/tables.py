"""The tables and texts of a report, as rows of finished strings; a missing value is '–'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from regard.reporting.photos import Gallery, disagreements
from regard.reporting.records import ClassScore, Estimate, ModelDetail, ReportData
from regard.reporting.sentences import (
    MISSING,
    cost_of,
    count,
    decimal,
    duration,
    interval,
    known,
    leader_first,
    level,
    mean_top1,
    percent,
    points,
    pretraining_of,
    probability,
    short,
    top1,
    top1_estimate,
)
from regard.results import Verdict

SHARES = {"top1": "Top1", "top5": "Top5", "macro_f1": "Macro F1", "balanced_accuracy": "Balanced accuracy"}
NUMBERS = {"nll": "NLL", "brier": "Brier", "ece": "ECE"}


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
    run = data.shown_run(data.models[0])
    seeds = {one.seed for one in data.runs}
    fractions = {one.fraction for one in data.runs}
    rows = [
        (count((run.test.labels >= 0).sum()), "test photos"),
        (count(len(run.test.classes)), "classes"),
        (count(run.train_images), "training images") if run.train_images else None,
        (count(len(data.models)), "models" if len(data.models) > 1 else "model"),
        (count(len(seeds)), "seeds" if len(seeds) > 1 else "seed") if run.method != "given" else None,
        (count(len(fractions)), "training-set sizes") if len(fractions) > 1 else None,
    ]
    return tuple(row for row in rows if row)


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
    rows = [Row("Top1", "test photos named correctly", tuple(_top1_cell(data, detail) for detail in data.models))]
    for name, label, hint, text in costs:
        values = [cost_of(data.full_runs(detail), name) for detail in data.models]
        rows.append(Row(label, hint, tuple((text(value) if known(value) else MISSING, "") for value in values)))
    trained = tuple((pretraining_of(data, detail) or MISSING, "") for detail in data.models)
    rows.append(Row("Pre-training", "data and licence of the weights it started from", trained))
    return tuple(row for row in rows if row.known)


def _top1_cell(data: ReportData, detail: ModelDetail) -> tuple[str, str]:
    runs = data.full_runs(detail)
    measured = top1_estimate(data, detail)
    bounds = interval(measured.low, measured.high) if measured else ""
    seeds = f"mean of {', '.join(percent(top1(run)) for run in runs)}" if len(runs) > 1 else ""
    return percent(mean_top1(runs)), "\n".join(part for part in (bounds, seeds) if part)


def verdict_texts(data: ReportData) -> tuple[tuple[str, str], ...]:
    """(headline, explanation) of every tested pair, higher mean first."""
    return tuple((_verdict_head(led), _verdict_body(led)) for led in map(leader_first, data.verdicts))


def _verdict_head(verdict: Verdict) -> str:
    gap = points(verdict.difference)
    if verdict.outcome == "better":
        return f"{verdict.a} is better than {verdict.b} by {gap} points"
    if verdict.outcome == "equivalent":
        return f"{verdict.a} and {verdict.b} are equivalent within {points(verdict.margin)} points"
    return f"{verdict.a} against {verdict.b}: too close to call"


def _verdict_body(verdict: Verdict) -> str:
    total = verdict.seed_variance + verdict.photo_variance
    shares = (
        f" Of its variance {100 * verdict.seed_variance / total:.0f}% comes from seeds and "
        f"{100 * verdict.photo_variance / total:.0f}% from photos."
        if known(total) and total > 0
        else ""
    )
    freedom = f", {verdict.degrees_of_freedom:.1f} degrees of freedom" if known(verdict.degrees_of_freedom) else ""
    return (
        f"Difference {points(verdict.difference, True)} points, {level(verdict.alpha)} interval "
        f"{points(verdict.low, True)} to {points(verdict.high, True)}{freedom}. Equal accuracy: p "
        f"{probability(verdict.p_value)}. A gap of {points(verdict.margin)} points or more: p "
        f"{probability(verdict.p_equivalent)}.{shares}"
    )


def shown_seeds(data: ReportData) -> tuple[str, ...] | None:
    """Which run's figures stand in the metric table, where a model has several."""
    if all(len(data.full_runs(detail)) == 1 for detail in data.models):
        return None
    return tuple(f"seed {data.shown_run(detail).seed}" for detail in data.models)


def metric_table(data: ReportData) -> tuple[Row, ...]:
    """Every metric with its interval, one column per model."""
    rows = [
        *(_metric_row(data, name, label, percent) for name, label in SHARES.items()),
        *(_metric_row(data, name, label, decimal) for name, label in NUMBERS.items()),
    ]
    calibrated = tuple((decimal(detail.ece_if_calibrated), "") for detail in data.models)
    rows.append(Row("ECE if calibrated", "what a calibrated model would show on this many photos", calibrated))
    runs = [data.shown_run(detail) for detail in data.models]
    judged = [run.method != "given" or run.temperature != 1.0 for run in runs]
    temperatures = tuple(
        (decimal(run.temperature, 2) if ok else MISSING, "") for run, ok in zip(runs, judged, strict=True)
    )
    rows.append(Row("Temperature", "fitted on validation; logits are divided by it", temperatures))
    unsure = tuple((percent(run.unsure_below) if run.unsure_below > 0 else MISSING, "") for run in runs)
    rows.append(Row("Unsure below", "confidence under which an answer counts as unsure", unsure))
    return tuple(row for row in rows if row.known)


def _metric_row(data: ReportData, name: str, label: str, text: Callable[[float | None], str]) -> Row:
    hints = {"nll": "lower is better", "brier": "lower is better", "ece": "lower is better"}
    return Row(label, hints.get(name, ""), tuple(_metric_cell(d.metrics.get(name), text) for d in data.models))


def _metric_cell(measured: Estimate | None, text: Callable[[float | None], str]) -> tuple[str, str]:
    if measured is None:
        return MISSING, ""
    bounded = known(measured.low) and known(measured.high)
    return text(measured.value), f"{text(measured.low)} to {text(measured.high)}" if bounded else ""


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


def disagreement_pairs(data: ReportData) -> tuple[tuple[Gallery, Gallery], ...]:
    """For every judged pair (or the first two models): what each gets right that the other gets wrong."""
    named = {detail.name: detail for detail in data.models}
    judged = [(v.a, v.b) for v in data.verdicts] or [(t.a, t.b) for t in data.file_tests]
    if not judged and len(data.models) > 1:
        judged = [(data.models[0].name, data.models[1].name)]
    pairs = [(named[a], named[b]) for a, b in dict.fromkeys(judged) if a in named and b in named]
    return tuple(
        (disagreements(data, a, b, f"pair-{at}-a"), disagreements(data, b, a, f"pair-{at}-b"))
        for at, (a, b) in enumerate(pairs[:6])
    )


def split_table(data: ReportData) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(head, rows) of images per class and split, totals last; empty without a check."""
    if data.check is None or not data.check.counts:
        return (), ()
    counts = data.check.counts
    splits = tuple(counts)
    rows = [(name, *(count(counts[split].get(name, 0)) for split in splits)) for name in data.check.classes]
    rows.append(("all", *(count(sum(counts[split].values())) for split in splits)))
    return ("class", *splits), tuple(rows)


def recipes(data: ReportData) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """(model, settings) of the shown run of each model; settings in dotted names."""
    return tuple((d.name, tuple(_flat(data.shown_run(d).recipe))) for d in data.models if data.shown_run(d).recipe)


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
        if len(data.full_runs(detail)) > 1 and data.shown_run(detail).deterministic
    )


def leak_text(data: ReportData) -> str:
    """What became of test photos that have a near-duplicate in training or validation; empty without any."""
    leaked = set(data.check.leaked) if data.check else set()
    if not leaked:
        return ""
    scored = len(leaked & {id_ for detail in data.models for id_ in data.shown_run(detail).test.ids})
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
