"""What the report says is what the runs and the evaluation say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error

from regard.comparison.compare import Candidate
from regard.comparison.details import (
    Story,
    interval_note,
    label_reliability,
    model_detail,
    report_data,
    shown_of,
    unknown_of,
)
from regard.comparison.headlines import mean_over_runs, photo_scores_of
from regard.errors import RegardError
from regard.results import CheckReport, Cost, Finding, Predictions, RunResult

NAMES = ("a", "b", "c")


def run_of(photos: int, accuracy: float) -> RunResult:
    logits = np.zeros((photos, 2), np.float32)
    logits[: round(photos * accuracy), 0] = 1
    logits[round(photos * accuracy) :, 1] = 1
    test = Predictions(tuple(map(str, range(photos))), logits, np.zeros(photos, np.int64), ("a", "b"))
    return RunResult("m", "scratch", 0, 1.0, 10, 10, test, test, 1.0, 0.0, Cost(1), "none")


def kind_of(problem, seed=0, fold=None, rows=range(90), temperature=1.0, thresholds=()) -> RunResult:
    """A run on some of 90 photos whose labels are always the same, answers drawn anew by every seed."""
    if problem == "multi_label":
        labels = (np.random.default_rng(1).random((90, 3)) < 0.4).astype(np.float32)
        scale = 3.0
    else:
        labels = np.random.default_rng(1).normal(30, 9, (90, 3)).astype(np.float32)
        scale = 1.0
    noise = np.random.default_rng(100 + seed).normal(0, 2, (90, 3))
    logits = (scale * (labels - labels.mean() * (problem == "multi_label")) + noise).astype(np.float32)
    rows = list(rows)
    test = Predictions(tuple(f"p{row}" for row in rows), logits[rows], labels[rows], NAMES, problem)
    return RunResult(
        "m", "head", seed, 1.0, 60, 60, test, test, temperature, 0.0, Cost(1), "none", fold=fold, thresholds=thresholds
    )


def test_coverage_is_claimed_only_where_it_was_shown() -> None:
    assert "top1, macro F1, balanced accuracy, NLL, Brier: shown" in interval_note([run_of(400, 0.9)])
    assert "by simulation: top1: shown" in interval_note([run_of(200, 0.9)])
    assert "none of them shown" in interval_note([run_of(20, 0.9)])


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_notes_of_other_labels_claim_no_coverage(problem) -> None:
    note = interval_note([kind_of(problem)])
    assert "simulation" not in note and "top1" not in note and "seed 0" in note
    assert "all folds of repeat 0" in interval_note([kind_of(problem, fold=fold) for fold in (0, 1)])


def test_folds_are_shown_together_each_at_its_own_temperature_and_thresholds() -> None:
    parts = [range(fold, 90, 3) for fold in range(3)]
    runs = [
        kind_of("multi_label", 0, fold, part, temperature=1 + fold, thresholds=(0.3 + 0.1 * fold,) * 3)
        for fold, part in enumerate(parts)
    ]
    runs += [kind_of("multi_label", 1, fold, part) for fold, part in enumerate(parts)]
    shown = shown_of(runs)
    assert len(shown.predictions) == len(set(shown.predictions.ids)) == 90
    labels = np.concatenate([run.test.labels for run in runs[:3]])
    probabilities = np.concatenate([run.test.probabilities(run.temperature) for run in runs[:3]])
    given = np.concatenate([run.test.probabilities(run.temperature) >= run.thresholds[0] for run in runs[:3]])
    np.testing.assert_allclose(shown.predictions.probabilities(), probabilities, atol=1e-6)
    detail = model_detail(Candidate("m", "m", "head", tuple(runs)), (), {})
    expected = np.mean([average_precision_score(labels[:, k], probabilities[:, k]) for k in range(3)])
    assert detail.metrics["map"].value == pytest.approx(expected)
    assert detail.metrics["micro_f1"].value == pytest.approx(f1_score(labels, given, average="micro"))
    assert detail.metrics["macro_f1"].value == pytest.approx(f1_score(labels, given, average="macro"))
    for k, row in enumerate(detail.per_label):
        assert row.f1 is not None and row.f1.value == pytest.approx(f1_score(labels[:, k], given[:, k]))
        assert row.thresholds == pytest.approx((0.3, 0.4, 0.5))


def test_with_folds_the_check_says_nothing_of_one_cut() -> None:
    found = (Finding("split", "note", "train: 84 images"), Finding("odd", "note", "2 images are dark"))
    check = CheckReport("photos", NAMES, {"test": {"a": 18}}, found, decides="18 test photos can decide nothing")
    runs = [kind_of("multi_label", 0, fold, range(fold, 90, 2)) for fold in range(2)]
    candidate = Candidate("m", "m", "head", tuple(runs))
    told = report_data(Story("photos", "", check), [candidate], runs, (), None).check
    assert told is not None and told.findings == found[1:] and not told.counts and not told.decides
    run = kind_of("multi_label")
    candidate = Candidate("m", "m", "head", (run,))
    assert report_data(Story("photos", "", check), [candidate], [run], (), None).check == check


def test_label_probabilities_fall_into_bins_of_equal_width() -> None:
    test = kind_of("multi_label").test
    test.labels[0, 0] = np.nan
    bins = label_reliability(test)
    flat, there = test.probabilities().ravel(), test.labels.ravel()
    known = ~np.isnan(there)
    for one in bins:
        low = int(one.confidence * 10) / 10
        inside = known & (flat >= low) & (flat < low + 0.1)
        assert one.photos == inside.sum() >= 10
        assert one.accuracy == pytest.approx(there[inside].mean())
        assert one.confidence == pytest.approx(flat[inside].mean())


def test_the_mean_of_numbers_has_the_interval_of_seeds_and_photos() -> None:
    runs = [kind_of("regression", seed) for seed in range(3)]
    found = mean_over_runs(runs)
    errors = [mean_absolute_error(run.test.labels, run.test.logits) for run in runs]
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(np.mean(errors), rel=1e-5)
    assert 0 < found.low < found.value < found.high
    photos = np.abs(np.mean([run.test.logits - run.test.labels for run in runs], axis=0)).mean(axis=1).std() / 90**0.5
    assert found.high - found.value > 1.5 * photos  # no tighter than the photos alone allow
    assert mean_over_runs(runs[:1]) is None
    runs[0].test.labels[0, 0] = np.nan
    assert mean_over_runs(runs) is None


def test_the_mean_map_has_seeds_and_photos_in_its_interval() -> None:
    alike = [kind_of("multi_label", 0), replace(kind_of("multi_label", 0), seed=1)]
    found = mean_over_runs(alike)
    assert found is not None and found.high is not None
    test, rng = alike[0].test, np.random.default_rng(3)
    draws = [rng.integers(90, size=90) for _ in range(300)]
    drawn = np.std([average_precision_score(test.labels[rows], test.logits[rows]) for rows in draws])
    assert found.high - found.value == pytest.approx(1.987 * drawn, rel=0.2)  # photos alone, t with 89 degrees
    different = mean_over_runs([kind_of("multi_label", seed) for seed in range(3)])
    assert different is not None and different.low is not None and different.high is not None
    assert different.low < different.value < different.high


def test_folds_have_the_corrected_interval() -> None:
    runs = [kind_of("regression", 0, fold, range(fold, 90, 3)) for fold in range(3)]
    found = mean_over_runs(runs)
    scores = np.array([mean_absolute_error(run.test.labels, run.test.logits) for run in runs])
    half = 4.302653 * np.sqrt(scores.var(ddof=1) * (1 / 3 + 30 / 90))  # t with 2 degrees; 60 to train, 30 to choose
    assert found is not None and found.high == pytest.approx(scores.mean() + half, rel=1e-5)


def test_intervals_of_folds_stay_inside_what_a_metric_can_be() -> None:
    runs = [kind_of("multi_label", 0, fold, range(fold, 90, 2)) for fold in range(2)]
    found = mean_over_runs(runs)  # t with one degree of freedom is wide
    assert found is not None and found.low is not None and found.high is not None
    assert 0 <= found.low < found.value < found.high <= 1
    assert mean_over_runs([runs[0], replace(runs[0], fold=1)]) is None


def test_boxes_are_scored_by_their_overlap() -> None:
    box = np.array([[0.0, 0.0, 0.5, 0.5]], np.float32)
    test = Predictions(("a",), box + np.float32(0.25), box, ("x0", "y0", "x1", "y1"), "regression")
    assert photo_scores_of(test).tolist() == pytest.approx([0.0625 / 0.4375])


def test_unknown_photos_come_from_the_run_folder(tmp_path: Path) -> None:
    run = replace(kind_of("multi_label"), folder=str(tmp_path))
    assert unknown_of(run) == ()
    facts = {
        "score": "distance",
        "threshold": -0.7,
        "auroc": [0.9, 0.8, 0.95],
        "fpr95": [0.3, 0.2, 0.4],
        "known": 40,
        "unknown": 20,
        "histogram": {"edges": [-1, -0.5, 0], "known": [10, 30], "unknown": [15, 5]},
        "scores": {
            "distance": {"auroc": [0.9, 0.8, 0.95], "fpr95": [0.3, 0.2, 0.4]},
            "probability": {"auroc": [0.7, 0.6, 0.8], "fpr95": [0.6, 0.5, 0.7]},
        },
    }
    (tmp_path / "unknown.json").write_text(json.dumps(facts))
    chosen, other = unknown_of(run)
    assert (chosen.auroc.value, chosen.auroc.low, chosen.fpr95.high, chosen.threshold) == (0.9, 0.8, 0.4, -0.7)
    assert chosen.known_shares == (0.25, 0.75) and chosen.unknown_shares == (0.75, 0.25)
    assert other.auroc.value == 0.7 and other.threshold is None and other.edges == ()
    (tmp_path / "unknown.json").write_text('{"score": "distance"}')
    with pytest.raises(RegardError, match=r"unknown\.json: damaged") as caught:
        unknown_of(run)
    assert "\n" not in str(caught.value)
