"""The answer of a report in one sentence, for every kind of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from regard.reporting.records import Estimate, FileTest, ModelDetail, ReportData
from regard.reporting.words import (
    GAPS,
    HEADLINE,
    IOU,
    MISSING,
    Score,
    duration,
    interval,
    known,
    level,
    plural,
    probability,
    short,
    times,
)
from regard.results import RunResult, Verdict


def headline(data: ReportData) -> Score:
    """The metric that the report leads with; of a single column of numbers its noun names the column."""
    score = HEADLINE[data.problem]
    if data.problem != "regression":
        return score
    if data.boxes:
        return replace(score, hint="mean absolute error of the four sides, as a share of the photo's")
    if len(data.classes) == 1:
        return replace(
            score, noun=f"MAE of {data.classes[0]}", hint=f"mean absolute error, in units of {data.classes[0]}"
        )
    return replace(score, hint=f"mean absolute error, mean over {len(data.classes)} columns")


def headline_estimate(data: ReportData, detail: ModelDetail) -> Estimate | None:
    """The interval that belongs to a model's printed headline: of the mean over runs, or of its only run."""
    alone = len(data.full_runs(detail)) == 1
    return detail.mean or (detail.metrics.get(headline(data).key) if alone else None)


def photos_shown(data: ReportData, detail: ModelDetail) -> int:
    """Labelled test photos of the run shown, or of all folds of one seed together."""
    return int(data.shown[data.models.index(detail)].labelled.sum())


def cost_of(runs: Sequence[RunResult], name: str) -> float | None:
    """Mean of one field of `Cost` over the runs that measured it; 0 is what stands where nothing could be counted."""
    values = [value for run in runs if (value := getattr(run.cost, name))]
    return float(np.mean(values)) if values else None


def pretraining_of(data: ReportData, detail: ModelDetail) -> str:
    """The pre-training that the model's runs name."""
    runs = data.full_runs(detail)
    return runs[0].pretraining if runs else ""


def leader_first(verdict: Verdict) -> Verdict:
    """The same verdict with the better mean as `a`."""
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


def gap_of(verdict: Verdict, value: float) -> str:
    """A difference with the unit of the verdict's score: '3.2 points', '0.052 standard deviations of the labels'."""
    gap = GAPS[verdict.metric]
    return f"{gap.text(value)} {gap.unit}"


def basis_of(data: ReportData, verdict: Verdict) -> str:
    """What the test rests on beside photos: '3 seeds each', or the corrected test over folds."""
    if verdict.folds:
        repeats = f" ({data.repeats} repeats)" if data.repeats > 1 else ""
        return f"corrected resampled t test over {data.folds} folds{repeats}"
    few, many = sorted(verdict.seeds)
    return f"{few} seeds each" if few == many else f"{verdict.seeds[0]} and {verdict.seeds[1]} seeds"


def reference_ahead(data: ReportData, winner: ModelDetail) -> str:
    """'hog_svm, ..., is ahead of resnet50: 93.1% top1' where a reference beats the winner; else empty."""
    score, own = headline(data), data.mean_score(winner)
    for one in data.models:
        value = data.mean_score(one)
        if one.method == "classical" and known(value) and known(own) and score.better(value, own):
            reached = f"{score.text(value)} {score.noun}"
            return f"{one.name}, a reference without a network that is not tested, is ahead of {winner.name}: {reached}"
    return ""


def _teacher_clause(data: ReportData) -> str:
    """'the teacher resnet50 reaches 94.2%' of a distilled model; empty where nobody taught."""
    text = headline(data).text
    teachers = (one for one in data.models if one.method == "teacher")
    return next((f"the teacher {one.model} reaches {text(data.mean_score(one))}" for one in teachers), "")


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


def _sureness(data: ReportData, verdict: Verdict) -> str:
    text = GAPS[verdict.metric].text
    bounds = f"{text(verdict.low, True)} to {text(verdict.high, True)}"
    photos = plural(verdict.photos, "photo" if verdict.folds else "test photo")
    if verdict.groups:
        photos += f" in {plural(verdict.groups, 'group')}"
    once = ", each a test photo once" if verdict.folds else ""
    return f"{level(verdict.alpha)} interval {bounds}, {basis_of(data, verdict)}, {photos}{once}"


def _means(data: ReportData, a: ModelDetail | None, b: ModelDetail | None) -> str:
    score = headline(data)
    values = [score.text(data.mean_score(detail)) for detail in (a, b) if detail]
    return f"{values[0]} against {values[1]} {score.noun}" if len(values) == 2 and MISSING not in values else ""


def _others(data: ReportData, verdict: Verdict) -> str:
    """What the tests say of the answer's first model against the remaining ones."""
    text = GAPS[verdict.metric].text
    phrases = []
    for other in data.verdicts[1:]:
        if verdict.a not in (other.a, other.b) or {other.a, other.b} == {verdict.a, verdict.b}:
            continue
        led = leader_first(other)
        rival = led.b if led.a == verdict.a else led.a
        if other.outcome == "better":
            phrases.append(f"{'ahead of' if led.a == verdict.a else 'behind'} {rival} by {text(led.difference)}")
        elif other.outcome == "equivalent":
            phrases.append(f"equivalent to {rival}")
        else:
            phrases.append(f"too close to call against {rival}")
    return f"among the others it is {', '.join(phrases)}" if phrases else ""


def _verdict_answer(data: ReportData, verdict: Verdict) -> tuple[str, str]:
    verdict = leader_first(verdict)
    a, b = _detail(data, verdict.a), _detail(data, verdict.b)
    gap = gap_of(verdict, verdict.difference)
    if verdict.outcome == "better":
        head = f"{verdict.a} beats {verdict.b} by {gap}"
    elif verdict.outcome == "equivalent":
        head = f"{verdict.a} and {verdict.b} are equivalent within {gap_of(verdict, verdict.margin)}"
    elif not float(GAPS[verdict.metric].text(verdict.difference)):
        head = f"Too close to call: {verdict.a} and {verdict.b} are level"
    else:
        head = f"Too close to call: {verdict.a} leads {verdict.b} by {gap}, which chance could explain"
    clauses = [_means(data, a, b), _sureness(data, verdict)]
    if a and b:
        cost = _cost_clause(data, a, b)
        subject = "" if verdict.outcome == "better" else f"{a.name} comes "
        clauses += [f"{subject}{cost}" if cost else "", _pretraining_clause(data, a, b)]
    clauses += [_others(data, verdict), reference_ahead(data, a) if a else "", _teacher_clause(data)]
    return head, "; ".join(clause for clause in clauses if clause)


def _files_answer(test: FileTest) -> tuple[str, str]:
    head = (
        f"{test.a} is right on {test.only_a:,} photos that {test.b} gets wrong, "
        f"and wrong on {test.only_b:,} that {test.b} gets right"
    )
    return head, f"McNemar p {probability(test.p_value)}; of these two files, not of the recipes behind them"


def _single_head(data: ReportData, detail: ModelDetail) -> tuple[str, str]:
    """(what the only model reaches, the interval of that figure)."""
    score, measured = headline(data), headline_estimate(data, detail)
    photos = plural(photos_shown(data, detail), "test photo")
    value = score.text(data.mean_score(detail))
    bounds = interval(measured.low, measured.high, score.text) if measured else ""
    if data.problem == "single_label":
        return f"{detail.name} names {value} of {photos} correctly", bounds
    if data.problem == "multi_label":
        return f"{detail.name} reaches {value} mAP over {len(data.classes):,} labels on {photos}", bounds
    iou = detail.metrics.get(IOU.key)
    if data.boxes and iou and len(data.full_runs(detail)) == 1:
        head = f"{detail.name} finds the boxes of {photos} with a mean IoU of {IOU.text(iou.value)}"
        return head, interval(iou.low, iou.high, IOU.text)
    return f"{detail.name} is off by {value} on average ({score.noun}) on {photos}", bounds


def _single_answer(data: ReportData) -> tuple[str, str]:
    detail = (data.tested or data.models)[0]
    runs = data.full_runs(detail)
    head, bounds = _single_head(data, detail)
    speed, seconds = cost_of(runs, "images_per_second"), cost_of(runs, "train_seconds")
    trained = pretraining_of(data, detail)
    clauses = [
        f"interval {bounds}" if bounds else "",
        f"mean of {plural(len(runs), 'run')}" if len(runs) > 1 else "",
        f"trained in {duration(seconds)}" if seconds is not None else "",
        f"answers {short(speed)} images/s" if speed is not None else "",
        "trained from scratch"
        if _from_nothing(trained) and trained
        else f"pre-trained on {trained}"
        if trained
        else "",
        reference_ahead(data, detail),
        _teacher_clause(data),
    ]
    return head, "; ".join(clause for clause in clauses if clause)


def _unjudged_answer(data: ReportData) -> tuple[str, str]:
    """Several models and no verdict: their figures, and why nothing is claimed."""
    score = headline(data)
    listed = []
    for model, group in groupby(data.models, key=lambda detail: detail.model):
        several = [(detail, score.text(data.mean_score(detail))) for detail in group]
        if len(several) == 1:
            listed += [f"{detail.name} {value}" for detail, value in several]
        else:  # one model in several ways is named once
            listed.append(f"{model} {', '.join(f'{value} ({detail.method})' for detail, value in several)}")
    return f"No verdict: {', '.join(listed)} {score.noun}", data.no_verdict


def answer_parts(data: ReportData) -> tuple[str, str]:
    """The answer as (what was found, how sure and at what cost); together they are one sentence."""
    if data.verdicts:
        return _verdict_answer(data, data.verdicts[0])
    if data.file_tests:
        return _files_answer(data.file_tests[0])
    if len(data.tested) <= 1:
        return _single_answer(data)
    return _unjudged_answer(data)


def answer(data: ReportData) -> str:
    """Which model, by how much, how sure, at what cost, on what pre-training: one sentence without markup."""
    head, tail = answer_parts(data)
    return f"{head} ({tail})." if tail else f"{head}."
