"""The figure that a report leads with, top1, mAP or MAE: of one run, and its mean over runs with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from regard.evaluation import multilabel, problems, regression
from regard.evaluation.calibration import has_label
from regard.evaluation.intervals import Metric, group_numbers
from regard.evaluation.slices import take
from regard.evaluation.statistics import mean_of_folds, mean_score
from regard.results import Predictions, RunResult


def headline_of(predictions: Predictions, temperature: float) -> float:
    """The metric that a report leads with; NaN without a labelled photo."""
    if not len(predictions) or not has_label(predictions).any():
        return math.nan
    return problems.values(predictions, temperature)[problems.HEADLINE[predictions.problem]]


def photo_scores_of(predictions: Predictions) -> np.ndarray:
    """(N,) how right each answer is, more is better; of boxes their intersection over union."""
    boxes = predictions.problem == "regression" and regression.is_boxes(predictions)
    return regression.ious(predictions) if boxes else problems.photo_scores(predictions)


def mean_over_runs(runs: Sequence[RunResult], groups: Sequence[Sequence[str]] = ()) -> Metric | None:
    """The mean headline metric over several runs with its interval; None where none is known.

    Over folds by the corrected variance, over seeds with seeds and photos both in it: as in the verdict. Of one run
    the interval is that of the metric itself.
    """
    if len(runs) < 2:
        return None
    if runs[0].fold is not None:
        scores = np.array([headline_of(run.test, run.temperature) for run in runs])
        test_size = sum(len(run.test) for run in runs) / len(runs)
        train_size = sum(run.train_images + len(run.val) for run in runs) / len(runs)
        if not scores.std() > 0:
            return None  # folds that agree to the last digit say nothing of how far others would be off
        found = mean_of_folds(scores, test_size, train_size)
        return _bounded(found, math.inf if runs[0].problem == "regression" else 1.0)
    tests = [take(run.test, np.flatnonzero(has_label(run.test))) for run in runs]
    if len(tests[0]) < 2 or any(test.ids != tests[0].ids for test in tests):
        return None
    numbers = group_numbers(tests[0].ids, groups)
    if tests[0].problem == "single_label":
        return mean_score(np.stack([test.correct for test in tests]), groups=numbers)
    if tests[0].problem == "multi_label":
        return _mean_map(tests, numbers)
    if any(np.isnan(test.labels).any() for test in tests):
        return None  # with gaps the mean over columns is no mean over photos
    own_units = np.ones(len(tests[0].classes))
    scores = np.stack([problems.photo_scores(test, own_units) for test in tests])
    less = mean_score(scores, "scaled_mae", groups=numbers)
    return Metric(-less.value, None if less.high is None else -less.high, None if less.low is None else -less.low)


def _mean_map(tests: Sequence[Predictions], numbers: np.ndarray) -> Metric | None:
    """Mean mAP over seeds with a t interval: its variance is that of the seeds plus that of the photos.

    mAP is no mean over photos, so the photos' part is the bootstrap variance of the mean, every seed with the same
    draws. What a photo does to one seed alone is in both parts: the interval is rather too wide than too short.
    """
    count = int(numbers.max()) + 1
    if count < 2:
        return None
    values = np.array([problems.values(test)["map"] for test in tests])
    drawn = np.array([multilabel.resampled_precisions(test, numbers) for test in tests])  # (S, R, K)
    occur = ~np.isnan(drawn)
    means = np.where(occur, drawn, 0.0).sum(axis=2) / np.maximum(occur.sum(axis=2), 1)  # (S, R)
    photos = float(means.mean(axis=0).var()) * count / (count - 1)
    seeds = float(values.var(ddof=1)) / len(values)
    if seeds + photos == 0:
        return Metric(float(values.mean()))
    freedom = (seeds + photos) ** 2 / (seeds**2 / (len(values) - 1) + photos**2 / (count - 1))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(seeds + photos)
    mean = float(values.mean())
    return _bounded(Metric(mean, mean - half, mean + half), 1.0)


def _bounded(found: Metric, highest: float) -> Metric:
    """The interval inside what the metric can be: 0 to `highest`."""
    low, high = found.low, found.high
    return Metric(found.value, None if low is None else max(0.0, low), None if high is None else min(highest, high))
