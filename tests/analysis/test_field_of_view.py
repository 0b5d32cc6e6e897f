"""Fields of view: 2N + 1 of stacked convolutions, atrous ones, and every unit's gradient by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.analysis.field_of_view import field_of_view
from regard.errors import RegardError
from regard.models import create_model
from regard.models.vit import ViT
from regard.reporting.pictures.field_of_view import Field


def stacked(depth: int, dilation: int = 1) -> nn.Module:
    """3x3 convolutions of stride 1 whose weights are positive."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3 if n == 0 else 4, 4, 3, padding=dilation, dilation=dilation, bias=False) for n in range(depth)
    ]
    for layer in layers:
        nn.init.uniform_(layer.weight, 0.1, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()


def images(count: int = 2, side: int = 33, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("double", [False, True])
def test_stacked_convolutions_see_2n_plus_1_pixels(double: bool) -> None:
    model, given = stacked(7), images()
    if double:
        model, given = model.double(), given.double()
    found = field_of_view(model, [given])
    assert [field.support for field in found.fields] == [(2 * n + 1, 2 * n + 1) for n in range(1, 8)]
    assert [field.layer for field in found.fields] == [str(n) for n in range(7)]


def test_atrous_convolutions_see_2rn_plus_1() -> None:
    found = field_of_view(stacked(4, dilation=3), [images()])
    assert [field.support[0] for field in found.fields] == [7, 13, 19, 25]
    assert np.count_nonzero(found.fields[0].energy) == 9  # nine weights, whatever the rate


def test_effective_fields_grow_slower_than_the_support() -> None:
    """Luo et al.: like the square root of the depth, so the share of the field that counts shrinks."""
    fields = field_of_view(stacked(14), [images()]).fields
    radii = [field.radius(0.95) for field in fields]
    assert radii == sorted(radii) and radii[13] < 7 < fields[13].support[0] / 2


def test_equals_a_loop_over_all_units() -> None:
    torch.manual_seed(0)
    model = ViT(16, 4, 6, 2, 2, num_classes=3).double().eval()
    given = [images(2, 16, seed).double() for seed in (1, 2)]
    found = field_of_view(model, given, draws=6)  # as many as there are channels
    for depth, field in enumerate(found.fields):
        expected = np.zeros((16, 16))
        for image in torch.cat(given):
            x = image[None].clone().requires_grad_()
            tokens = model.patch_embed(x)
            tokens = torch.cat([model.cls_token.expand(1, -1, -1), tokens], 1) + model.pos_embed
            for block in model.blocks[:depth]:
                tokens = block(tokens)
            for channel in range(6):
                # Of 4 x 4 patches the central one is in row 2, column 2.
                (gradient,) = torch.autograd.grad(tokens[0, 1 + 2 * 4 + 2, channel], x, retain_graph=True)
                expected += gradient[0].numpy().__pow__(2).sum(0)
        np.testing.assert_allclose(field.energy, expected / 4, rtol=1e-9, atol=1e-15)
    assert found.fields[0].support == (4, 4)  # one patch
    assert found.fields[0].centre == pytest.approx((9.5, 9.5), abs=1.5)
    assert found.fields[1].support == (16, 16)  # one block later: the image


def test_random_signs_give_the_mean_over_units() -> None:
    model = stacked(2)
    model[1].weight.data -= 0.5  # so that channels cancel in part
    exact = field_of_view(model, [images()], draws=4).fields[1].energy
    drawn = field_of_view(model, [images()] * 300, draws=3).fields[1].energy
    np.testing.assert_allclose(drawn.sum(), exact.sum(), rtol=0.05)
    np.testing.assert_allclose(drawn, exact, atol=0.1 * exact.max())


def test_radius() -> None:
    energy = np.zeros((5, 5))
    energy[2, 2], energy[2, 4], energy[2, 0] = 0.6, 0.2, 0.2
    field = Field("m", "l", energy)
    assert field.centre == pytest.approx((2, 2))
    assert [field.radius(share) for share in (0.6, 0.61, 0.9, 1)] == pytest.approx([0, 2, 2, 2])
    assert field.support == (1, 5)
    assert np.isnan(Field("m", "l", np.zeros((5, 5))).radius(0.5))


def test_two_models_and_layers_by_name() -> None:
    cnn, vit = create_model("resnet20_32", 4).eval(), create_model("vit_nano_patch4_32", 4).eval()
    found = field_of_view(
        cnn, [images(1, 32)], against=vit, against_batches=[images(1, 32)], layers=["layer*.2"],
        against_layers=["blocks.*.tokens"], names=("cnn", "vit"), draws=1,
    )  # fmt: skip
    assert [len(fields) for fields in found.models.values()] == [3, 4]
    header, rows = found.table()
    assert header[:3] == ("model", "layer", "radius_68") and len(list(rows)) == 7
    assert all(parameter.grad is None for parameter in (*cnn.parameters(), *vit.parameters()))
    for lang in ("en", "fr", "ro"):
        assert "layer3.2" in found.svg(lang)
    with pytest.raises(RegardError, match="no layer of model has places in the image"):
        field_of_view(cnn, [images(1, 32)], layers=["fc"])
