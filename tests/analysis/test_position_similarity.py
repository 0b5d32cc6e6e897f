"""Position similarity: loops in float64, and the arithmetic of the sinusoidal matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch import nn

from regard.analysis.position_similarity import position_products, position_similarity
from regard.errors import RegardError
from regard.models import create_model
from regard.models.clip import CLIP
from regard.models.vit import ViT


def cosines(vectors: list[list[float]]) -> np.ndarray:
    lengths = [math.sqrt(sum(x * x for x in vector)) for vector in vectors]
    return np.array(
        [
            [sum(a * b for a, b in zip(u, v, strict=True)) / (i * j) for v, j in zip(vectors, lengths, strict=True)]
            for u, i in zip(vectors, lengths, strict=True)
        ]
    )


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("vit_nano_patch4_32", 1),
        ("vit_nano_patch4_32+pool=mean", 0),
        ("deit_nano_distilled_patch4_32", 2),
        ("vit_nano_patch4_reg4_dinov2_32", 0),
        ("t2t_vit_nano_32", 1),
    ],
)
def test_equals_a_loop_without_the_tokens_before_the_patches(name: str, prefix: int) -> None:
    model = create_model(name, 3)
    table = model.pos_embed.detach()[0, prefix:]
    found = position_similarity(model)
    assert found.grid == (8, 8)
    np.testing.assert_allclose(found.similarity, cosines(table.double().tolist()), atol=1e-12)
    model.requires_grad_(False)
    assert np.array_equal(position_similarity(model).similarity, found.similarity)


def test_not_square_and_the_tower_of_clip() -> None:
    assert position_similarity(ViT((8, 16), 4, 12, 1, 3)).similarity.shape == (8, 8)
    clip = CLIP(16, 4, 12, 1, 3, 8, 12, 1, 3, 8, 20)
    found = position_similarity(clip)
    wanted = cosines(clip.visual.positional_embedding.detach()[1:].double().tolist())
    np.testing.assert_allclose(found.similarity, wanted, atol=1e-12)


def test_a_zero_code_has_no_direction() -> None:
    found = position_similarity(create_model("vit_nano_patch4_32+positions=integer+pool=mean", 3))
    assert np.isnan(found.similarity[0]).all()
    np.testing.assert_allclose(found.similarity[1:, 1:], 1)


@pytest.mark.parametrize(("count", "dim", "half"), [(50, 128, 64), (197, 512, 256), (20, 768, 384)])
def test_products_of_sinusoidal_codes(count: int, dim: int, half: int) -> None:
    found = position_products(count=count, dim=dim).products
    np.testing.assert_allclose(np.diag(found), half, atol=1e-3)
    wanted = [sum(math.cos(10_000 ** (-2 * k / dim) * t) for k in range(dim // 2)) for t in range(count)]
    for t in range(count):
        for s in range(count):
            assert found[t, s] == pytest.approx(wanted[abs(t - s)], abs=2e-3)  # the codes are float32


def test_products_of_a_models_own_table() -> None:
    found = position_products(create_model("t2t_vit_nano_32", 3))
    assert found.dim == 96
    np.testing.assert_allclose(found.products, position_products(count=65, dim=96).products)
    frozen = create_model("vit_nano_patch4_32+positions=normalised", 3).requires_grad_(False)
    np.testing.assert_allclose(found_diagonal(frozen), [96 * (t / 64) ** 2 for t in range(65)], rtol=1e-6)


def found_diagonal(model: nn.Module) -> np.ndarray:
    return np.diag(position_products(model).products)


def test_refusals() -> None:
    with pytest.raises(RegardError, match="ViT learns its positions; position_similarity"):
        position_products(create_model("vit_nano_patch4_32", 3).requires_grad_(False))
    with pytest.raises(RegardError, match="kind=learned: expected one of sinusoidal, integer, normalised"):
        position_products(kind="learned")
    with pytest.raises(RegardError, match="expected a positive count and an even number"):
        position_products(dim=3)
    for name in ("swin_nano_patch2_window4_32", "resnet20_32", "vit_nano_patch4_32+positions=none"):
        with pytest.raises(RegardError, match="adds no position codes"):
            position_similarity(create_model(name, 3))
    with pytest.raises(RegardError, match="adds no position codes"):
        position_similarity(nn.Linear(2, 2))
    with pytest.raises(RegardError, match="CLIP learns its positions"):
        position_products(CLIP(16, 4, 12, 1, 3, 8, 12, 1, 3, 8, 20))
