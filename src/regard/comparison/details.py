"""From runs and verdicts to the records that a report draws: every figure is computed here, none is invented there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from regard.comparison.compare import Candidate
from regard.comparison.headlines import headline_of, mean_over_runs, photo_scores_of
from regard.data.decoding import ImageError, decode
from regard.data.draws import together
from regard.data.sources import ImageSet
from regard.errors import RegardError
from regard.evaluation import multilabel, problems, regression
from regard.evaluation.calibration import reliability, risk_coverage
from regard.evaluation.intervals import Metric, coverage_shown
from regard.evaluation.metrics import per_class
from regard.evaluation.slices import per_slice
from regard.evaluation.statistics import sentence
from regard.reporting.records import (
    ClassScore,
    ColumnScore,
    FileTest,
    LabelScore,
    ModelDetail,
    ReliabilityBin,
    ReportData,
    SliceScore,
    Suspect,
    Unknown,
)
from regard.results import CheckReport, Predictions, Problem, RunResult, Verdict

INTERVAL_NOTES: dict[Problem, str] = {
    "single_label": "Wilson for top1, top5, precision and recall; bootstrap over photos, near-duplicates kept "
    "together, for macro F1, balanced accuracy, NLL and Brier.",
    "multi_label": "Wilson for precision, recall and F1 of a label; bootstrap over photos, near-duplicates kept "
    "together, for the rest. Thresholds were chosen on validation photos, for the best F1 of each label.",
    "regression": "bootstrap over photos, near-duplicates kept together.",
}
COVERED = {
    "top1": "top1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "nll": "NLL",
    "brier": "Brier",
}
THUMBNAIL_SIDE = 96
CURVE_POINTS = 60
WIDE_BINS = 10
FEWEST_IN_BIN = 10


@dataclass(frozen=True)
class Shown:
    """What a report shows of a candidate: the test photos of one run, or of all folds of one seed together.

    predictions: the logits are divided by each fold's temperature; thresholds: of each fold; decided: the labels given
    at them, as predictions of 1 and -1 to be cut at 0.5.
    """

    runs: tuple[RunResult, ...]
    predictions: Predictions
    decided: Predictions

    @property
    def thresholds(self) -> tuple[tuple[float, ...], ...]:
        """Per fold the thresholds of its labels; 0.5 where none were chosen."""
        names = len(self.predictions.classes)
        return tuple(dict.fromkeys(run.thresholds or (0.5,) * names for run in self.runs))


def shown_of(runs: Sequence[RunResult]) -> Shown:
    """The first run, or all runs of its seed where there are folds."""
    own = tuple(run for run in runs if run.seed == runs[0].seed)
    parts = [replace(run.test, logits=run.test.logits / np.float32(run.temperature)) for run in own]
    pooled = replace(
        parts[0],
        ids=tuple(id_ for part in parts for id_ in part.ids),
        logits=np.concatenate([part.logits for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )
    if pooled.problem != "multi_label":
        return Shown(own, pooled, pooled)
    given = [
        part.probabilities() >= multilabel.cuts_of(part, run.thresholds) for run, part in zip(own, parts, strict=True)
    ]
    return Shown(own, pooled, replace(pooled, logits=np.where(np.concatenate(given), 1, -1).astype(np.float32)))


def model_detail(
    candidate: Candidate, groups: Sequence[Sequence[str]], slices: Mapping[str, Mapping[str, str]]
) -> ModelDetail:
    """One candidate's figures, from its first seed; slices: column -> photo id -> value."""
    shown = shown_of(candidate.runs)
    test = shown.predictions
    summary = problems.summarise(test, 1.0, groups)
    if test.problem == "multi_label":
        at_thresholds = problems.summarise(shown.decided, 1.0, groups)
        summary |= {name: at_thresholds[name] for name in ("micro_f1", "macro_f1")}
    first = ModelDetail(
        name=candidate.name,
        model=candidate.model,
        method=candidate.method,
        shown_seed=shown.runs[0].seed,
        metrics=summary,
        slices={column: slice_scores(test, cells, groups) for column, cells in slices.items()},
        unknown=tuple(one for run in shown.runs[:1] for one in unknown_of(run)),
        overlap=overlap_note(shown.runs[0]),
        mean=mean_over_runs(candidate.runs, groups),
    )
    if test.problem == "regression":
        columns = regression.per_column(test, groups)
        return replace(first, per_column=tuple(ColumnScore(r.name, r.images, r.mae, r.rmse, r.r2) for r in columns))
    if test.problem == "multi_label":
        return replace(first, per_label=label_scores(shown, groups), reliability=label_reliability(test))
    return replace(
        first,
        reliability=tuple(ReliabilityBin(one.confidence, one.accuracy, one.images) for one in reliability(test)),
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
            for row in per_class(test)
        ),
        risk_coverage=_thinned(risk_coverage(test)),
        ece_if_calibrated=summary["ece_if_calibrated"].value,
    )


def label_scores(shown: Shown, groups: Sequence[Sequence[str]]) -> tuple[LabelScore, ...]:
    """The per-label table: average precision from the probabilities, the rest from the labels given."""
    ranked = multilabel.per_label(shown.predictions, groups=groups)
    decided = multilabel.per_label(shown.decided)
    return tuple(
        LabelScore(
            row.name,
            row.images,
            row.average_precision,
            cut.precision,
            cut.recall,
            cut.f1,
            tuple(one[place] for one in shown.thresholds),
        )
        for place, (row, cut) in enumerate(zip(ranked, decided, strict=True))
    )


def label_reliability(test: Predictions) -> tuple[ReliabilityBin, ...]:
    """Every known label of every photo by its probability, in bins of equal width: most probabilities are near 0.

    Bins of a few labels say nothing and are left out.
    """
    known = ~np.isnan(test.labels)
    probabilities, there = test.probabilities()[known], test.labels[known]
    place = np.minimum((probabilities * WIDE_BINS).astype(int), WIDE_BINS - 1)
    members = [np.flatnonzero(place == number) for number in range(WIDE_BINS)]
    return tuple(
        ReliabilityBin(float(probabilities[rows].mean()), float(there[rows].mean()), len(rows))
        for rows in members
        if len(rows) >= FEWEST_IN_BIN
    )


def slice_scores(
    test: Predictions, cells: Mapping[str, str], groups: Sequence[Sequence[str]]
) -> tuple[SliceScore, ...]:
    """The headline metric of every value of one column."""
    return tuple(SliceScore(row.value, row.images, row.headline) for row in per_slice(test, cells, groups=groups))


def unknown_of(run: RunResult) -> tuple[Unknown, ...]:
    """What the run's folder says of unknown photos; nothing where none were given.

    Raises RegardError: the file is damaged.
    """
    path = Path(run.folder) / "unknown.json" if run.folder else None
    if path is None or not path.is_file():
        return ()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        others = [kind for kind in found.get("scores", {}) if kind != found["score"]]
        return (_unknown(found), *(_other_score(found, kind) for kind in others))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RegardError(f"{path}: damaged ({type(error).__name__}: {error}); delete it or train anew") from None


def _unknown(found: Mapping[str, Any]) -> Unknown:
    histogram = found["histogram"]
    return Unknown(
        score=f"{_score_words(found['score'])} (chosen)",
        auroc=Metric(*found["auroc"]),
        fpr95=Metric(*found["fpr95"]),
        known=int(found["known"]),
        unknown=int(found["unknown"]),
        threshold=float(found["threshold"]),
        known_rejected=found.get("known_rejected"),
        unknown_rejected=found.get("unknown_rejected"),
        edges=tuple(map(float, histogram["edges"])),
        known_shares=_shares(histogram["known"]),
        unknown_shares=_shares(histogram["unknown"]),
    )


def _other_score(found: Mapping[str, Any], kind: str) -> Unknown:
    """A score that was measured but not chosen."""
    own = found["scores"][kind]
    measured = Metric(*own["auroc"]), Metric(*own["fpr95"])
    return Unknown(_score_words(kind), *measured, known=int(found["known"]), unknown=int(found["unknown"]))


def _score_words(kind: str) -> str:
    return {"distance": "nearness to training photos", "probability": "largest probability"}.get(kind, kind)


def _shares(counts: Sequence[float]) -> tuple[float, ...]:
    total = sum(counts)
    return tuple(count / total for count in counts) if total else tuple(counts)


def interval_note(runs: Sequence[RunResult]) -> str:
    """What the intervals are, and for which figures simulation has shown that they cover 93 to 97% at this size."""
    shown = shown_of(runs)
    test, seed = shown.predictions, shown.runs[0].seed
    whose = f"all folds of repeat {seed} together" if shown.runs[0].fold is not None else f"the run shown (seed {seed})"
    note = (
        f"Intervals at 95%, of {whose}: {INTERVAL_NOTES[test.problem]} They say how much other photos would change the "
        "figure, not how much training again would: that is in the verdict."
    )
    if test.problem != "single_label":
        return note
    accuracy, photos = float(test.correct.mean()), len(test)
    covered = [words for name, words in COVERED.items() if coverage_shown(name, accuracy, photos)]
    claim = f"{', '.join(covered)}: shown" if covered else "none of them shown"
    return (
        f"{note} Coverage of 93 to 97% at {photos:,} photos and this accuracy, "
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
    """Everything in one report; `images` are where its thumbnails and slices come from."""
    near = story.check.groups if story.check else ()
    groups = together(images, near) if images else near
    slices = (
        {column: dict(zip(images.ids, cells, strict=True)) for column, cells in images.slices.items()} if images else {}
    )
    listed = sorted(ordered, key=lambda candidate: candidate.reference)  # references last
    tested = [candidate for candidate in ordered if not candidate.reference]
    one_seed = not any(verdict.folds for verdict in found) and min(len(one.runs) for one in tested or ordered) < 2
    return ReportData(
        title=story.title,
        models=tuple(model_detail(candidate, groups, slices) for candidate in listed),
        runs=tuple(results),
        scores=tuple(headline_of(run.test, run.temperature) for run in results),
        validation=tuple(headline_of(run.val, run.temperature) for run in results),
        photo_scores=tuple(photo_scores_of(run.test) for run in results),
        verdicts=() if one_seed else tuple(found),
        no_verdict="one seed never yields a verdict about recipes; run at least 3"
        if one_seed and len(tested) > 1
        else "",
        file_tests=tuple(file_tests),
        check=_of_all_photos(story.check) if results[0].fold is not None else story.check,
        suspects=story.suspects,
        interval_note=interval_note(listed[0].runs),
        # The verdicts in words close the protocol: with what would settle an undecided pair.
        protocol=(*story.protocol, *map(sentence, found)),
        budget=story.budget,
        environment=story.environment,
        command=story.command,
        created=date.today().isoformat(),
        pixels=pixels_of(images) if images is not None else None,
    )


def _of_all_photos(check: CheckReport | None) -> CheckReport | None:
    """The check without what it says of one cut into train, val and test, which folds do not use."""
    if check is None:
        return None
    kept = tuple(finding for finding in check.findings if finding.code != "split")
    return replace(check, findings=kept, counts={}, images={}, decides="")


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
