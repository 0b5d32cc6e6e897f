"""The words of a report: numbers as people read them, and the answer in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

import numpy as np

from regard.reporting.records import Estimate, FileTest, ModelDetail, ReportData
from regard.results import RunResult, Verdict

MISSING = "–"


def known(value: float | None) -> TypeGuard[float]:
    """True for a finite number."""
    return value is not None and math.isfinite(value)


def percent(share: float | None) -> str:
    """0.914 -> '91.4%'."""
    return f"{100 * share:.1f}%" if share is not None and math.isfinite(share) else MISSING


def points(share: float | None, signed: bool = False) -> str:
    """0.032 -> '3.2' (percentage points); with `signed` '+3.2' or '−3.2'."""
    if share is None or not math.isfinite(share):
        return MISSING
    text = f"{abs(100 * share):.1f}"
    if not signed:
        return text if share >= 0 or text == "0.0" else f"−{text}"
    return text if text == "0.0" else f"{'+' if share > 0 else '−'}{text}"


def decimal(value: float | None, digits: int = 3) -> str:
    """0.2471 -> '0.247'."""
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else MISSING


def count(value: float | None) -> str:
    """12345 -> '12,345'."""
    return f"{round(value):,}" if value is not None and math.isfinite(value) else MISSING


def short(value: float | None, unit: str = "") -> str:
    """Three significant digits with k, M, G, T, P: 21_665_664 -> '21.7 M'."""
    if value is None or not math.isfinite(value):
        return MISSING
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{_three(value / 10**power)} {prefix}{unit}"
    return f"{_three(value)} {unit}".rstrip()


def _three(value: float) -> str:
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float | None) -> str:
    """42.3 -> '42 s', 130 -> '2 min 10 s', 4000 -> '1 h 7 min'."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def probability(p: float | None) -> str:
    """0.0004 -> '< 0.001'."""
    if p is None or not math.isfinite(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def level(alpha: float) -> str:
    """0.05 -> '95%'."""
    return f"{100 * (1 - alpha):g}%"


def interval(low: float | None, high: float | None) -> str:
    """(0.89, 0.93) -> '89.0% to 93.0%'; empty where there is none."""
    return f"{percent(low)} to {percent(high)}" if known(low) and known(high) else ""


def mean_top1(runs: Sequence[RunResult]) -> float | None:
    """Mean test accuracy over runs, None where there is no run."""
    return float(np.mean([top1(run) for run in runs])) if runs else None


def top1(run: RunResult) -> float:
    """Share of the labelled test photos that the run names correctly."""
    labelled = run.test.labels >= 0
    return float(run.test.correct[labelled].mean()) if labelled.any() else math.nan


def top1_estimate(data: ReportData, detail: ModelDetail) -> Estimate | None:
    """The interval that belongs to a model's printed top1: of the mean over seeds, or of its only run."""
    return detail.mean_top1 or (detail.metrics.get("top1") if len(data.full_runs(detail)) == 1 else None)


def cost_of(runs: Sequence[RunResult], name: str) -> float | None:
    """Mean of one field of `Cost` over the runs that measured it."""
    values = [value for run in runs if (value := getattr(run.cost, name)) is not None]
    return float(np.mean(values)) if values else None


def times(ratio: float) -> str:
    """1.84 -> '1.8', 12.3 -> '12', 0.42 -> '0.42'."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.95 else f"{ratio:.2f}"


def _detail(data: ReportData, name: str) -> ModelDetail | None:
    return next((detail for detail in data.models if detail.name == name), None)


def _cost_clause(data: ReportData, a: ModelDetail, b: ModelDetail) -> str:
    """'at 1.8 times the training time and 0.40 times the images/s'; empty where nothing was measured."""
    parts = []
    for name, words in (("train_seconds", "training time"), ("images_per_second", "images/s")):
        mine, other = cost_of(data.full_runs(a), name), cost_of(data.full_runs(b), name)
        if mine and other:
            ratio = times(mine / other)
            parts.append(f"the same {words}" if ratio == "1.0" else f"{ratio} times the {words}")
    return f"at {' and '.join(parts)}" if parts else ""


def pretraining_of(data: ReportData, detail: ModelDetail) -> str:
    """The pre-training that the model's runs name."""
    runs = data.full_runs(detail)
    return runs[0].pretraining if runs else ""


def _from_nothing(text: str) -> bool:
    return not text or text.lower().startswith("none")


def _pretraining_clause(data: ReportData, a: ModelDetail, b: ModelDetail) -> str:
    first, second = pretraining_of(data, a), pretraining_of(data, b)
    if not first and not second:
        return ""
    if _from_nothing(first) and _from_nothing(second):
        return "both trained from scratch"
    if first == second:
        return f"both pre-trained on {first}"
    words = ["trained from scratch" if _from_nothing(text) else f"pre-trained on {text}" for text in (first, second)]
    return f"{a.name} {words[0]}, {b.name} {words[1]}"


def leader_first(verdict: Verdict) -> Verdict:
    """The same verdict with the higher mean as `a`."""
    if verdict.difference >= 0:
        return verdict
    return replace(
        verdict,
        a=verdict.b,
        b=verdict.a,
        difference=-verdict.difference,
        low=-verdict.high,
        high=-verdict.low,
        seeds=verdict.seeds[::-1],
    )


def _sureness(verdict: Verdict) -> str:
    few, many = sorted(verdict.seeds)
    seeds = f"{few} seeds each" if few == many else f"{verdict.seeds[0]} and {verdict.seeds[1]} seeds"
    bounds = f"{points(verdict.low, True)} to {points(verdict.high, True)}"
    return f"{level(verdict.alpha)} interval {bounds}, {seeds}, {verdict.photos:,} test photos"


def _means(data: ReportData, a: ModelDetail | None, b: ModelDetail | None) -> str:
    values = [percent(mean_top1(data.full_runs(detail))) for detail in (a, b) if detail]
    return f"{values[0]} against {values[1]} top1" if len(values) == 2 and MISSING not in values else ""


def _others(data: ReportData, verdict: Verdict) -> str:
    """What the tests say of the answer's first model against the remaining ones."""
    phrases = []
    for other in data.verdicts[1:]:
        if verdict.a not in (other.a, other.b) or {other.a, other.b} == {verdict.a, verdict.b}:
            continue
        led = leader_first(other)
        rival = led.b if led.a == verdict.a else led.a
        if other.outcome == "better":
            phrases.append(f"{'ahead of' if led.a == verdict.a else 'behind'} {rival} by {points(led.difference)}")
        elif other.outcome == "equivalent":
            phrases.append(f"equivalent to {rival}")
        else:
            phrases.append(f"too close to call against {rival}")
    return f"among the others it is {', '.join(phrases)}" if phrases else ""


def _verdict_answer(data: ReportData, verdict: Verdict) -> tuple[str, str]:
    verdict = leader_first(verdict)
    a, b = _detail(data, verdict.a), _detail(data, verdict.b)
    gap = points(verdict.difference)
    if verdict.outcome == "better":
        head = f"{verdict.a} beats {verdict.b} by {gap} points"
    elif verdict.outcome == "equivalent":
        head = f"{verdict.a} and {verdict.b} are equivalent within {points(verdict.margin)} points"
    else:
        head = f"Too close to call: {verdict.a} leads {verdict.b} by {gap} points, which chance could explain"
    clauses = [_means(data, a, b), _sureness(verdict)]
    if a and b:
        cost = _cost_clause(data, a, b)
        subject = "" if verdict.outcome == "better" else f"{a.name} comes "
        clauses += [f"{subject}{cost}" if cost else "", _pretraining_clause(data, a, b)]
    clauses.append(_others(data, verdict))
    return head, "; ".join(clause for clause in clauses if clause)


def _files_answer(test: FileTest) -> tuple[str, str]:
    head = (
        f"{test.a} is right on {test.only_a:,} photos that {test.b} gets wrong, "
        f"and wrong on {test.only_b:,} that {test.b} gets right"
    )
    return (
        head,
        f"McNemar p {probability(test.p_value)}; of these two files, not of the recipes behind them",
    )


def _single_answer(data: ReportData) -> tuple[str, str]:
    detail = data.models[0]
    runs = data.full_runs(detail)
    photos = int((runs[0].test.labels >= 0).sum())
    head = f"{detail.name} names {percent(mean_top1(runs))} of {photos:,} test photos correctly"
    measured = top1_estimate(data, detail)
    bounds = interval(measured.low, measured.high) if measured else ""
    speed, seconds = cost_of(runs, "images_per_second"), cost_of(runs, "train_seconds")
    trained = pretraining_of(data, detail)
    clauses = [
        f"interval {bounds}" if bounds else "",
        f"trained in {duration(seconds)}" if seconds is not None else "",
        f"answers {short(speed)} images/s" if speed is not None else "",
        "trained from scratch"
        if _from_nothing(trained) and trained
        else f"pre-trained on {trained}"
        if trained
        else "",
    ]
    return head, "; ".join(clause for clause in clauses if clause)


def _unjudged_answer(data: ReportData) -> tuple[str, str]:
    """Several models and no verdict: their figures, and why nothing is claimed."""
    listed = ", ".join(f"{detail.name} {percent(mean_top1(data.full_runs(detail)))}" for detail in data.models)
    return f"No verdict: {listed} top1", data.no_verdict


def answer_parts(data: ReportData) -> tuple[str, str]:
    """The answer as (what was found, how sure and at what cost); together they are one sentence."""
    if data.verdicts:
        return _verdict_answer(data, data.verdicts[0])
    if data.file_tests:
        return _files_answer(data.file_tests[0])
    if len(data.models) == 1:
        return _single_answer(data)
    return _unjudged_answer(data)


def percent_tick(share: float | None) -> str:
    """0.4 -> '40%', 0.425 -> '42.5%': labels of an axis."""
    return percent(share).replace(".0%", "%")


def answer(data: ReportData) -> str:
    """Which model, by how much, how sure, at what cost, on what pre-training: one sentence without markup."""
    head, tail = answer_parts(data)
    return f"{head} ({tail})." if tail else f"{head}."


def clip(text: str, length: int = 80) -> str:
    """One line of at most `length` characters, shortened in the middle.

    Control characters become spaces, undecodable bytes of file names (lone surrogates) the replacement sign.
    """
    line = "".join(c if c.isprintable() else "\ufffd" if "\ud800" <= c <= "\udfff" else " " for c in text)
    if len(line) <= length:
        return line
    tail = (length - 1) // 3
    return f"{line[: length - 1 - tail]}…{line[len(line) - tail :]}"
