"""Nearest neighbours as a layer, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from regard.inference.neighbours import Neighbours


def loop(known: np.ndarray, labels: np.ndarray, x: np.ndarray, k: int, temperature: float) -> list[list[tuple]]:
    """(vote, label) of the k nearest of each row, the nearest first, relative to the nearest."""
    answers = []
    for row in x:
        cosines = [float(row @ one / np.linalg.norm(row) / np.linalg.norm(one)) for one in known]
        order = sorted(range(len(known)), key=lambda place: -cosines[place])[:k]
        answers.append([(math.exp((cosines[p] - cosines[order[0]]) / temperature), labels[p]) for p in order])
    return answers


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(9, 6)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_classes(data: tuple[np.ndarray, np.ndarray], k: int) -> None:
    known, x = data
    labels = np.arange(40) % 3
    layer = Neighbours(torch.from_numpy(known), torch.from_numpy(labels), 4, "single_label", k, 0.2)
    logits = layer(torch.from_numpy(x))
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(9))
    for found, votes in zip(logits.exp(), loop(known, labels, x, k, 0.2), strict=True):
        total = sum(vote for vote, _ in votes)
        expected = [(sum(v for v, label in votes if label == c) + 1 / 4) / (total + 1) for c in range(4)]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_several_labels_and_numbers_with_unknown_ones(data: tuple[np.ndarray, np.ndarray]) -> None:
    known, x = data
    rng = np.random.default_rng(1)
    present = rng.integers(0, 2, (40, 2)).astype(np.float32)
    numbers = rng.normal(10, 3, (40, 2)).astype(np.float32)
    present[::3, 0] = numbers[::3, 0] = np.nan
    numbers[:, 1][rng.random(40) < 0.9] = np.nan
    several = Neighbours(torch.from_numpy(known), torch.from_numpy(present), 2, "multi_label", 5, 0.2)
    for row, votes in zip(several(torch.from_numpy(x)).sigmoid(), loop(known, present, x, 5, 0.2), strict=True):
        for column in range(2):
            own = [(vote, label[column]) for vote, label in votes if not np.isnan(label[column])]
            expected = (sum(v * y for v, y in own) + 0.5) / (sum(v for v, _ in own) + 1)
            assert row[column].item() == pytest.approx(expected, rel=1e-4)
    regression = Neighbours(torch.from_numpy(known), torch.from_numpy(numbers), 2, "regression", 5, 0.2)
    nobody = 0
    for row, votes in zip(regression(torch.from_numpy(x)), loop(known, numbers, x, 5, 0.2), strict=True):
        for column in range(2):
            own = [(vote, label[column]) for vote, label in votes if not np.isnan(label[column])]
            nobody += not own
            mean = sum(v * y for v, y in own) / sum(v for v, _ in own) if own else np.nanmean(numbers[:, column])
            assert row[column].item() == pytest.approx(mean, rel=1e-4)
    assert nobody  # the case that no neighbour knows the number is among them


def test_parts_do_not_matter_and_a_state_makes_the_layer_again(
    data: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    known, x = data
    layer = Neighbours(torch.from_numpy(known), torch.arange(40) % 3, 3, "single_label", 7, 0.07)
    expected = layer(torch.from_numpy(x))
    state = {f"head.{name}": value for name, value in layer.state_dict().items()}
    again = Neighbours.like(state, "head", 3, "single_label")
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(torch.from_numpy(x)), expected)
    assert (layer.in_features, layer.out_features) == (6, 3)
    monkeypatch.setattr("regard.inference.neighbours.AT_ONCE", 80)  # two rows at a time
    torch.testing.assert_close(layer(torch.from_numpy(x)), expected)
