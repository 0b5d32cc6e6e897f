"""Attention of the class token: from scores by hand; the mean and a patch in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from regard.analysis.class_attention import class_attention
from regard.errors import RegardError
from regard.models import create_model
from regard.models.attending import attention_layers
from regard.models.dinov2 import DINOv2
from regard.taps import record


def rows_by_hand(model: nn.Module, images: torch.Tensor, layer: str, query: int) -> np.ndarray:
    """(heads, T) float64: the softmax of one query's scores."""
    with record(model, f"{layer}.q", f"{layer}.k") as seen, torch.no_grad():
        model(images[:1])
    q, k = (seen[f"{layer}.{which}"][0].double().numpy() for which in "qk")
    scores = np.exp([[q[h, query] @ key / np.sqrt(q.shape[-1]) for key in k[h]] for h in range(len(q))])
    return scores / scores.sum(1, keepdims=True)


def test_rows_of_the_class_token_and_of_a_patch() -> None:
    torch.manual_seed(1)
    model = DINOv2((12, 16), 4, 12, 2, 3, registers=2, num_classes=3).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    images = torch.randn(2, 3, 12, 16)
    found = class_attention(model, [images])
    other = class_attention(model, [images], patch=(2, 1))
    assert found.queries == ("class", "class")
    assert other.queries == ("patch", "patch")
    for number, layer in enumerate(found.layers):
        wanted = rows_by_hand(model, images, layer, 0)[:, 3:].reshape(3, 3, 4)
        np.testing.assert_allclose(found.maps[number], wanted, rtol=1e-4)
        wanted = rows_by_hand(model, images, layer, 3 + 2 * 4 + 1)[:, 3:].reshape(3, 3, 4)
        np.testing.assert_allclose(other.maps[number], wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "queries"),
    [
        ("vit_nano_patch4_32+pool=mean", ("mean",) * 4),
        ("swin_nano_patch2_window4_32", ("mean",) * 6),
        ("t2t_vit_nano_32", ("mean", "mean", "class", "class", "class", "class")),
        ("botnet20_32", ("mean",) * 3),
    ],
)
def test_layers_without_a_class_token_show_the_mean(name: str, queries: tuple[str, ...]) -> None:
    torch.manual_seed(1)
    model, images = create_model(name, 3).eval(), torch.randn(1, 3, 32, 32)
    found = class_attention(model, [images])
    assert found.queries == queries
    layers = attention_layers(model)
    with record(model, *(f"{layer.name}.pattern" for layer in layers)) as seen, torch.no_grad():
        model(images)
    for layer, maps, query in zip(layers, found.maps, queries, strict=True):
        whole = layer.whole(seen[f"{layer.name}.pattern"])[0].double().numpy()
        if query == "mean":
            np.testing.assert_allclose(maps.reshape(len(maps), -1), whole.sum(1) / layer.tokens, rtol=1e-4)
            np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-5)


def test_a_patch_is_found_again_on_finer_grids() -> None:
    model, images = create_model("swin_nano_patch2_window4_32", 3).eval(), torch.randn(1, 3, 32, 32)
    found = class_attention(model, [images], patch=(3, 0))  # of the last stage's 4 x 4
    layer = attention_layers(model)[0]  # 16 x 16: the token in the middle of that patch is (14, 2)
    with record(model, f"{layer.name}.pattern") as seen, torch.no_grad():
        model(images)
    whole = layer.whole(seen[f"{layer.name}.pattern"])[0, :, 14 * 16 + 2]
    np.testing.assert_allclose(found.maps[0].reshape(len(whole), -1), whole)


def test_refusals() -> None:
    images = torch.randn(1, 3, 32, 32)
    with pytest.raises(RegardError, match=r"patch=\(8, 0\): expected a row from 0 to 7 and a column from 0 to 7"):
        class_attention(create_model("vit_nano_patch4_32", 3), [images], patch=(8, 0))
    with pytest.raises(RegardError, match="class_attention: ResNet has no attention"):
        class_attention(create_model("resnet20_32", 3), [images])
