"""Is a run that was done again the same, and if not, is the difference more than noise?

The floor. A run with the same seed on another machine or another torch rounds differently, and a training amplifies
rounding until it is a fresh draw: such a run differs from the first like another seed does. Where at least one sibling
run (same recipe, data and images, another seed) is at hand, two such draws differ by less than
t(0.975; n - 1) * s * sqrt(2) in 95 of 100 cases, s being the standard deviation of the headline metric over the n
seeds. Without siblings the photos decide. Where b photos turned from right to wrong and c from wrong to right, the
difference is noise unless the exact McNemar test (1947) of b against c rejects at 5%; for several labels or numbers a
paired t test of the photos' scores takes its place. It asks whether the accuracy has moved, not whether answers have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from regard.evaluation.problems import HEADLINE, photo_scores, values
from regard.results import RunResult

Outcome = Literal["same", "within noise", "different"]
ALPHA = 0.05
UNTIMED = ("seconds", "images_per_second")  # of a row of metrics.jsonl: never the same twice


@dataclass(frozen=True)
class Judgement:
    """Outcome, the headline metric before and after on the test images, and by which rule it was judged."""

    outcome: Outcome
    metric: str
    before: float
    after: float
    rule: str


def judge(before: RunResult, after: RunResult, siblings: Sequence[RunResult]) -> Judgement:
    """`after` against `before`, answers to the same images; siblings: runs that differ from `before` in the seed."""
    metric = HEADLINE[before.problem]

    def score(run: RunResult) -> float:
        return values(run.test, run.temperature)[metric]

    then, now = score(before), score(after)
    if all(np.array_equal(a.logits, b.logits) for a, b in ((before.val, after.val), (before.test, after.test))):
        return Judgement("same", metric, then, now, "every answer is the same, bit for bit")
    if siblings:
        scores = [then, *map(score, siblings)]
        n, deviation = len(scores), float(np.std(scores, ddof=1))
        floor = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * deviation * math.sqrt(2)
        rule = f"{n} seeds of this recipe: two runs of it differ by up to {floor:.3g} in {metric} (95%)"
        within = abs(now - then) <= floor
    else:
        within, rule = _photos_agree(before, after)
    return Judgement("within noise" if within else "different", metric, then, now, rule)


def _photos_agree(before: RunResult, after: RunResult) -> tuple[bool, str]:
    """Whether the test photos leave it open that nothing has moved, and how that was found."""
    then, now = photo_scores(before.test), photo_scores(after.test)
    known = ~np.isnan(then) & ~np.isnan(now)
    change = now[known] - then[known]
    if before.problem == "single_label":
        lost, won = int((change < 0).sum()), int((change > 0).sum())
        p = float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0
        return p >= ALPHA, f"{lost} test photos turned wrong and {won} right: McNemar p = {p:.2g}"
    moved = len(change) > 1 and bool(np.ptp(change) > 0)
    p = float(np.asarray(stats.ttest_1samp(change, 0.0))[1]) if moved else 1.0  # (statistic, p)
    return p >= ALPHA, f"scores of {len(change):,} test photos: paired t test p = {p:.2g}"


def first_difference(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """The first row of metrics.jsonl that differs, in words; "" where none does."""
    for one, other in zip(before, after, strict=False):
        for name in one.keys() & other.keys() - {*UNTIMED}:
            if one[name] != other[name]:
                names = sorted(name for name in one if name not in UNTIMED and one[name] != other.get(name))
                return f"from step {one['step']} on: {names[0]} was {one[names[0]]!r}, is {other.get(names[0])!r}"
    if len(before) != len(after):
        return f"{len(before)} evaluations then, {len(after)} now"
    return ""


def changed(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`torch 2.14.0 -> 2.15.0` for every entry of two nested records that differs."""
    lines = []
    for name in [*before, *(name for name in after if name not in before)]:
        one, other = before.get(name), after.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            lines += changed(one, other, f"{prefix}{name} ")
        elif one != other:
            lines.append(f"{prefix}{name}: {one} -> {other}")
    return lines
