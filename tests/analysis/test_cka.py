"""CKA against loops in float64, and what the protocol asks of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.analysis.cka import cka
from regard.errors import RegardError
from regard.models import create_model
from regard.models.vit import ViT
from regard.taps import record


def hsic(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate, summand by summand, of features (n, p) and (n, q)."""
    n = len(a)
    k = [[0.0 if i == j else float(a[i] @ a[j]) for j in range(n)] for i in range(n)]
    m = [[0.0 if i == j else float(b[i] @ b[j]) for j in range(n)] for i in range(n)]
    trace = sum(k[i][j] * m[j][i] for i in range(n) for j in range(n))
    all_k, all_m = sum(map(sum, k)), sum(map(sum, m))
    chain = sum(k[i][j] * m[j][l] for i in range(n) for j in range(n) for l in range(n))  # noqa: E741
    return (trace + all_k * all_m / ((n - 1) * (n - 2)) - 2 / (n - 2) * chain) / (n * (n - 3))


def plain(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Minibatch CKA of one layer with another, given by batches."""
    cross = np.mean([hsic(a, b) for a, b in zip(first, second, strict=True)])
    own = np.mean([hsic(a, a) for a in first]) * np.mean([hsic(b, b) for b in second])
    return float(cross) / math.sqrt(own)


@pytest.fixture(scope="module")
def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(16, 4, 12, 2, 2, num_classes=5).double().eval()


@pytest.fixture(scope="module")
def cnn() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 5)).double().eval()


def batches(*sizes: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(2)
    return [torch.randn(size, 3, 16, 16, generator=random, dtype=torch.float64) for size in sizes]


def outputs(model: nn.Module, name: str, given: list[Tensor]) -> list[np.ndarray]:
    found = []
    for images in given:
        with torch.no_grad(), record(model, name) as seen:
            model(images)
        found.append(seen[name].numpy())
    return found


@pytest.mark.parametrize("feature", ["tokens", "mean"])
def test_equals_loops_between_two_models(vit: ViT, cnn: nn.Module, feature: str) -> None:
    given = batches(6, 6, 6, 5)  # the remainder of 5 is dropped
    found = cka(vit, given, against=cnn, feature=feature)  # pyright: ignore[reportArgumentType]
    assert found.rows == ("embedded", "blocks.0.tokens", "blocks.1.tokens")
    assert found.columns == ("1", "3")
    assert (found.batch, found.images) == (6, 18)
    for row, name in enumerate(found.rows):
        for column, other in enumerate(found.columns):
            a, b = outputs(vit, name, given[:3]), outputs(cnn, other, given[:3])
            if feature == "mean":
                a, b = [one[:, 1:].mean(1) for one in a], [one.mean((2, 3)) for one in b]
            expected = plain([one.reshape(6, -1) for one in a], [one.reshape(6, -1) for one in b])
            assert found.values[row, column] == pytest.approx(expected, abs=1e-10)


def test_a_model_with_itself_and_what_does_not_differ(vit: ViT) -> None:
    found = cka(vit, batches(8, 8), feature="class")
    # The class token has met no patch where it enters the first block: it is the same for all images.
    assert np.isnan(found.values[0]).all() and np.isnan(found.values[:, 0]).all()
    np.testing.assert_allclose(np.diag(found.values)[1:], 1, atol=1e-12)
    np.testing.assert_allclose(found.values[1:, 1:], found.values[1:, 1:].T, atol=1e-12)
    header, rows = found.table()
    cells = [row[header.index("cka")] for row in rows]
    assert cells.count("undefined") == 5 and len(cells) == 9
    assert "undefined" in found.csv() and "nan" not in found.csv()


def test_the_same_in_float32(vit: ViT, cnn: nn.Module) -> None:
    exact = cka(vit, batches(8), against=cnn).values
    singles = [one.float() for one in batches(8)]
    try:
        rounded = cka(vit.float(), singles, against=cnn.float()).values
        constant = cka(vit, singles, feature="class").values
    finally:
        vit.double(), cnn.double()
    np.testing.assert_allclose(rounded, exact, atol=1e-5)
    assert np.isnan(constant[0]).all() and np.isfinite(constant[1:, 1:]).all()


class Turned(nn.Module):
    """Features that are the other's, turned and scaled; or random, as many as given."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix
        self.turn = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.turn(images.flatten(1)[:, : len(self.matrix)] @ self.matrix)


def test_a_turn_and_a_scale_change_nothing_and_chance_is_about_zero_on_either_side() -> None:
    random = torch.Generator().manual_seed(3)
    square = torch.randn(10, 10, generator=random, dtype=torch.float64)
    plain_, turned = Turned(torch.eye(10, dtype=torch.float64)), Turned(3 * torch.linalg.qr(square).Q)
    assert cka(plain_, batches(12), against=turned).values.item() == pytest.approx(1, abs=1e-12)
    assert cka(plain_, batches(12), against=Turned(square)).values.item() < 0.99
    noise = [
        cka(plain_, [one], against=plain_, against_batches=[other]).values.item()
        for one, other in zip(batches(*[12] * 20), batches(*[12] * 40)[20:], strict=True)
    ]
    assert min(noise) < 0 < max(noise) and abs(float(np.mean(noise))) < 0.1


def test_the_model_is_left_as_it_was(vit: ViT) -> None:
    vit.blocks[1].train()
    modes = [module.training for module in vit.modules()]
    cka(vit, batches(4))
    assert [module.training for module in vit.modules()] == modes
    assert not any(module._forward_hooks for module in vit.modules())
    vit.eval()


def test_refusals(vit: ViT, cnn: nn.Module) -> None:
    with pytest.raises(RegardError, match="batches of 3 images; it needs 4 or more"):
        cka(vit, batches(3))
    with pytest.raises(RegardError, match="no images given"):
        cka(vit, [])
    with pytest.raises(RegardError, match="give the same images"):
        cka(vit, batches(4, 4), against=cnn, against_batches=batches(4))
    with pytest.raises(RegardError, match="give the same images"):
        cka(vit, batches(4), against=cnn, against_batches=batches(5))
    with pytest.raises(RegardError, match="no class token; ask for the feature 'mean' or 'tokens'"):
        cka(cnn, batches(4), feature="class")
    with pytest.raises(RegardError, match=r"blocks\.9: matches no tap or module"):
        cka(vit, batches(4), layers=["blocks.9"])
    with pytest.raises(RegardError, match="expected one of tokens, class, mean"):
        cka(vit, batches(4), feature="all")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("lang", ["en", "fr", "ro"])
def test_draws(vit: ViT, lang: str) -> None:
    torch.manual_seed(0)
    other = create_model("resnet20_32", 4).eval()
    singles = [torch.randn(4, 3, 32, 32)]
    found = cka(other, singles, names=("a $x$ b", "<script>"))
    assert found.svg(lang) == found.svg(lang)  # pyright: ignore[reportArgumentType]
    assert "&lt;script" in found.svg(lang)  # pyright: ignore[reportArgumentType]
