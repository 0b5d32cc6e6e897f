"""Before and after: what has moved is found where it moved."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from regard.analysis.attention_distance import attention_distance
from regard.analysis.before_after import before_after
from regard.analysis.cka import cka
from regard.errors import RegardError
from regard.models import create_model
from regard.models.vit import ViT


@pytest.fixture(scope="module")
def pair() -> tuple[ViT, ViT]:
    """A model, and the same with another second block and a scaled class token."""
    torch.manual_seed(0)
    before = ViT(16, 4, 12, 3, 2, num_classes=5).eval()
    torch.nn.init.zeros_(before.head.bias)
    after = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in after.blocks[1].parameters():
            parameter += torch.randn(parameter.shape)
        after.cls_token *= 3
        after.head.bias += 1
    return before, after


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_weights_that_moved(pair: tuple[ViT, ViT]) -> None:
    before, after = pair
    found = before_after(after, before)
    change = dict(zip(found.parts, found.change, strict=True))
    moved, size = 0.0, 0.0
    for name, value in before.state_dict().items():
        if name.startswith("blocks.1."):
            moved += float((after.state_dict()[name].double() - value.double()).square().sum())
            size += float(value.double().square().sum())
    assert change["blocks.1"] == pytest.approx((moved / size) ** 0.5)
    assert change["cls_token"] == pytest.approx(2)
    assert change["head"] == pytest.approx(5**0.5 / float(before.head.weight.detach().norm()), rel=1e-5)
    still = {name: value for name, value in change.items() if name not in ("blocks.1", "cls_token", "head")}
    assert set(still) == {"pos_embed", "patch_embed", "blocks.0", "blocks.2", "norm"} and not any(still.values())
    assert found.layers == () and found.distances is None and found.filters is not None


def test_features_and_attention_are_those_of_the_measures_themselves(pair: tuple[ViT, ViT]) -> None:
    before, after = pair
    given = [images(), images(4)]
    found = before_after(after, before, given)
    np.testing.assert_array_equal(found.cka, np.diag(cka(after, given, against=before).values))
    # The mean over patches and all: the class token tripled moves no patch before the first block.
    assert found.layers[0] == "embedded" and found.images == 6
    assert found.cka[1] > 0.9 > found.cka[2]
    assert found.distances is not None
    for measured, model in zip(found.distances, (before, after), strict=True):
        np.testing.assert_array_equal(measured.pixels, attention_distance(model, given).pixels)


def test_nothing_moved() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_32", 3).eval()
    found = before_after(model, model, [torch.randn(4, 3, 32, 32)])
    np.testing.assert_allclose(found.cka, 1, atol=1e-9)
    assert not np.nan_to_num(found.change).any()
    assert found.distances is None
    assert {"conv1", "bn1", "layer1.0", "layer3.2", "fc"} <= set(found.parts)


def test_a_part_that_began_at_zero_is_undefined(pair: tuple[ViT, ViT]) -> None:
    before, after = (copy.deepcopy(model) for model in pair)
    torch.nn.init.zeros_(before.head.weight)
    found = before_after(after, before)
    assert np.isnan(found.change[found.parts.index("head")])
    assert "relative_weight_change,head,,undefined" in found.csv()


@pytest.mark.parametrize("lang", ["en", "fr", "ro"])
def test_draws(pair: tuple[ViT, ViT], lang: str) -> None:
    before, after = pair
    for given in ([], [images()]):
        svg = before_after(after, before, given).svg(lang)  # pyright: ignore[reportArgumentType]
        assert "blocks.1" in svg


def test_other_architectures_are_refused(pair: tuple[ViT, ViT]) -> None:
    with pytest.raises(RegardError, match="have different weights; give one model with two states"):
        before_after(pair[0], create_model("resnet20_32", 5))
