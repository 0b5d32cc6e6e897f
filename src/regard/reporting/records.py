"""What a report is made of: plain records that comparison (or a single run) fills and `write_report` draws.

All that needs statistics arrives here finished (intervals, calibration bins, verdicts). Reporting itself only
counts and sorts: seed means, confusion cells, which photo goes into which gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from regard.results import CheckReport, RunResult, Verdict


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
class ReliabilityBin:
    """Test photos of similar confidence: what the model claimed and how often it was right (shares 0..1)."""

    confidence: float
    accuracy: float
    photos: int


@dataclass(frozen=True)
class ModelDetail:
    """What is known of one model and method at the full fraction, beyond its runs.

    `name` is how verdicts call it (`Verdict.a`, `Verdict.b`) and how the report prints it; `model` and
    `method` find its runs in `ReportData.runs`. `shown_seed`: the run whose photos and calibration are shown.
    """

    name: str
    model: str
    method: str
    shown_seed: int = 0
    # of the shown run
    metrics: Mapping[str, Estimate] = field(
        default_factory=dict
    )  # top1, top5, macro_f1, balanced_accuracy, nll, brier, ece
    per_class: tuple[ClassScore, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    risk_coverage: tuple[tuple[float, float], ...] = ()  # (share of photos accepted, error among them)
    ece_if_calibrated: float | None = None  # the ECE that a calibrated model of this many photos would show
    overlap: str = ""  # one sentence where the pre-training data may contain the test photos
    mean_top1: Estimate | None = None  # over all seeds at the full fraction, its interval over seeds and photos


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

    models: one per model and method, in the order to be printed (best on validation first).
    runs: all runs, all seeds and fractions. verdicts: the first is the pair that the answer speaks of; with
    more than two models all pairs that were tested. pixels: photo id -> HxWx3 uint8 (decoded, upright), None
    where it cannot be read; asked once per photo that is shown, in any order.
    """

    title: str  # "clothing"
    models: tuple[ModelDetail, ...]
    runs: tuple[RunResult, ...]
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

    def runs_of(self, detail: ModelDetail) -> tuple[RunResult, ...]:
        """All runs of one model and method: every fraction and seed."""
        return tuple(run for run in self.runs if (run.model, run.method) == (detail.model, detail.method))

    def full_runs(self, detail: ModelDetail) -> tuple[RunResult, ...]:
        """The runs of one model and method at its largest fraction, by seed."""
        runs = self.runs_of(detail)
        largest = max((run.fraction for run in runs), default=0.0)
        return tuple(sorted((run for run in runs if run.fraction == largest), key=lambda run: run.seed))

    def shown_run(self, detail: ModelDetail) -> RunResult:
        """The run whose photos are shown; the first full run where `shown_seed` was not trained."""
        runs = self.full_runs(detail)
        return next((run for run in runs if run.seed == detail.shown_seed), runs[0])
