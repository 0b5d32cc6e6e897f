"""Heads on fixed features: every kind against an independent solver, and folded into one layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from regard.data.sources import ImageSet
from regard.errors import RegardError
from regard.training.heads import choose
from regard.training.solvers import RIDGE, Fitting, candidates, ridge, support_vectors


def data(problem: str, count: int = 240, size: int = 10) -> tuple[Fitting, np.ndarray, ImageSet]:
    """A fitting with labels that follow the features with noise, the validation labels, and a set of their kind."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(count, size)) * np.arange(1, size + 1) + 5).astype(np.float32)
    scores = (features - 5) / np.arange(1, size + 1) @ rng.normal(size=(size, 3)) + rng.normal(size=(count, 3))
    labels = {
        "single_label": scores.argmax(1),
        "multi_label": (scores > 1).astype(np.float32),
        "regression": (100 + 30 * scores).astype(np.float32),
    }[problem]
    half = count // 2
    names = ("a", "b", "c")
    images = ImageSet("made", (), labels[:0], names, (), (), problem=problem)
    fitting = Fitting(torch.from_numpy(features[:half]), labels[:half], torch.from_numpy(features[half:]), 3, problem)
    return fitting, labels[half:], images


@pytest.mark.parametrize("head", ["linear", "svm", "knn"])
@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_the_layer_gives_the_answers_that_were_judged_and_beats_a_guess(head: str, problem: str) -> None:
    fitting, answers, images = data(problem)
    best, point, grid = choose(candidates(head, fitting), answers, images)
    with torch.inference_mode():
        torch.testing.assert_close(best.build()(fitting.val), best.logits, rtol=1e-4, atol=1e-4)
    assert best.settled and len(grid) >= 5 and point in grid
    logits = best.logits.numpy()
    if problem == "single_label":
        assert point.metrics["top1"] == (logits.argmax(1) == answers).mean() > 0.55
        assert point.metrics["top1"] == max(one.metrics["top1"] for one in grid)
    elif problem == "multi_label":
        expected = np.mean([average_precision_score(answers[:, k], logits[:, k]) for k in range(3)])
        assert point.metrics["map"] == pytest.approx(expected, abs=1e-6)
        assert expected > answers.mean() + 0.3
        assert point.metrics["map"] == max(one.metrics["map"] for one in grid)
    else:
        assert point.metrics["mae"] == pytest.approx(np.abs(logits - answers).mean(), rel=1e-5)
        assert point.metrics["mae"] == min(one.metrics["mae"] for one in grid)
        assert point.metrics["mae"] < 0.8 * np.abs(answers - answers.mean(0)).mean()


def test_equal_settings_are_decided_by_the_loss_then_by_simplicity() -> None:
    fitting, answers, images = data("single_label")
    _, point, grid = choose(candidates("linear", fitting), answers, images)
    equal = [one for one in grid if one.metrics["top1"] == point.metrics["top1"]]
    assert point.metrics["nll"] == min(one.metrics["nll"] for one in equal)
    strengths = [one.settings["strength"] for one in grid]
    assert strengths == sorted(strengths, reverse=True)
    twice, _, _ = choose(
        [*candidates("linear", fitting, [0.1]), *candidates("linear", fitting, [0.1])], answers, images
    )
    assert twice.settings == {"strength": 0.1}
    with pytest.raises(RegardError, match="strengths"):
        choose(candidates("linear", fitting, ()), answers, images)


def test_ridge_is_scikit_learns_also_where_numbers_are_unknown() -> None:
    fitting, _, _ = data("regression")
    fitting.labels[::4, 1] = np.nan
    found = {candidate.settings["strength"]: candidate.logits.numpy() for candidate in ridge(fitting)}
    assert list(found) == sorted(RIDGE, reverse=True)
    scaler = StandardScaler().fit(fitting.train.numpy())
    train, val = scaler.transform(fitting.train.numpy()), scaler.transform(fitting.val.numpy())
    for column in range(3):
        known = ~np.isnan(fitting.labels[:, column])
        theirs = Ridge(alpha=0.3 * known.sum()).fit(train[known], fitting.labels[known, column]).predict(val)
        np.testing.assert_allclose(found[0.3][:, column], theirs, rtol=1e-3, atol=1e-2)


def test_support_vectors_are_scikit_learns() -> None:
    fitting, _, _ = data("single_label")
    scaler = StandardScaler().fit(fitting.train.numpy())
    train, val = scaler.transform(fitting.train.numpy()), scaler.transform(fitting.val.numpy())
    theirs = LinearSVC(C=0.01, random_state=0, max_iter=10_000).fit(train, fitting.labels).decision_function(val)
    found = next(one for one in support_vectors(fitting) if one.settings["C"] == 0.01)
    np.testing.assert_allclose(found.logits.numpy(), theirs, atol=1e-3)


def test_a_label_that_all_or_none_have_does_no_harm() -> None:
    fitting, _, _ = data("multi_label")
    fitting.labels[:, 0], fitting.labels[:, 1] = 1, 0
    for head in ("linear", "svm", "knn"):
        for candidate in candidates(head, fitting):
            assert torch.isfinite(candidate.logits).all()
            assert (candidate.logits[:, 0] > 0).all() and (candidate.logits[:, 1] < 0).all()


def test_balancing_finds_more_of_a_rare_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [190, 10])
    train = (rng.normal(size=(200, 4)) + labels[:, None]).astype(np.float32)
    val_labels = np.repeat([0, 1], [500, 500])
    val = (rng.normal(size=(1000, 4)) + val_labels[:, None]).astype(np.float32)
    for head in ("linear", "svm"):
        found = {}
        for balance in ("none", "loss"):
            fitting = Fitting(torch.from_numpy(train), labels, torch.from_numpy(val), 2, "single_label", balance)
            first = list(candidates(head, fitting))[2]
            answers = first.logits.argmax(1).numpy()
            found[balance] = [(answers[val_labels == c] == c).mean() for c in (0, 1)]
        assert found["loss"][1] > found["none"][1] + 0.2, (head, found)
        assert np.mean(found["loss"]) > np.mean(found["none"])
