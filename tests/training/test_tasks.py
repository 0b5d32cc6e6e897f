"""What differs by problem: losses against torch and plain sums, weights, folding, and what a recipe may ask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from regard.data.sources import ImageSet
from regard.errors import RegardError
from regard.inference.loaded import fresh_model
from regard.training.recipe import Recipe
from regard.training.tasks import Task, advice, class_weights, standardisation, suited, task_for


def images_of(labels: np.ndarray, problem: str, boxes: bool = False) -> ImageSet:
    count = len(labels)
    width = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    names = tuple(f"c{number}" for number in range(width))
    ids = tuple(map(str, range(count)))
    pixels = [np.zeros((4, 4, 3), np.uint8)] * count
    return ImageSet("made", ids, labels, names, ("",) * count, pixels, problem=problem, boxes=boxes)


@pytest.mark.parametrize(
    ("problem", "watch"), [("single_label", "top1"), ("multi_label", "map"), ("regression", "mae")]
)
def test_each_problem_has_its_metric(problem, watch):
    assert suited(Recipe(), problem)[0].watch == watch
    for other in {"top1", "map", "mae"} - {watch}:
        with pytest.raises(RegardError, match=f"--watch {other}"):
            suited(Recipe(watch=other), problem)


def test_numbers_and_boxes_switch_off_what_would_spoil_them():
    recipe = Recipe(mixup=0.2, cutmix=1.0, label_smoothing=0.1, randaugment=(2, 9.0), crop="resized")
    same, notes = suited(recipe, "multi_label")
    assert same == replace(recipe, watch="map") and not notes
    numbers, (note,) = suited(recipe, "regression")
    assert (numbers.mixup, numbers.cutmix, numbers.label_smoothing) == (0, 0, 0)
    assert numbers.randaugment == (2, 9.0) and numbers.crop == "resized"
    assert "--label-smoothing, --mixup, --cutmix" in note
    boxes, notes = suited(recipe, "regression", boxes=True)
    assert (boxes.crop, boxes.randaugment) == ("centre", None)
    assert "--randaugment" in notes[0] and "--crop centre" in notes[1]
    assert suited(boxes, "regression", boxes=True) == (boxes, ())


@pytest.mark.parametrize(
    ("recipe", "problem", "words"),
    [
        (Recipe(balance="loss"), "regression", "have no classes"),
        (Recipe(method="head", balance="sampler"), "single_label", "draws no images"),
        (Recipe(method="head", head="knn", balance="loss"), "multi_label", "no loss to weigh"),
    ],
)
def test_a_balance_that_means_nothing_is_refused(recipe, problem, words):
    with pytest.raises(RegardError, match=words):
        suited(recipe, problem)


def test_losses_of_classes():
    outputs, targets = torch.randn(6, 3), torch.tensor([0, 2, 1, 1, 0, 2])
    plain, soft = Task("single_label"), F.one_hot(targets, 3) * 0.9 + 0.1 / 3
    torch.testing.assert_close(plain.loss(outputs, targets), F.cross_entropy(outputs, targets))
    torch.testing.assert_close(plain.loss(outputs, soft), F.cross_entropy(outputs, targets, label_smoothing=0.1))
    weights = torch.tensor([1.0, 2.0, 0.5])
    expected = (F.cross_entropy(outputs, targets, reduction="none") * weights[targets]).mean()
    torch.testing.assert_close(Task("single_label", weights).loss(outputs, targets), expected)


def test_losses_of_labels_and_numbers_leave_the_unknown_out():
    outputs = torch.randn(5, 2, requires_grad=True)
    targets = torch.tensor([[1.0, 0], [0, 1], [torch.nan, 1], [0, torch.nan], [1, 1]])
    weights = torch.tensor([[0.5, 2.0], [3.0, 0.7]])
    task = Task("multi_label", weights)
    loss = task.loss(outputs, targets)
    loss.backward()
    total = 0.0
    for i in range(5):
        for k in range(2):
            y = targets[i, k].item()
            if y == y:
                p = torch.sigmoid(outputs[i, k]).item()
                total += weights[int(y), k].item() * -np.log(p if y else 1 - p)
    assert loss.item() == pytest.approx(total / 10, rel=1e-5)
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all() and outputs.grad[2, 0] == outputs.grad[3, 1] == 0
    halves = [task.loss(outputs[part], targets[part]) for part in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close((2 * halves[0] + 3 * halves[1]) / 5, loss)  # parts add up to the whole

    numbers = Task("regression", mean=torch.tensor([10.0, -1.0]), scale=torch.tensor([2.0, 0.5]))
    targets = torch.tensor([[12.0, -1.0], [8.0, torch.nan], [30.0, 0.0]])
    outputs = torch.tensor([[0.5, 0.0], [-1.0, 7.0], [0.0, 0.0]])
    # differences in standard deviations: 0.5, 0, 0, unknown, 10, 2
    expected = (0.5 * 0.25 + (10 - 0.5) + (2 - 0.5)) / 6
    assert numbers.loss(outputs, targets).item() == pytest.approx(expected)
    torch.testing.assert_close(numbers.answers(outputs)[0], torch.tensor([11.0, -1.0]))


def test_weights_have_mean_one_over_the_images():
    labels = np.repeat([0, 1, 3], [80, 15, 5])
    weights = class_weights(labels, 4)
    assert weights[labels].mean() == pytest.approx(1)
    np.testing.assert_allclose(weights[[0, 1, 3]] * [80, 15, 5], 100 / 3)
    assert weights[2] == 0  # no image
    several = np.zeros((100, 3), np.float32)
    several[:10, 0], several[:50, 1] = 1, 1
    several[90:, 0] = np.nan
    absent, present = class_weights(several, 3)
    np.testing.assert_allclose(present[:2], [90 / 2 / 10, 1.0])
    np.testing.assert_allclose(absent, [90 / 2 / 80, 1.0, 1.0])
    assert present[2] == 0


def test_standardisation_knows_unknown_and_constant_columns():
    labels = np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 5.0]], np.float32)
    mean, scale = standardisation(labels, ("a", "b"))
    np.testing.assert_allclose(mean, [2, 5])
    np.testing.assert_allclose(scale, [1, 1])
    with pytest.raises(RegardError, match="b: no training image"):
        standardisation(np.array([[1.0, np.nan], [2.0, np.nan]], np.float32), ("a", "b"))


def test_folding_gives_answers_in_the_units_of_the_labels():
    labels = np.random.default_rng(0).normal([100, 0.01], [30, 0.002], (20, 2)).astype(np.float32)
    images = images_of(labels, "regression")
    loaded = fresh_model("vit_nano_patch4_32", images.classes)
    task = task_for(images, np.arange(20), Recipe())
    x = torch.rand(3, 3, 32, 32)
    loaded.model.eval()
    with torch.no_grad():
        expected = task.answers(loaded.model(x))
        task.fold(loaded)
        torch.testing.assert_close(loaded.model(x), expected, rtol=1e-5, atol=1e-6)


def test_advice_for_unequal_classes():
    labels = np.repeat([0, 1, 2], [100, 40, 5])
    images, rows = images_of(labels, "single_label"), np.arange(145)
    line = advice(images, rows, Recipe())
    assert line is not None and "differ 20 times" in line and "c0 (100) and c2 (5 " in line and "--balance loss" in line
    assert advice(images, rows, Recipe(balance="loss")) is None
    assert advice(images, rows[:140], Recipe()) is None  # a class without images is another finding
    several = np.zeros((100, 2), np.float32)
    several[:60, 0], several[:3, 1] = 1, 1
    assert "differ 20 times" in (advice(images_of(several, "multi_label"), np.arange(100), Recipe()) or "")
    assert advice(images_of(several, "regression"), np.arange(100), Recipe()) is None
