"""What a report is made of: plain records that comparison (or a single run) fills and `write_report` draws.

All that needs statistics arrives here finished (intervals, calibration bins, verdicts). Reporting itself only
counts and sorts: seed means, confusion cells, which photo goes into which gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from regard.reporting.answers import Answers, answers
from regard.results import CheckReport, Problem, RunResult, Verdict

BOX = ("x0", "y0", "x1", "y1")  # the columns of numbers that are boxes, in shares of the photo's width and height


class Estimate(Protocol):
    """A value with an interval, as `evaluation.metrics.Metric` has it; NaN or None where there is none."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


@dataclass(frozen=True)
class ClassScore:
    """One row of the per-class table; shares are 0..1, intervals are on recall."""

    name: str
    photos: int  # test photos of this class
    precision: float | None
    recall: float | None
    f1: float | None
    recall_low: float | None = None
    recall_high: float | None = None


@dataclass(frozen=True)
class LabelScore:
    """One row of the per-label table of photos with several labels; None where nothing can be said."""

    name: str
    photos: int  # test photos that carry the label
    average_precision: Estimate | None
    precision: Estimate | None  # at the threshold
    recall: Estimate | None
    f1: Estimate | None
    thresholds: tuple[float, ...]  # probability from which the label is given; one per fold where they differ


@dataclass(frozen=True)
class ColumnScore:
    """One row of the per-column table of numbers."""

    name: str
    photos: int  # test photos whose number is known
    mae: Estimate | None
    rmse: Estimate | None
    r2: Estimate | None


@dataclass(frozen=True)
class SliceScore:
    """The headline metric on the test photos that share one value of a column."""

    value: str
    photos: int
    score: Estimate | None


@dataclass(frozen=True)
class ReliabilityBin:
    """Test photos of similar confidence: what the model claimed and how often it was right (shares 0..1).

    With several labels per photo: label probabilities, and how often the label was there.
    """

    confidence: float
    accuracy: float
    photos: int


@dataclass(frozen=True)
class Unknown:
    """How well a score tells photos of known classes from unknown ones; higher = more known.

    auroc: chance that a known photo scores above an unknown one; fpr95: share of the unknown photos accepted where
    95% of the known ones are; below `threshold` a photo is called unknown; edges (B + 1) and the shares of known and
    unknown photos in each of the B bins are the histogram.
    """

    score: str
    auroc: Estimate
    fpr95: Estimate
    known: int
    unknown: int
    threshold: float | None = None
    known_rejected: float | None = None  # share of the known photos that the threshold calls unknown
    unknown_rejected: float | None = None
    edges: tuple[float, ...] = ()
    known_shares: tuple[float, ...] = ()
    unknown_shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelDetail:
    """What is known of one model and method at the full fraction, beyond its runs.

    `name` is how verdicts call it (`Verdict.a`, `Verdict.b`) and how the report prints it; `model` and
    `method` find its runs in `ReportData.runs`. `shown_seed`: the run (of folds: all of them) whose photos and
    calibration are shown.
    """

    name: str
    model: str
    method: str
    shown_seed: int = 0
    # of the photos shown
    metrics: Mapping[str, Estimate] = field(default_factory=dict)  # by the names of `evaluation.problems`
    per_class: tuple[ClassScore, ...] = ()
    per_label: tuple[LabelScore, ...] = ()
    per_column: tuple[ColumnScore, ...] = ()
    slices: Mapping[str, tuple[SliceScore, ...]] = field(default_factory=dict)  # column -> its values
    reliability: tuple[ReliabilityBin, ...] = ()
    risk_coverage: tuple[tuple[float, float], ...] = ()  # (share of photos accepted, error among them)
    ece_if_calibrated: float | None = None  # the ECE that a calibrated model of this many photos would show
    unknown: tuple[Unknown, ...] = ()
    overlap: str = ""  # one sentence where the pre-training data may contain the test photos
    mean: Estimate | None = None  # headline metric over all seeds at the full fraction, interval over seeds and photos

    @property
    def reference(self) -> bool:
        """True for a row beside the models that is never tested against them: without a network, or their teacher."""
        return self.method in ("classical", "teacher")


@dataclass(frozen=True)
class FileTest:
    """McNemar on two given sets of predictions: it speaks of the two files and not of the recipes."""

    a: str
    b: str
    only_a: int  # photos that only a gets right
    only_b: int
    p_value: float


@dataclass(frozen=True)
class Suspect:
    """A photo whose label an out-of-fold head disputes."""

    id: str
    given: str  # class name
    suggested: str  # class name
    confidence: float  # 0..1, of the suggested class, out of fold


@dataclass(frozen=True)
class ReportData:
    """Everything in one report. Empty fields fall away; nothing is invented in their place.

    models: one per model and method, in the order to be printed (best on validation first, references last).
    runs: all runs, all seeds, folds and fractions; scores: the headline metric (top1, mAP or MAE) of each on its test
    photos; validation: the same on its validation photos, NaN where it has none; photo_scores: (N,) of each, how right
    it is on each test photo, more is better, NaN without a label: 1 or 0 for one class, minus the absolute error in
    standard deviations for numbers, intersection over union for boxes. verdicts: the first is the
    pair that the answer speaks of; with more than two models all pairs that were tested. pixels: photo id -> HxWx3
    uint8 (decoded, upright), None where it cannot be read; asked once per photo that is shown, in any order.
    """

    title: str  # "clothing"
    models: tuple[ModelDetail, ...]
    runs: tuple[RunResult, ...]
    scores: tuple[float, ...]
    validation: tuple[float, ...]
    photo_scores: tuple[np.ndarray, ...]
    verdicts: tuple[Verdict, ...] = ()
    no_verdict: str = ""  # why there is none: "one seed never yields a verdict about recipes"
    file_tests: tuple[FileTest, ...] = ()
    check: CheckReport | None = None
    suspects: tuple[Suspect, ...] = ()
    interval_note: str = ""  # what the intervals of `ModelDetail.metrics` are
    protocol: tuple[str, ...] = ()  # which images were used for which choice, one line each (`Split.notes`)
    budget: str = ""  # "20,000 images seen and no tuning trial for every model"
    environment: Mapping[str, str] = field(default_factory=dict)  # "Python" -> "3.11.9"
    command: str = ""  # the exact command that makes this report again
    created: str = ""  # ISO date
    pixels: Callable[[str], np.ndarray | None] | None = None

    @property
    def problem(self) -> Problem:
        """What the labels are."""
        return self.runs[0].problem

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, of the labels, or of the columns of numbers."""
        return self.runs[0].test.classes

    @property
    def boxes(self) -> bool:
        """True where the numbers are boxes."""
        return self.problem == "regression" and self.classes == BOX

    @property
    def tested(self) -> tuple[ModelDetail, ...]:
        """The models without the references."""
        return tuple(detail for detail in self.models if not detail.reference)

    @property
    def folds(self) -> int:
        """How many folds the photos were dealt into; 0 where there is one test split."""
        return len({run.fold for run in self.runs} - {None})

    @property
    def repeats(self) -> int:
        """How many seeds were run (of folds: how often they were dealt)."""
        return len({run.seed for run in self.runs})

    def score(self, run: RunResult) -> float:
        """The headline metric of one of the runs on its test photos."""
        return self.scores[self._place(run)]

    def validation_score(self, run: RunResult) -> float:
        """The same on its validation photos."""
        return self.validation[self._place(run)]

    def _place(self, run: RunResult) -> int:
        return next(at for at, one in enumerate(self.runs) if one is run)

    def mean_score(self, detail: ModelDetail) -> float | None:
        """Mean headline metric over the full runs of a model; None where there is none."""
        runs = self.full_runs(detail)
        return float(np.mean([self.score(run) for run in runs])) if runs else None

    def runs_of(self, detail: ModelDetail) -> tuple[RunResult, ...]:
        """All runs of one model and method: every fraction, seed and fold."""
        return tuple(run for run in self.runs if (run.model, run.method) == (detail.model, detail.method))

    def full_runs(self, detail: ModelDetail) -> tuple[RunResult, ...]:
        """The runs of one model and method at its largest fraction, by seed and fold."""
        runs = self.runs_of(detail)
        largest = max((run.fraction for run in runs), default=0.0)
        full = (run for run in runs if run.fraction == largest)
        return tuple(sorted(full, key=lambda run: (run.seed, -1 if run.fold is None else run.fold)))

    def shown_runs(self, detail: ModelDetail) -> tuple[RunResult, ...]:
        """The run whose photos are shown, or all folds of one seed: together each photo once."""
        runs = self.full_runs(detail)
        seed = detail.shown_seed if detail.shown_seed in {run.seed for run in runs} else runs[0].seed
        return tuple(run for run in runs if run.seed == seed)

    @cached_property
    def shown(self) -> tuple[Answers, ...]:
        """What each of the models said of the photos shown."""
        return tuple(self.answers_of(self.shown_runs(detail)) for detail in self.models)

    def answers_of(self, runs: tuple[RunResult, ...]) -> Answers:
        """The answers of some of the runs, one after the other."""
        return answers(runs, [self.photo_scores[self._place(run)] for run in runs])
