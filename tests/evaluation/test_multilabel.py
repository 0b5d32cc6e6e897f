"""Several labels per photo: against scikit-learn, with unknown cells and equal scores."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as reference

from regard.errors import RegardError
from regard.evaluation.calibration import fit_temperature, unsure_threshold
from regard.evaluation.intervals import group_numbers, group_weights
from regard.evaluation.multilabel import (
    best_threshold,
    fit_thresholds,
    per_label,
    photo_lrap,
    resampled_precisions,
    summarise,
    values,
)
from regard.results import Predictions


def make(images: int = 300, labels: int = 6, lift: float = 1.5, seed: int = 0, ties: bool = False) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = (rng.random((images, labels)) < np.linspace(0.05, 0.6, labels)).astype(np.float32)
    truth[:2] = 0
    truth[2] = 1
    logits = rng.normal(size=truth.shape) + lift * (truth - 0.5)
    if ties:
        logits = logits.round()
    ids = tuple(f"{row:05}" for row in range(images))
    return Predictions(ids, logits.astype(np.float32), truth, tuple(map(str, range(labels))), "multi_label")


def with_unknown(predictions: Predictions, share: float = 0.3) -> Predictions:
    hidden = np.random.default_rng(1).random(predictions.labels.shape) < share
    return replace(predictions, labels=np.where(hidden, np.nan, predictions.labels).astype(np.float32))


@pytest.mark.parametrize("ties", [False, True])
def test_values_are_scikit_learns(ties: bool) -> None:
    predictions = make(ties=ties)
    truth, scores = predictions.labels, predictions.logits
    given = predictions.probabilities(1.7) >= 0.4
    found = values(predictions, 1.7, (0.4,) * 6)
    assert found["map"] == pytest.approx(reference.average_precision_score(truth, scores, average="macro"))
    assert found["lrap"] == pytest.approx(reference.label_ranking_average_precision_score(truth, scores))
    assert found["micro_f1"] == pytest.approx(reference.f1_score(truth, given, average="micro"))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(truth, given, average="macro"))
    expected = [reference.log_loss(truth[:, k], predictions.probabilities(1.7)[:, k]) for k in range(6)]
    assert found["nll"] == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_unknown_cells_count_nowhere(ties: bool) -> None:
    predictions = with_unknown(make(ties=ties))
    known = ~np.isnan(predictions.labels)
    precisions = [
        reference.average_precision_score(predictions.labels[rows, k], predictions.logits[rows, k])
        for k, rows in enumerate(known.T)
    ]
    assert values(predictions)["map"] == pytest.approx(np.mean(precisions))
    photos = [
        reference.label_ranking_average_precision_score(labels[None, own], scores[None, own])
        for labels, scores, own in zip(predictions.labels, predictions.logits, known, strict=True)
        if own.sum() > 1
    ]
    several = known.sum(axis=1) > 1
    assert photo_lrap(predictions)[several] == pytest.approx(photos)
    losses = [
        reference.log_loss(predictions.labels[rows, k], predictions.probabilities()[rows, k], normalize=False)
        for k, rows in enumerate(known.T)
    ]
    assert values(predictions)["nll"] == pytest.approx(np.sum(losses) / known.sum(), rel=1e-6)


def test_labels_without_photos_stay_out_of_map() -> None:
    predictions = make()
    predictions.labels[:, 2] = 0
    kept = [0, 1, 3, 4, 5]
    expected = reference.average_precision_score(predictions.labels[:, kept], predictions.logits[:, kept])
    assert values(predictions)["map"] == pytest.approx(expected)
    rows = per_label(predictions)
    assert rows[2].images == 0 and rows[2].average_precision is None and rows[2].recall is None
    assert summarise(predictions)["map"].value == pytest.approx(expected)


def test_resampled_precisions_are_those_of_the_drawn_photos() -> None:
    predictions = with_unknown(make(60, 3, ties=True))
    numbers = group_numbers(predictions.ids, [predictions.ids[:5]])
    groups = int(numbers.max()) + 1
    weights = np.concatenate(list(group_weights(groups, 20, 7)))
    found = resampled_precisions(predictions, numbers, resamples=20)
    again = np.concatenate(list(group_weights(groups, 20, 20)))
    assert (weights.sum(axis=1) == groups).all() and (weights == again).all()
    for row, drawn in enumerate(weights):
        rows = np.repeat(np.arange(60), drawn[numbers])
        for label in range(3):
            known = rows[~np.isnan(predictions.labels[rows, label])]
            truth, scores = predictions.labels[known, label], predictions.logits[known, label]
            assert found[row, label] == pytest.approx(reference.average_precision_score(truth, scores))


def coverage(sets: int) -> float:
    whole = make(20_000, 3, seed=5)
    truth = values(whole)["map"]
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(sets):
        rows = rng.integers(len(whole), size=300)
        part = replace(whole, ids=tuple(map(str, range(300))), logits=whole.logits[rows], labels=whole.labels[rows])
        found = summarise(part)["map"]
        assert found.low is not None and found.high is not None
        inside += found.low <= truth <= found.high
    return inside / sets


def test_the_interval_of_map_covers_the_truth() -> None:
    assert coverage(30) >= 0.8  # of 30 at 95%, fewer than 24 would happen once in 3,000 times


@pytest.mark.long
def test_the_interval_of_map_covers_the_truth_at_full_count() -> None:
    assert 0.9 <= coverage(2000) <= 0.97  # 1,500 gave 91.6%: the rarest label has 15 photos


def test_groups_widen_the_intervals_and_one_group_has_none() -> None:
    single = make(120)
    several = replace(
        single,
        ids=tuple(f"{id_}-{copy}" for copy in range(4) for id_ in single.ids),
        logits=np.tile(single.logits, (4, 1)),
        labels=np.tile(single.labels, (4, 1)),
    )
    groups = [tuple(f"{id_}-{copy}" for copy in range(4)) for id_ in single.ids]
    narrow, wide = summarise(several), summarise(several, groups=groups)
    for name in ("map", "micro_f1", "macro_f1", "lrap", "nll"):
        assert wide[name].value == narrow[name].value
        assert wide[name].high - wide[name].low > 1.6 * (narrow[name].high - narrow[name].low)
    alone = summarise(single, groups=[single.ids])
    assert all(metric.low is None for metric in alone.values())


def test_per_label_is_scikit_learns() -> None:
    predictions = make()
    thresholds = (0.3, 0.4, 0.5, 0.5, 0.6, 0.7)
    given = predictions.probabilities(0.8) >= np.array(thresholds)
    precision, recall, f1, images = reference.precision_recall_fscore_support(
        predictions.labels, given, zero_division=0.0
    )
    for k, row in enumerate(per_label(predictions, thresholds, 0.8)):
        assert (row.name, row.images, row.threshold) == (str(k), images[k], thresholds[k])
        expected = (
            reference.average_precision_score(predictions.labels[:, k], predictions.logits[:, k]),
            precision[k],
            recall[k],
            f1[k],
        )
        for metric, value in zip((row.average_precision, row.precision, row.recall, row.f1), expected, strict=True):
            assert metric is not None and metric.value == pytest.approx(value)
            assert metric.low < metric.value < metric.high


def test_thresholds_are_the_best_of_all() -> None:
    predictions = make(400)
    probabilities = predictions.probabilities(1.3)
    for k, threshold in enumerate(fit_thresholds(predictions, 1.3)):
        truth = predictions.labels[:, k]
        precision, recall, _ = reference.precision_recall_curve(truth, probabilities[:, k])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        assert reference.f1_score(truth, probabilities[:, k] >= threshold) == pytest.approx(best)


def test_rare_labels_share_one_threshold() -> None:
    predictions = make(400)
    predictions.labels[:, 0] = 0
    predictions.labels[:3, 0] = 1
    predictions.labels[:, 1] = np.nan
    found = fit_thresholds(predictions)
    known = ~np.isnan(predictions.labels)
    common = best_threshold(predictions.probabilities()[known], predictions.labels[known] == 1)
    assert found[0] == found[1] == common
    assert found[4] != common
    nothing = replace(predictions, labels=np.zeros_like(predictions.labels))
    assert fit_thresholds(nothing) == (0.5,) * 6
    empty = replace(predictions, ids=(), logits=predictions.logits[:0], labels=predictions.labels[:0])
    assert fit_thresholds(empty) == (0.5,) * 6


def test_a_label_told_apart_without_a_mistake_gets_a_threshold_in_the_gap() -> None:
    probabilities = np.array([1e-9, 1e-8, 0.3, 0.9, 0.99])
    assert best_threshold(probabilities, probabilities > 0.5) == pytest.approx(0.6)
    assert best_threshold(probabilities, np.ones(5, bool)) < 1e-9


def test_temperature_has_the_least_nll_and_no_photo_is_unsure() -> None:
    predictions = with_unknown(make(2000))
    sharp = replace(predictions, logits=3 * predictions.logits)
    fitted = fit_temperature(sharp)
    assert fitted == pytest.approx(3 * fit_temperature(predictions), rel=0.02)
    best = values(sharp, fitted)["nll"]
    assert best <= min(values(sharp, fitted * factor)["nll"] for factor in (0.9, 1.1))
    assert unsure_threshold(predictions) == 0.0


def test_what_cannot_be_scored_is_refused() -> None:
    predictions = make(5)
    with pytest.raises(RegardError, match="no image has a known label"):
        values(replace(predictions, labels=np.full_like(predictions.labels, np.nan)))
    predictions.logits[1, 1] = np.inf
    with pytest.raises(RegardError, match="NaN or infinity"):
        values(predictions)


def test_twenty_thousand_photos_of_fifty_labels_are_quick() -> None:
    predictions = make(20_000, 50)
    start = time.thread_time()
    values(predictions)
    assert time.thread_time() - start < 3  # about 1 s on an idle machine
