from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn import metrics as reference

from regard.errors import RegardError
from regard.evaluation.intervals import wilson
from regard.evaluation.metrics import (
    Metric,
    confusion,
    disagreements,
    most_confident_mistakes,
    per_class,
    summarise,
    values,
)
from regard.results import Predictions


def make(images: int = 300, classes: int = 4, lift: float = 2.0, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), labels] += lift
    names = tuple(f"class {number}" for number in range(classes))
    return Predictions(tuple(f"{row:04}.png" for row in range(images)), logits.astype(np.float32), labels, names)


def by_hand(logits: list[list[float]], labels: list[int]) -> Predictions:
    count = len(logits[0])
    return Predictions(
        tuple(map(str, range(len(labels)))),
        np.array(logits, np.float32),
        np.array(labels),
        tuple("abcdefg"[:count]),
    )


@pytest.mark.parametrize("classes", [2, 4, 100])
def test_values_are_scikit_learns(classes):
    predictions = make(images=400, classes=classes)
    truth, answers = predictions.labels, predictions.logits.argmax(axis=1)
    probabilities = predictions.probabilities(1.3)
    target = np.eye(classes)[truth]
    found = values(predictions, 1.3)
    assert found["top1"] == pytest.approx(reference.accuracy_score(truth, answers))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(truth, answers, average="macro"))
    recalls = [(answers[truth == label] == label).mean() for label in np.unique(truth)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["nll"] == pytest.approx(reference.log_loss(truth, probabilities, labels=np.arange(classes)), rel=1e-6)
    assert found["brier"] == pytest.approx(((probabilities - target) ** 2).sum(axis=1).mean())


def test_top5_is_scikit_learns_and_only_where_there_are_more_classes():
    predictions = make(images=500, classes=12, lift=0.5)
    expected = reference.top_k_accuracy_score(predictions.labels, predictions.logits, k=5)
    assert values(predictions)["top5"] == pytest.approx(expected)
    assert "top5" not in values(make(classes=5))


def test_a_model_without_opinion_gets_no_top5_for_free():
    flat = Predictions(tuple("abcdefg"), np.zeros((7, 7), np.float32), np.arange(7), tuple("abcdefg"))
    assert values(flat)["top5"] == pytest.approx(5 / 7)
    assert values(flat)["top1"] == pytest.approx(1 / 7)


def test_nll_of_a_sure_mistake_is_finite():
    found = values(by_hand([[5000, 0], [5000, 0]], [0, 1]))
    assert found["nll"] == pytest.approx(2500.0)


def test_ece_by_hand():
    predictions = by_hand([[2.0, 0.0]] * 30, [0] * 15 + [1] * 15)  # says 0.88, half is true
    confidence = predictions.probabilities()[0, 0]
    assert values(predictions)["ece"] >= confidence - 0.5 - 1e-6  # bins of few images only add to it
    summary = summarise(predictions)
    assert summary["ece"].low is None and summary["ece"].high is None


def test_a_perfect_model_of_360_images_shows_the_protocols_ece():
    rng = np.random.default_rng(0)
    logits = (2.2 * rng.normal(size=(360, 10))).astype(np.float32)
    drawn = Predictions(tuple(map(str, range(360))), logits, np.zeros(360, np.int64), tuple("abcdefghij"))
    labels = np.array([rng.choice(10, p=row) for row in drawn.probabilities()])
    summary = summarise(Predictions(drawn.ids, logits, labels, drawn.classes))
    assert 0.03 <= summary["ece_if_calibrated"].value <= 0.075
    assert summary["ece"].value == pytest.approx(summary["ece_if_calibrated"].value, abs=0.04)


def test_every_interval_holds_its_value():
    summary = summarise(make(classes=8))
    assert list(summary) == [
        *("top1", "top5", "macro_f1", "balanced_accuracy", "nll", "brier", "ece", "ece_if_calibrated")
    ]
    for name in ("top1", "top5", "macro_f1", "balanced_accuracy", "nll", "brier"):
        metric = summary[name]
        assert metric.low is not None and metric.high is not None
        assert metric.low < metric.value < metric.high


def test_macro_f1_of_many_rare_classes_stays_inside_its_interval():
    metric = summarise(make(images=600, classes=300))["macro_f1"]  # resamples lose classes: percentiles sit too low
    assert metric.low is not None and metric.high is not None
    assert metric.low < metric.value < metric.high


def test_summary_is_the_same_twice():
    assert summarise(make()) == summarise(make())


def test_images_without_a_label_are_left_out():
    whole = make()
    labels = whole.labels.copy()
    labels[::3] = -1
    partly = Predictions(whole.ids, whole.logits, labels, whole.classes)
    rows = np.flatnonzero(labels >= 0)
    rest = Predictions(tuple(whole.ids[row] for row in rows), whole.logits[rows], labels[rows], whole.classes)
    assert summarise(partly) == summarise(rest)
    assert confusion(partly).sum() == len(rows)


def test_no_label_at_all_is_refused():
    whole = make(images=3)
    with pytest.raises(RegardError, match="known label"):
        summarise(Predictions(whole.ids, whole.logits, np.full(3, -1), whole.classes))


def test_a_diverged_model_is_refused():
    whole = make(images=3)
    with pytest.raises(RegardError, match="NaN"):
        values(Predictions(whole.ids, np.full((3, 4), np.nan, np.float32), whole.labels, whole.classes))


def test_one_image_has_values_and_no_bootstrap():
    summary = summarise(make(images=1))
    assert summary["macro_f1"].low is None
    assert summary["top1"].high is not None


def test_near_duplicate_groups_widen_the_bootstrap():
    one = make(images=100)
    ids = tuple(f"{id_}/{copy}" for id_ in one.ids for copy in range(4))
    many = Predictions(ids, np.repeat(one.logits, 4, axis=0), np.repeat(one.labels, 4), one.classes)
    groups = [ids[start : start + 4] for start in range(0, 400, 4)]
    alone, together = summarise(many)["nll"], summarise(many, groups=groups)["nll"]
    assert alone.value == together.value
    assert together.high is not None and alone.high is not None
    spread = [np.log(metric.high / metric.value) for metric in (alone, together)]
    assert spread[1] / spread[0] == pytest.approx(2.0, rel=0.15)


def test_2000_resamples_of_3000_images_are_quick():
    predictions = make(images=3000, classes=10)
    started = time.process_time()
    summarise(predictions)
    assert time.process_time() - started < 2.0


def test_confusion_has_labels_in_rows():
    matrix = confusion(by_hand([[1, 0, 0], [1, 0, 0], [0, 0, 1]], [0, 1, 2]))
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    predictions = make()
    expected = reference.confusion_matrix(predictions.labels, predictions.logits.argmax(axis=1))
    assert (confusion(predictions) == expected).all()


def test_per_class_is_scikit_learns():
    predictions = make(classes=5)
    answers = predictions.logits.argmax(axis=1)
    precision, recall, f1, images = reference.precision_recall_fscore_support(predictions.labels, answers)
    for number, row in enumerate(per_class(predictions)):
        assert row.precision is not None and row.recall is not None and row.f1 is not None
        assert row.name == predictions.classes[number]
        assert row.images == images[number]
        assert row.precision.value == pytest.approx(precision[number])
        assert row.recall.value == pytest.approx(recall[number])
        assert row.f1.value == pytest.approx(f1[number])
        low, high = wilson(round(recall[number] * images[number]), images[number])
        assert (row.recall.low, row.recall.high) == (pytest.approx(low), pytest.approx(high))
        assert row.f1.low is not None and row.f1.high is not None
        assert row.f1.low < row.f1.value < row.f1.high


def test_a_class_without_images_or_answers_has_no_figures():
    rows = per_class(by_hand([[1, 0, 0, 0], [0, 1, 0, 0]], [0, 2]))
    assert rows[0].recall == rows[0].precision
    assert rows[1].recall is None and rows[1].precision is not None and rows[1].precision.value == 0
    assert rows[2].precision is None and rows[2].recall is not None and rows[2].recall.value == 0
    assert rows[3] == ("d", 0, None, None, None)


def test_most_confident_mistakes_come_first():
    found = most_confident_mistakes(by_hand([[1, 0], [9, 0], [0, 5], [4, 0]], [1, 0, 0, 1]), n=2)
    assert [(one.id, one.label, one.predicted) for one in found] == [("2", "a", "b"), ("3", "b", "a")]
    assert found[0].confidence == pytest.approx(1 / (1 + np.exp(-5)))


def test_disagreements_are_matched_by_id():
    a = by_hand([[1, 0], [1, 0], [0, 1], [0, 1]], [0, 1, 1, 0])
    right = by_hand([[1, 0], [0, 1], [1, 0], [0, 1]], [0, 1, 1, 0])
    order = [2, 0, 3, 1]
    b = Predictions(tuple(right.ids[row] for row in order), right.logits[order], right.labels[order], right.classes)
    found = disagreements(a, b)
    assert found == (("2",), ("1",), 1, 1)


def test_disagreements_over_different_images_are_refused():
    with pytest.raises(RegardError, match="different images"):
        disagreements(make(images=5), make(images=6))


def test_a_metric_without_interval_says_so():
    assert Metric(0.5) == (0.5, None, None)
