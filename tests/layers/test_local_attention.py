from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.local_attention import RELATIONS, LocalAttention, LocalRelation, local_scores, local_sum
from regard.taps import edit, record

WINDOW = 3


def fresh(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.double().eval()


def image(channels: int) -> Tensor:
    return torch.randn(2, channels, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def matrix(layer: nn.Module) -> Tensor:
    """The (out, in) matrix of a 1x1 convolution."""
    return layer.get_parameter("weight")[:, :, 0, 0]


def neighbours(height: int, width: int, y: int, x: int) -> list[tuple[int, int, bool]]:
    """(row, column, inside) of the window around a pixel, row after row."""
    half = WINDOW // 2
    places = [(y + i, x + j) for i in range(-half, half + 1) for j in range(-half, half + 1)]
    return [(i, j, 0 <= i < height and 0 <= j < width) for i, j in places]


def slow_attention(layer: LocalAttention, x: Tensor) -> Tensor:
    """The formula of the module, pixel by pixel and neighbour by neighbour."""
    wq, wk, wv = matrix(layer.query), matrix(layer.key), matrix(layer.value)
    rows, columns = (range(0, side, layer.stride) for side in x.shape[2:])
    out = torch.zeros(len(x), len(wv), len(rows), len(columns), dtype=x.dtype)
    for b in range(len(x)):
        for row, i in enumerate(rows):
            for column, j in enumerate(columns):
                q = wq @ x[b, :, i, j]
                inside = [(k, m) for k, m, there in neighbours(x.shape[2], x.shape[3], i, j) if there]
                logits = [float(q @ (wk @ x[b, :, k, m])) / math.sqrt(len(q)) for k, m in inside]
                total = sum(math.exp(logit) for logit in logits)
                for logit, (k, m) in zip(logits, inside, strict=True):
                    out[b, :, row, column] += math.exp(logit) / total * (wv @ x[b, :, k, m])
    return out


def slow_relation(layer: LocalRelation, x: Tensor) -> Tensor:
    """Facts of the paper, pixel by pixel: one scalar query and key per group, a prior of the offset, raw values."""
    first, second = layer.prior[0], layer.prior[2]
    rows, columns = (range(0, side, layer.stride) for side in x.shape[2:])
    mixed = torch.zeros(len(x), x.shape[1], len(rows), len(columns), dtype=x.dtype)
    for b in range(len(x)):
        for row, i in enumerate(rows):
            for column, j in enumerate(columns):
                for group, (wq, wk) in enumerate(zip(matrix(layer.query), matrix(layer.key), strict=True)):
                    channels = slice(group * layer.shared, (group + 1) * layer.shared)
                    q = float(wq @ x[b, :, i, j])
                    logits, values = [], []
                    for k, m, there in neighbours(x.shape[2], x.shape[3], i, j):
                        key = float(wk @ x[b, :, k, m]) if there else 0.0
                        phi = {"product": q * key, "squared": -((q - key) ** 2), "absolute": -abs(q - key)}
                        offset = torch.tensor([k - i, m - j], dtype=x.dtype) / (WINDOW // 2)
                        hidden = (matrix(first) @ offset + first.get_parameter("bias")).relu()
                        prior = float(matrix(second)[group] @ hidden)
                        logits.append(phi[layer.relation] + prior - (0.0 if there else 100.0))
                        values.append(x[b, channels, k, m] if there else torch.zeros(layer.shared, dtype=x.dtype))
                    weights = torch.tensor(logits, dtype=x.dtype).softmax(0)
                    mixed[b, channels, row, column] = (weights[:, None] * torch.stack(values)).sum(0)
    return torch.einsum("oc,bcyx->boyx", matrix(layer.out), mixed)


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_local_attention_is_the_plain_loop(stride: int) -> None:
    layer, x = fresh(LocalAttention(4, 3, 5, WINDOW, stride)), image(4)
    assert isinstance(layer, LocalAttention)
    expected = slow_attention(layer, x)
    assert expected.shape == (2, 5, -(-5 // stride), -(-4 // stride))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("relation", RELATIONS)
@torch.no_grad()
def test_local_relation_is_the_plain_loop(relation: str, stride: int) -> None:
    layer, x = fresh(LocalRelation(6, 4, WINDOW, 3, stride, relation)), image(6)
    assert isinstance(layer, LocalRelation)
    expected = slow_relation(layer, x)
    assert expected.shape == (2, 4, -(-5 // stride), -(-4 // stride))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_finite_differences(stride: int) -> None:
    rows, columns = -(-3 // stride), -(-4 // stride)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    torch.manual_seed(0)
    q, k, weights = draw(1, 2, 2, rows, columns), draw(1, 2, 2, 3, 4), draw(1, 2, WINDOW**2, rows, columns)
    assert torch.autograd.gradcheck(lambda a, b: local_scores(a, b, WINDOW, stride), (q, k))
    assert torch.autograd.gradcheck(lambda a, b: local_sum(a, b, WINDOW, stride), (weights, k))


@pytest.mark.parametrize("layer", [LocalAttention(8, 4, 8, 5), LocalRelation(8, 8, 5, 2)], ids=["general", "relation"])
def test_training_and_evaluation_compute_the_same_and_reach_every_weight(layer: nn.Module) -> None:
    fresh(layer)
    x = image(8).requires_grad_()
    trained = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), trained)
    trained.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize(
    ("layer", "groups"),
    [(LocalAttention(8, 4, 8, WINDOW), 1), (LocalRelation(8, 8, WINDOW, 2), 4)],
    ids=["general", "relation"],
)
@torch.no_grad()
def test_the_pattern_is_seen_sums_to_one_and_stays_inside(layer: nn.Module, groups: int) -> None:
    fresh(layer)
    x = image(8)
    with record(layer, "pattern") as seen:
        plain = layer(x)
    pattern = seen["pattern"]
    assert pattern.shape == (2, groups, WINDOW**2, 5, 4)
    torch.testing.assert_close(pattern.sum(2), torch.ones_like(pattern[:, :, 0]))
    assert pattern[:, :, :WINDOW, 0].max() < 1e-30 and pattern[:, :, :WINDOW, 1, 1:3].min() > 1e-30
    with edit(layer, {"pattern": torch.zeros_like}):
        assert not layer(x).any() and plain.any()


@torch.no_grad()
def test_without_positions_a_shuffle_of_the_window_changes_nothing_and_the_prior_sees_it() -> None:
    general, relation = fresh(LocalAttention(4, 4, 4, 5)), fresh(LocalRelation(4, 4, 5, 2))
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    order = torch.randperm(24)
    order = torch.cat([order[:12], torch.tensor([24]), order[12:]])
    others = torch.cat([x.flatten(2)[..., :12], x.flatten(2)[..., 13:], x.flatten(2)[..., 12:13]], dim=-1)
    shuffled = others[..., order].unflatten(2, (5, 5))
    assert torch.equal(shuffled[..., 2, 2], x[..., 2, 2]) and not torch.equal(shuffled, x)
    torch.testing.assert_close(general(shuffled)[..., 2, 2], general(x)[..., 2, 2])
    assert (relation(shuffled)[..., 2, 2] - relation(x)[..., 2, 2]).abs().max() > 1e-3


def test_errors_name_the_argument() -> None:
    for wrong, message in (
        (lambda: LocalAttention(4, 4, 4, 4), "window=4"),
        (lambda: LocalRelation(12, 12, 7, 8), "shared=8: does not divide 12"),
        (lambda: LocalRelation(8, 8, 7, 8, 1, "cosine"), "relation=cosine: expected one of product, squared, absolute"),
    ):
        with pytest.raises(RegardError, match=message):
            wrong()
