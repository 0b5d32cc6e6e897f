"""The row without a network: its features, its solvers, and the run folder it leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.feature import hog
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from regard.comparison.classical import FEATURES, Reference, fit, gradients
from regard.data.sources import ImageSet
from regard.data.splits import Split
from regard.results import Problem
from regard.runs.run import Run

SPLIT = Split(np.arange(40), np.arange(40, 60), np.arange(60, 80), ("how it was split",))


def stripes(slope: float, rng: np.random.Generator, size: int = 32) -> np.ndarray:
    """Stripes of one direction, with noise."""
    rows, columns = np.mgrid[:size, :size] + rng.random(2)[:, None, None] * 9
    wave = np.sin(0.9 * (np.cos(slope) * rows + np.sin(slope) * columns))
    grey = 128 + 60 * wave + rng.normal(0, 12, wave.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def photos(problem: Problem = "single_label", count: int = 80, size: int = 32, **changes) -> ImageSet:
    """Stripes whose direction is the label, in one of the three kinds."""
    rng = np.random.default_rng(0)
    place = np.arange(count) % 3
    slopes = place * np.pi / 3 if problem != "regression" else rng.random(count) * np.pi / 2
    sources = [stripes(slope, rng, size) for slope in slopes]
    labels, names = place.astype(np.int64), ("across", "rising", "falling")
    if problem == "multi_label":
        labels, names = np.stack([place != 0, place == 2], axis=1).astype(np.float32), ("oblique", "falling")
    if problem == "regression":
        labels, names = np.stack([slopes, 100 * slopes + 7], axis=1).astype(np.float32), ("slope", "hundredfold")
    ids = tuple(f"{row:02}.png" for row in range(count))
    return ImageSet("stripes", ids, labels, names, ("",) * count, sources, problem=problem, **changes)


def test_features_are_hog_of_eight_by_eight_cells() -> None:
    rng = np.random.default_rng(0)
    for size in (32, 128):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        expected = hog(pixels, 9, (size // 8,) * 2, (2, 2), "L2-Hys", channel_axis=-1)
        assert gradients(pixels).shape == (FEATURES,)
        assert gradients(pixels) == pytest.approx(expected, abs=1e-6)


def test_photos_are_seen_at_128_pixels_and_small_ones_at_32() -> None:
    assert Reference(photos(size=32)).preprocess.size == 32
    assert Reference(photos(size=64)).preprocess.size == 32
    assert Reference(photos(size=96)).preprocess.size == 128
    assert Reference(photos()).preprocess.resize == "short"
    assert Reference(photos("regression", boxes=True)).preprocess.resize == "squash"


@pytest.mark.parametrize(
    ("problem", "name", "metric", "bar"),
    [
        ("single_label", "hog_svm", "top1", 0.9),
        ("multi_label", "hog_svm", "map", 0.9),
        ("regression", "hog_ridge", "r2", 0.8),
    ],
)
def test_it_learns_directions_and_leaves_a_run(
    problem: Problem, name: str, metric: str, bar: float, tmp_path: Path
) -> None:
    images = photos(problem)
    run = Run.create(tmp_path / "run")
    Reference(images).run(run, SPLIT, seed=3, fraction=0.5, fold=2)
    assert run.finished and not run.weights_path.exists()
    result = Run.open(tmp_path / "run").result()
    assert (result.model, result.method, result.seed, result.fraction, result.fold) == (name, "classical", 3, 0.5, 2)
    assert result.problem == problem and result.deterministic and result.train_images == 40
    assert result.test.ids == images.ids[60:] and (result.test.labels == images.labels[60:]).all()
    assert result.pretraining.startswith("none")
    assert result.curve[0][f"val/{metric}"] > bar
    assert len(result.thresholds) == (2 if problem == "multi_label" else 0)
    assert result.cost.train_seconds > 0 and result.cost.parameters == (FEATURES + 1) * len(images.classes)
    if problem == "single_label":
        assert result.test.correct.mean() > bar and 0.05 <= result.temperature < 1  # decisions of 1 are sure ones
    again = Run.create(tmp_path / "again")
    Reference(images).run(again, SPLIT, seed=3, fraction=0.5, fold=2)
    assert (again.predictions("test").logits == result.test.logits).all()


def test_features_are_computed_once() -> None:
    images = photos()
    reference = Reference(images)
    assert reference.features is reference.features and reference.features.shape == (80, FEATURES)
    assert reference.seconds_per_image > 0


def test_strengths_are_chosen_on_validation_and_answers_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=120)
    features = rng.normal(size=(120, 30)) + 0.4 * np.eye(3, 30)[labels]
    asked = [features[80:100], features[100:]]
    answers, chosen, grid = fit(features[:80], labels[:80], asked, labels[80:100], "single_label", 3)
    assert chosen["C"] == max(grid, key=lambda row: (row["score"], -row["C"]))["C"]
    svm = LinearSVC(C=chosen["C"], random_state=0).fit(features[:80], labels[:80])
    assert answers[1] == pytest.approx(svm.decision_function(features[100:]), abs=1e-5)
    numbers = features[:, :1] * 3 + 5
    answers, chosen, grid = fit(features[:80], numbers[:80], asked, numbers[80:100], "regression", 1)
    ridge = Ridge(alpha=chosen["alpha"]).fit(features[:80], numbers[:80])
    assert answers[1] == pytest.approx(ridge.predict(features[100:]).reshape(-1, 1), abs=1e-5)
    assert len(grid) == 5 and chosen["alpha"] == 0.1


def test_classes_and_labels_that_training_lacks() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 10)), rng.integers(2, size=60) * 2  # class 1 of 3 never occurs
    answers, _, _ = fit(features[:40], labels[:40], [features[40:]], labels[40:], "single_label", 3)
    assert answers[0].shape == (20, 3)
    assert (answers[0][:, 1] < answers[0][:, [0, 2]].min(axis=1)).all()
    several = np.stack([labels == 0, np.zeros(60), np.ones(60), np.full(60, np.nan)], axis=1).astype(np.float32)
    several[:5, 0] = np.nan
    answers, chosen, _ = fit(features[:40], several[:40], [features[40:]], several[40:], "multi_label", 4)
    assert (answers[0][:, 1] == -1).all() and (answers[0][:, 2] == 1).all() and (answers[0][:, 3] == -1).all()
    svm = LinearSVC(C=chosen["C"], random_state=0).fit(features[5:40], several[5:40, 0] == 1)
    assert answers[0][:, 0] == pytest.approx(svm.decision_function(features[40:]), abs=1e-5)


def test_unequal_classes_can_weigh_alike() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.05).astype(int)
    features = rng.normal(size=(400, 5)) + 1.0 * labels[:, None] * np.eye(1, 5)
    given = [
        fit(features[:300], labels[:300], [features[300:]], labels[300:], "single_label", 2, weights)[0][0].argmax(
            axis=1
        )
        for weights in (None, "balanced")
    ]
    assert given[1].sum() > given[0].sum()


def test_its_time_is_expected_from_a_few_photos() -> None:
    reference = Reference(photos())
    short, long = reference.seconds([40]), reference.seconds([40] * 200)
    assert 0 < short < long
