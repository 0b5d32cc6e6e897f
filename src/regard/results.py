"""The records that parts hand to each other: plain data, NumPy only, no torch, no files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

# What the labels of a data set are: one class per photo, several labels per photo, or numbers.
Problem = Literal["single_label", "multi_label", "regression"]
ProblemChoice = Literal["auto", "single_label", "multi_label", "regression"]  # "auto": the labels decide


@dataclass(frozen=True)
class Predictions:
    """What one model said about one set of images.

    ids: N stable image ids. classes: K names, of classes, of labels, or of the columns of numbers.

    | problem      | logits (N, K) float32                   | labels                                       |
    |--------------|-----------------------------------------|----------------------------------------------|
    | single_label | scores, for a softmax                   | (N,) int64, -1 where unknown                 |
    | multi_label  | scores, for a sigmoid each              | (N, K) float32 of 0 and 1, NaN where unknown |
    | regression   | the numbers, in the units of the labels | (N, K) float32, NaN where unknown            |
    """

    ids: tuple[str, ...]
    logits: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    problem: Problem = "single_label"

    def probabilities(self, temperature: float = 1.0) -> np.ndarray:
        """(N, K) float64: softmax of logits / temperature (rows sum to 1), or a sigmoid each where labels are several.

        Numbers have none: ValueError.
        """
        scaled = self.logits.astype(np.float64) / temperature
        if self.problem == "regression":
            raise ValueError("numbers have no probabilities")
        if self.problem == "multi_label":
            return 0.5 * (1 + np.tanh(scaled / 2))  # the sigmoid, without overflow
        scaled -= scaled.max(axis=1, keepdims=True)
        exponentials = np.exp(scaled)
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool: the most probable class is the label (one class per photo only)."""
        return self.logits.argmax(axis=1) == self.labels

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Cost:
    """What a trained model costs; None where it was not measured."""

    parameters: int
    trainable_parameters: int | None = None
    gmacs: float | None = None  # multiply-adds of one forward pass of one image / 1e9
    peak_memory_mb: float | None = None  # resident set of the training process
    images_per_second: float | None = None  # inference, largest measured batch
    latency_ms: float | None = None  # inference, batch of one
    train_seconds: float | None = None
    train_flops: float | None = None  # forward and backward passes spent on this run


@dataclass(frozen=True)
class RunResult:
    """One trained model with its answers, as comparison and report read it."""

    model: str
    method: str  # "scratch" | "finetune" | "head" | "given" (predictions of another tool)
    seed: int
    fraction: float
    train_images: int
    images_seen: int
    val: Predictions
    test: Predictions
    temperature: float  # fitted on val
    unsure_below: float  # confidence under which 5% of val falls, after the temperature
    cost: Cost
    pretraining: str  # "none (trained from scratch)" or the checkpoint's data and licence in a few words
    curve: tuple[dict, ...] = ()  # rows of metrics.jsonl: {"step", "images", "loss", "val/top1", ...}
    recipe: dict = field(default_factory=dict)  # the resolved config.yaml
    folder: str = ""
    deterministic: bool = False  # a solver on fixed features: the seed only redraws the training subset
    fold: int | None = None  # which of k folds was the test, where there are folds
    thresholds: tuple[float, ...] = ()  # multi_label: probability from which each label is given, chosen on val

    @property
    def problem(self) -> Problem:
        """What its labels are."""
        return self.test.problem


Outcome = Literal["better", "equivalent", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The one test stated in advance, for one pair of models (or model and method).

    difference = mean score of `a` minus mean score of `b` over seeds; low and high bound it at 1 - alpha. The score
    of a photo is `metric`: "top1" (right or wrong), "lrap" (label ranking average precision, 0 to 1) or "scaled_mae"
    (minus the absolute error in standard deviations of the training labels).
    """

    a: str
    b: str
    outcome: Outcome
    difference: float
    low: float
    high: float
    p_value: float  # two-sided, Holm-corrected where several pairs are tested
    p_equivalent: float  # larger of the two one-sided tests against +-margin
    margin: float
    alpha: float
    seeds: tuple[int, int]
    photos: int
    degrees_of_freedom: float
    seed_variance: float  # variance of the difference due to seeds
    photo_variance: float  # and due to photos
    metric: Literal["top1", "lrap", "scaled_mae"] = "top1"
    groups: int = 0  # above 0: of photos that belong together; these, not photos, are the independent ones
    folds: int = 0  # above 0: the corrected resampled t test over so many folds (Nadeau and Bengio 2003)


@dataclass(frozen=True)
class Finding:
    """One thing that `check` has to say about a data set."""

    code: str  # "corrupt", "duplicate-across-splits", "label-conflict", "imbalance", "odd", ...
    severity: Literal["error", "warning", "note"]  # an error would spoil a result: exit code 1
    message: str  # one line
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckReport:
    """What `check` found: counts by split and class, findings, and what has to be left out.

    counts: split -> class (or label) -> readable images; of a regression split -> "images" -> images. images: split ->
    images, which is not the sum of counts where a photo has several labels or none.
    """

    name: str
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    unreadable: tuple[str, ...] = ()  # ids, skipped by name
    leaked: tuple[str, ...] = ()  # ids of test images with a near-duplicate or images of their group in train or val
    groups: tuple[tuple[str, ...], ...] = ()  # ids that stay together: near-duplicates (two ids or more each)
    decides: str = ""  # what the test set can decide, one sentence
    problem: Problem = "single_label"
    images: dict[str, int] = field(default_factory=dict)

    @property
    def spoils(self) -> bool:
        """True where a finding would spoil a result."""
        return any(finding.severity == "error" for finding in self.findings)
