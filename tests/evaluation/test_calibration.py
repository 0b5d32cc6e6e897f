from __future__ import annotations

import numpy as np
import pytest

from regard.evaluation.calibration import (
    accepted_error,
    ece_if_calibrated,
    expected_calibration_error,
    fit_temperature,
    log_losses,
    reliability,
    risk_coverage,
    unsure_threshold,
)
from regard.results import Predictions


def make(images: int, scale: float = 1.0, seed: int = 0, classes: int = 5) -> Predictions:
    """Labels drawn from the softmax of logits that are then multiplied: `scale` is the right temperature."""
    rng = np.random.default_rng(seed)
    logits = 2.5 * rng.normal(size=(images, classes))
    honest = Predictions(
        tuple(map(str, range(images))), logits, np.zeros(images, np.int64), tuple("abcdefgh"[:classes])
    )
    labels = np.array([rng.choice(classes, p=row) for row in honest.probabilities()], np.int64)
    return Predictions(honest.ids, (scale * logits).astype(np.float32), labels, honest.classes)


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_temperature_is_recovered(scale):
    assert fit_temperature(make(4000, scale)) == pytest.approx(scale, rel=0.06)


def test_temperature_lowers_the_loss_of_new_images():
    temperature = fit_temperature(make(400, 3.0))
    new = make(2000, 3.0, seed=1)
    assert log_losses(new, temperature).mean() < log_losses(new).mean() - 0.1


@pytest.mark.parametrize("images", [0, 1, 2])
def test_tiny_sets_have_a_sane_temperature(images):
    assert 0.2 < fit_temperature(make(images)) < 5


def test_no_image_leaves_the_temperature():
    assert fit_temperature(make(0)) == 1.0


def test_a_perfect_set_does_not_drive_the_temperature_to_zero():
    labels = np.arange(300) % 3
    logits = (4 * np.eye(3)[labels]).astype(np.float32)
    perfect = Predictions(tuple(map(str, range(300))), logits, labels, ("a", "b", "c"))
    temperature = fit_temperature(perfect)
    assert 0.3 < temperature < 1.0
    assert fit_temperature(Predictions(perfect.ids, logits * 100, labels, perfect.classes)) == pytest.approx(
        1, abs=1e-3
    )


def test_an_always_wrong_set_is_softened_within_bounds():
    labels = np.zeros(50, np.int64)
    logits = np.tile(np.array([0.0, 30.0], np.float32), (50, 1))
    assert 5 < fit_temperature(Predictions(tuple(map(str, range(50))), logits, labels, ("a", "b"))) <= 20


def test_threshold_leaves_the_share_below():
    predictions = make(2000)
    threshold = unsure_threshold(predictions, 1.2, share=0.05)
    below = predictions.probabilities(1.2).max(axis=1) < threshold
    assert below.mean() == pytest.approx(0.05, abs=0.001)
    assert unsure_threshold(make(0), 1.0) == 0.0


def test_risk_coverage_ends_at_the_error_of_all():
    predictions = make(500)
    curve = risk_coverage(predictions)
    assert curve.coverage[-1] == 1.0
    assert curve.risk[-1] == pytest.approx(1 - predictions.correct.mean())
    assert (np.diff(curve.coverage) > 0).all() and (np.diff(curve.threshold) < 0).all()
    assert curve.risk[len(curve.risk) // 4] < curve.risk[-1]


def test_equal_confidences_are_one_step():
    logits = np.array([[3, 0], [3, 0], [3, 0], [1, 0]], np.float32)
    curve = risk_coverage(Predictions(tuple("wxyz"), logits, np.array([0, 1, 0, 0]), ("a", "b")))
    assert curve.coverage.tolist() == [0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([1 / 3, 1 / 4])


def test_accepted_error_agrees_with_the_curve():
    predictions = make(800)
    curve = risk_coverage(predictions, 1.1)
    found = accepted_error(predictions, 1.1, float(curve.threshold[400]))
    assert found.coverage == pytest.approx(curve.coverage[400])
    assert found.error.value == pytest.approx(curve.risk[400])
    assert found.error.low is not None and found.error.low < found.error.value
    assert accepted_error(predictions, 1.0, 1.1).coverage == 0


def test_reliability_bins_hold_equal_numbers_and_every_image():
    bins = reliability(make(1001))
    assert len(bins) == 15
    assert sum(one.images for one in bins) == 1001
    assert max(one.images for one in bins) - min(one.images for one in bins) <= 1
    assert all(one.low <= one.accuracy <= one.high for one in bins)
    assert [one.confidence for one in bins] == sorted(one.confidence for one in bins)
    assert sum(abs(one.accuracy - one.confidence) > 0.12 for one in bins) <= 2  # calibrated by construction


def test_fewer_images_than_bins():
    assert len(reliability(make(4))) == 4


def test_calibration_error_by_hand():
    confidence = np.array([0.6, 0.7, 0.8, 0.9])
    correct = np.array([[True, False, True, True], [False, False, False, False]])
    found = expected_calibration_error(confidence, correct, bins=2)
    assert found.tolist() == pytest.approx([(0.3 + 0.3) / 4, (1.3 + 1.7) / 4])


def test_calibrated_error_shrinks_with_images_and_is_what_such_models_show():
    few, many = make(300), make(4800)
    values = [ece_if_calibrated(one.probabilities().max(axis=1)) for one in (few, many)]
    assert values[0] / values[1] == pytest.approx(4.0, rel=0.15)
    shown = [
        expected_calibration_error(one.probabilities().max(axis=1), one.correct)
        for one in (make(300, seed=seed) for seed in range(40))
    ]
    assert np.mean(shown) == pytest.approx(values[0], rel=0.1)
