"""From runs and verdicts to the records that a report draws: every figure is computed here, none is invented there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np

from regard.comparison.compare import Candidate
from regard.data.decoding import ImageError, decode
from regard.data.sources import ImageSet
from regard.evaluation.calibration import reliability, risk_coverage
from regard.evaluation.intervals import coverage_shown
from regard.evaluation.metrics import per_class, summarise
from regard.evaluation.statistics import mean_top1, sentence
from regard.reporting.records import ClassScore, FileTest, ModelDetail, ReliabilityBin, ReportData, Suspect
from regard.results import CheckReport, RunResult, Verdict

INTERVAL_NOTE = (
    "Intervals at 95%, of the run shown (seed {seed}): Wilson for top1, top5, precision and recall; bootstrap over "
    "photos, near-duplicates kept together, for macro F1, balanced accuracy, NLL and Brier. They say how much other "
    "photos would change the figure, not how much training again would: that is in the verdict."
)
COVERED = {
    "top1": "top1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "nll": "NLL",
    "brier": "Brier",
}
THUMBNAIL_SIDE = 96
CURVE_POINTS = 60


def model_detail(candidate: Candidate, groups: Sequence[Sequence[str]]) -> ModelDetail:
    """One candidate's figures, from its first run."""
    run = candidate.runs[0]
    summary = summarise(run.test, run.temperature, groups)
    return ModelDetail(
        name=candidate.name,
        model=candidate.model,
        method=candidate.method,
        shown_seed=run.seed,
        metrics=summary,
        mean_top1=mean_top1(candidate.correct),
        per_class=tuple(
            ClassScore(
                row.name,
                row.images,
                row.precision.value if row.precision else None,
                row.recall.value if row.recall else None,
                row.f1.value if row.f1 else None,
                row.recall.low if row.recall else None,
                row.recall.high if row.recall else None,
            )
            for row in per_class(run.test)
        ),
        reliability=tuple(
            ReliabilityBin(bin_.confidence, bin_.accuracy, bin_.images)
            for bin_ in reliability(run.test, run.temperature)
        ),
        risk_coverage=_thinned(risk_coverage(run.test, run.temperature)),
        ece_if_calibrated=summary["ece_if_calibrated"].value,
        overlap=overlap_note(run),
    )


def interval_note(run: RunResult) -> str:
    """What the intervals are, and for which figures simulation has shown that they cover 93 to 97% at this size."""
    accuracy, photos = float(run.test.correct.mean()), len(run.test)
    shown = [words for name, words in COVERED.items() if coverage_shown(name, accuracy, photos)]
    claim = f"{', '.join(shown)}: shown" if shown else "none of them shown"
    return (
        f"{INTERVAL_NOTE.format(seed=run.seed)} Coverage of 93 to 97% at {photos:,} photos and this accuracy, "
        f"by simulation: {claim}; read the others as approximate."
    )


def _thinned(curve: Any) -> tuple[tuple[float, float], ...]:
    rows = np.unique(np.linspace(0, len(curve.coverage) - 1, CURVE_POINTS).round().astype(int))
    return tuple((float(curve.coverage[row]), float(curve.risk[row])) for row in rows)


def overlap_note(run: RunResult) -> str:
    """A warning where the backbone may have seen the test photos: what it was pre-trained on is named."""
    if run.pretraining.lower().startswith("none") or not run.pretraining:
        return ""
    example = " (Stanford Dogs, for instance, is drawn from ImageNet)" if "imagenet" in run.pretraining.lower() else ""
    return (
        f"{run.model} was pre-trained on {run.pretraining}{example}: test photos that were among them it has seen, and "
        "its figure is then too high."
    )


@dataclass(frozen=True)
class Story:
    """What a report tells beside the runs themselves."""

    title: str
    command: str
    check: CheckReport | None = None
    protocol: tuple[str, ...] = ()
    budget: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    suspects: tuple[Suspect, ...] = ()


def report_data(
    story: Story,
    ordered: Sequence[Candidate],
    results: Sequence[RunResult],
    found: Sequence[Verdict],
    images: ImageSet | None,
    file_tests: Sequence[FileTest] = (),
) -> ReportData:
    """Everything in one report; `images` are where its thumbnails come from."""
    groups = story.check.groups if story.check else ()
    one_seed = min(len(candidate.runs) for candidate in ordered) < 2
    return ReportData(
        title=story.title,
        models=tuple(model_detail(candidate, groups) for candidate in ordered),
        runs=tuple(results),
        verdicts=() if one_seed else tuple(found),
        no_verdict="one seed never yields a verdict about recipes; run at least 3"
        if one_seed and len(ordered) > 1
        else "",
        file_tests=tuple(file_tests),
        check=story.check,
        suspects=story.suspects,
        interval_note=interval_note(ordered[0].runs[0]),
        # The verdicts in words close the protocol: with what would settle an undecided pair.
        protocol=(*story.protocol, *map(sentence, found)),
        budget=story.budget,
        environment=story.environment,
        command=story.command,
        created=date.today().isoformat(),
        pixels=pixels_of(images) if images is not None else None,
    )


def pixels_of(images: ImageSet) -> Any:
    """A reader of photos by id, at thumbnail size; None for what cannot be read."""
    rows = {id_: row for row, id_ in enumerate(images.ids)}

    def pixels(id_: str) -> np.ndarray | None:
        if id_ not in rows:
            return None
        try:
            return decode(images.sources[rows[id_]], shorter_side=THUMBNAIL_SIDE)
        except ImageError:
            return None

    return pixels
