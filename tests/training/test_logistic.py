"""The solved logistic problems against scikit-learn and autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from regard.training.logistic import Multinomial, OneVsRest
from regard.training.tasks import class_weights


def clusters(count: int, size: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clusters on badly scaled, correlated axes."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(size, size)) * np.exp(-np.arange(size) / size * 5)
    centres = np.random.default_rng(99).normal(size=(classes, size)) * 0.3
    labels = rng.integers(0, classes, count)
    return ((centres[labels] + rng.normal(size=(count, size))) @ axes + 7).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 6])
def test_the_solver_finds_the_minimum(classes: int) -> None:
    features, labels = clusters(400, 30, classes)
    problem = Multinomial(torch.from_numpy(features), torch.from_numpy(labels), classes)
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
    problem = Multinomial(torch.from_numpy(features), torch.from_numpy(labels), 3)
    weight = torch.randn(3, problem.rotated.shape[1], requires_grad=True)
    bias = torch.randn(3, requires_grad=True)
    logits = problem.rotated @ weight.T + bias
    loss = nn.functional.cross_entropy(logits, problem.labels) + 0.05 * weight.square().sum()
    loss.backward()
    value, weight_gradient, bias_gradient = problem.loss_and_gradients(weight.detach(), bias.detach(), 0.1)
    assert value == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(weight_gradient, weight.grad)
    torch.testing.assert_close(bias_gradient, bias.grad)


def test_weighted_classes_are_those_of_scikit_learn() -> None:
    features, labels = clusters(300, 12, 3)
    labels = np.where(np.arange(300) % 5 == 0, labels, 0)  # unequal
    weights = torch.from_numpy(class_weights(labels, 3)).float()
    problem = Multinomial(torch.from_numpy(features), torch.from_numpy(labels), 3, weights)
    problem.solve(0.02)
    standard = (features.astype(np.float64) - features.mean(0)) / features.std(0)
    c = 1 / (0.02 * 300)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, class_weight="balanced").fit(standard, labels)
    found = problem.linear()[0].double().numpy() * features.std(0)
    np.testing.assert_allclose(found, theirs.coef_, atol=5e-3)


@pytest.mark.parametrize("balanced", [False, True])
def test_one_against_the_rest_is_scikit_learns_where_labels_are_known(balanced: bool) -> None:
    features, classes = clusters(300, 12, 4)
    targets = np.eye(4, dtype=np.float32)[classes]
    targets[:, 3] = (features[:, 0] > np.median(features[:, 0])) | (targets[:, 3] > 0)
    targets[::3, 1] = np.nan
    weights = torch.from_numpy(class_weights(targets, 4)).float() if balanced else None
    problem = OneVsRest(torch.from_numpy(features), torch.from_numpy(targets), weights)
    for strength in (0.1, 0.02):
        problem.solve(strength)
    found = problem.linear()[0].double().numpy() * features.std(0)
    standard = (features.astype(np.float64) - features.mean(0)) / features.std(0)
    for label in range(4):
        known = ~np.isnan(targets[:, label])
        solver = LogisticRegression(
            C=1 / (0.02 * known.sum()), tol=1e-10, max_iter=10_000, class_weight="balanced" if balanced else None
        )
        theirs = solver.fit(standard[known], targets[known, label])
        np.testing.assert_allclose(found[label], theirs.coef_[0], atol=5e-3)


def test_the_gradient_of_several_labels_is_the_derivative() -> None:
    features, _ = clusters(50, 6, 3)
    targets = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (50, 3)).astype(np.float32))
    targets[::7, 0] = torch.nan
    problem = OneVsRest(torch.from_numpy(features), targets, torch.tensor([[1.0, 2, 3], [0.5, 4, 1]]))
    weight = torch.randn(3, problem.rotated.shape[1], requires_grad=True)
    bias = torch.randn(3, requires_grad=True)
    scores = problem.rotated @ weight.T + bias
    losses = nn.functional.binary_cross_entropy_with_logits(scores, problem.targets, reduction="none") * problem.share
    loss = losses.sum(1).mean() + 0.05 * weight.square().sum()
    loss.backward()
    value, weight_gradient, bias_gradient = problem.loss_and_gradients(weight.detach(), bias.detach(), 0.1)
    assert value == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(weight_gradient, weight.grad)
    torch.testing.assert_close(bias_gradient, bias.grad)


def test_constant_and_repeated_features_do_no_harm() -> None:
    features, labels = clusters(200, 10, 3)
    odd = np.concatenate([features, np.full((200, 3), 5.0, np.float32), features[:, :4]], axis=1)
    right = []
    for x in (features, odd):
        problem = Multinomial(torch.from_numpy(x), torch.from_numpy(labels), 3)
        problem.solve(0.001)
        weight, bias = problem.linear()
        assert torch.isfinite(weight).all()
        assert torch.isfinite(bias).all()
        right.append(float(((torch.from_numpy(x) @ weight.T + bias).argmax(1).numpy() == labels).mean()))
    assert right[1] >= right[0] - 0.02
