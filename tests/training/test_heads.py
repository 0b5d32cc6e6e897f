from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from regard.data.sources import ImageSet
from regard.data.splits import Split
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model, load_model
from regard.training.heads import Problem, fit_head, head_predictions, solve_grid


def clusters(count: int, size: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clusters on badly scaled, correlated axes."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(size, size)) * np.exp(-np.arange(size) / size * 5)
    centres = np.random.default_rng(99).normal(size=(classes, size)) * 0.3
    labels = rng.integers(0, classes, count)
    return ((centres[labels] + rng.normal(size=(count, size))) @ axes + 7).astype(np.float32), labels


def images_of(count: int, seed: int = 0) -> ImageSet:
    """Noise, reddish or greenish, brighter on the left."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    sources = []
    for label in labels:
        pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        pixels[..., label] += 60
        pixels[:, :16] += 60
        sources.append(pixels)
    ids = tuple(f"one/{number}" for number in range(count))
    return ImageSet("made", ids, labels.astype(np.int64), ("red", "green"), ("",) * count, sources)


SPLIT = Split(np.arange(40), np.arange(40, 60), np.arange(60, 80), ())


@pytest.fixture
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    return fresh_model("vit_nano_patch4_32", ("x", "y", "z"))


@pytest.mark.parametrize("classes", [2, 6])
def test_the_solver_finds_the_minimum(classes: int) -> None:
    features, labels = clusters(400, 30, classes)
    problem = Problem(torch.from_numpy(features), torch.from_numpy(labels), classes)
    standard = (features.astype(np.float64) - features.mean(0)) / features.std(0)
    targets = np.eye(classes)[labels]
    for strength in (0.1, 0.01, 0.001):  # each warm-started by the last
        problem.solve(strength)
        weight, bias = (part.double().numpy() for part in problem.linear())
        logits = features @ weight.T + bias
        found = weight * features.std(0)
        # scikit-learn's minimum of the same function: an independent solver
        ours = _objective(logits, targets, found, strength)
        # (of two classes it fits the difference of the rows, whose penalty is half of ours)
        c = (2 if classes == 2 else 1) / (strength * len(features))
        theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(standard, labels)
        coefficients = theirs.coef_ * [[-0.5], [0.5]] if classes == 2 else theirs.coef_
        best = _objective(theirs.predict_log_proba(standard), targets, coefficients, strength)
        assert ours == pytest.approx(best, rel=1e-5)
        np.testing.assert_allclose(found, coefficients, atol=5e-3)


def _objective(logits: np.ndarray, targets: np.ndarray, weight: np.ndarray, strength: float) -> float:
    log_p = (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
    )
    return float(-(targets * log_p).sum(1).mean() + strength / 2 * (weight**2).sum())


def test_the_gradient_is_the_derivative() -> None:
    features, labels = clusters(50, 6, 3)
    problem = Problem(torch.from_numpy(features), torch.from_numpy(labels), 3)
    weight = torch.randn(3, problem.rotated.shape[1], requires_grad=True)
    bias = torch.randn(3, requires_grad=True)
    logits = problem.rotated @ weight.T + bias
    loss = nn.functional.cross_entropy(logits, problem.labels) + 0.05 * weight.square().sum()
    loss.backward()
    value, weight_gradient, bias_gradient = problem.loss_and_gradients(weight.detach(), bias.detach(), 0.1)
    assert value == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(weight_gradient, weight.grad)
    torch.testing.assert_close(bias_gradient, bias.grad)


def test_validation_chooses_the_strength() -> None:
    train, labels = clusters(300, 60, 4)
    val, val_labels = clusters(400, 60, 4, seed=1)
    weight, bias, best, grid = solve_grid(train, labels, val, val_labels, 4)
    assert [point.strength for point in grid] == sorted((point.strength for point in grid), reverse=True)
    assert best.top1 == max(point.top1 for point in grid)
    equal = [point for point in grid if point.top1 == best.top1]
    assert best.nll == min(point.nll for point in equal)
    logits = val @ weight.numpy().T + bias.numpy()
    assert (logits.argmax(1) == val_labels).mean() == pytest.approx(best.top1)
    assert best.top1 > grid[-1].top1  # on noisy data the weakest penalty is not the best
    with pytest.raises(RegardError, match="strengths"):
        solve_grid(train, labels, val, val_labels, 4, ())


def test_constant_and_repeated_features_do_no_harm() -> None:
    features, labels = clusters(200, 10, 3)
    odd = np.concatenate([features, np.full((200, 3), 5.0, np.float32), features[:, :4]], axis=1)
    weight, bias, best, _ = solve_grid(odd, labels, odd, labels, 3)
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()
    assert best.top1 >= solve_grid(features, labels, features, labels, 3)[2].top1 - 0.02


def test_more_features_than_images_and_a_class_without_images() -> None:
    features, labels = clusters(30, 100, 3)
    weight, _, best, _ = solve_grid(features, labels, features, labels, 4)
    assert weight.shape == (4, 100)
    assert best.top1 == 1.0


def test_the_head_is_installed_in_an_ordinary_model(loaded: LoadedModel, tmp_path: Path) -> None:
    images = images_of(80)
    done = fit_head(loaded, images, SPLIT, tmp_path)
    assert loaded.classes == ("red", "green")
    linear = loaded.model.get_submodule(loaded.head)
    assert isinstance(linear, nn.Linear)
    assert linear.out_features == 2
    assert done.val.correct.mean() >= 0.9
    plain = loaded.predict([images.sources[row] for row in SPLIT.val])
    np.testing.assert_allclose(plain.logits, done.val.logits, rtol=1e-3, atol=1e-3)
    test = head_predictions(loaded, images, SPLIT.test, tmp_path)
    assert test.ids == tuple(images.ids[row] for row in SPLIT.test)
    np.testing.assert_allclose(
        test.logits, loaded.predict([images.sources[row] for row in SPLIT.test]).logits, rtol=1e-3, atol=1e-3
    )
    assert (done.views, done.train_images, done.feature_dim) == ((0, 1), 40, 96)


def test_two_views_train(loaded: LoadedModel) -> None:
    images = images_of(80)
    one = fit_head(loaded, images, SPLIT, views=(0,))
    two = fit_head(loaded, images, SPLIT, views=(0, 1))
    assert not np.array_equal(one.val.logits, two.val.logits)


def test_the_same_bits_twice_and_another_setting_from_the_cache(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of(80)
    first = fit_head(loaded, images, SPLIT, tmp_path)
    monkeypatch.setattr(loaded, "pooled", None)  # a forward pass would fail
    again = fit_head(loaded, images, SPLIT, tmp_path)
    np.testing.assert_array_equal(first.val.logits, again.val.logits)
    assert first.grid == again.grid
    other = fit_head(loaded, images, Split(np.arange(20), np.arange(40, 50), np.arange(60, 80), ()), tmp_path)
    assert other.train_images == 20


def test_a_module_of_the_users_gets_a_head() -> None:
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 5)]
    loaded = load_model(nn.Sequential(*body), preprocess=Preprocess(32, 1.0, "squash"))
    images = images_of(80)
    done = fit_head(loaded, images, SPLIT)
    assert done.val.correct.mean() >= 0.9
    assert loaded.predict(images.sources[0]).logits.shape == (1, 2)


def test_nothing_to_learn_from_or_to_choose_by(loaded: LoadedModel) -> None:
    nothing = np.arange(0)
    with pytest.raises(RegardError, match="no train images"):
        fit_head(loaded, images_of(8), Split(nothing, np.arange(4), nothing, ()))
    with pytest.raises(RegardError, match="no val images"):
        fit_head(loaded, images_of(8), Split(np.arange(4), nothing, nothing, ()))
