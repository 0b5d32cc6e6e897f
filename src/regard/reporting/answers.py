"""What a model said of each photo, read from its runs: probabilities, labels given, errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from regard.results import Problem, RunResult


@dataclass(frozen=True)
class Answers:
    """Answers of one run, or of all folds of one seed, to its test photos.

    labels: as in `Predictions`. outputs: (N, K) float64 probabilities after the temperature, or the numbers.
    given: (N, K) bool, the labels given at the thresholds, for photos with several labels. scores: (N,) how right each
    answer is, more is better, NaN without a label.
    """

    problem: Problem
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    outputs: np.ndarray
    given: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def said(self) -> np.ndarray:
        """(N,) most probable class."""
        return self.outputs.argmax(axis=1)

    @cached_property
    def sure(self) -> np.ndarray:
        """(N,) its probability."""
        return self.outputs.max(axis=1)

    @cached_property
    def missed(self) -> np.ndarray:
        """(N, K) bool: a label of the photo that was not given."""
        return (self.labels == 1) & ~self.given

    @cached_property
    def added(self) -> np.ndarray:
        """(N, K) bool: a label given that the photo does not have; never where that is unknown."""
        return (self.labels == 0) & self.given

    @cached_property
    def errors(self) -> np.ndarray:
        """(N, K) number said minus true number; NaN where that is unknown."""
        return self.outputs - self.labels

    @cached_property
    def labelled(self) -> np.ndarray:
        """(N,) bool: something is known to score the photo by."""
        if self.problem == "single_label":
            return np.asarray(self.labels >= 0)
        return np.asarray(np.isfinite(self.labels).any(axis=1))

    @cached_property
    def spread(self) -> np.ndarray:
        """(K,) standard deviation of each column of numbers over its known labels; 1 where they do not differ."""
        columns = [column[np.isfinite(column)] for column in self.labels.T]
        return np.array([column.std() or 1.0 if len(column) else 1.0 for column in columns])

    @cached_property
    def quality(self) -> np.ndarray:
        """(N,) how right each answer is, more is better, NaN without a label.

        Of several labels minus the number of those missed or added; else the score of the photo as it was given.
        """
        if self.problem == "multi_label":
            return np.where(self.labelled, -(self.missed | self.added).sum(axis=1).astype(float), np.nan)
        return self.scores


def answers(runs: Sequence[RunResult], scores: Sequence[np.ndarray]) -> Answers:
    """The test answers of runs on different photos, one after the other, each with its own temperature and thresholds.

    scores: of the photos of each run (`ReportData.photo_scores`).
    """
    first = runs[0].test
    outputs = [
        run.test.logits.astype(np.float64) if run.problem == "regression" else run.test.probabilities(run.temperature)
        for run in runs
    ]
    given = [
        probabilities >= (np.asarray(run.thresholds) if run.thresholds else 0.5)
        for run, probabilities in zip(runs, outputs, strict=True)
    ]
    return Answers(
        problem=first.problem,
        ids=tuple(id_ for run in runs for id_ in run.test.ids),
        classes=first.classes,
        labels=np.concatenate([run.test.labels for run in runs]),
        outputs=np.concatenate(outputs),
        given=np.concatenate(given) if first.problem == "multi_label" else np.zeros((0, 0), bool),
        scores=np.concatenate(list(scores)),
    )
