"""Mean attention distance: loops over pairs of patches, the arithmetic of uniform attention, windows, streaming."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.analysis.attention_distance import attention_distance, distances
from regard.analysis.passes import at_once
from regard.errors import RegardError
from regard.models import create_model
from regard.models.attending import EMPTY, attention_layers
from regard.models.clip import CLIP
from regard.models.deit import DistilledDeiT
from regard.models.dinov2 import DINOv2
from regard.models.swin import Swin
from regard.models.vit import ViT
from regard.taps import Tap, record


def vit(side: int | tuple[int, int] = 16) -> ViT:
    torch.manual_seed(1)
    return drawn(ViT(side, 4, 12, 2, 3, num_classes=3))


def drawn(model: nn.Module) -> nn.Module:
    """With weights so large that attention has structure."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=1.0)
    return model.eval()


def by_hand(model: nn.Module, images: Tensor) -> list[np.ndarray]:
    """Layer by layer (heads,): distances of each query from its scores, one number at a time in float64."""
    layers = attention_layers(model)
    names = [f"{layer.name}.{which}" for layer in layers for which in "qk"]
    with record(model, *names) as seen, torch.no_grad():
        model(images)
    found = []
    for layer in layers:
        q, k = (seen[f"{layer.name}.{which}"].double().numpy() for which in "qk")
        high, wide = (side / count for side, count in zip(images.shape[-2:], layer.grid, strict=True))
        patches = range(layer.prefix, layer.tokens)
        place = {p: divmod(p - layer.prefix, layer.grid[1]) for p in patches}
        heads = np.zeros(layer.num_heads)
        for b in range(len(images)):
            for h in range(layer.num_heads):
                for i in patches:
                    # The class row and column fall away, so the softmax over the patches alone is the renormalised row.
                    scores = [math.exp(float(q[b, h, i] @ k[b, h, j]) / math.sqrt(q.shape[-1])) for j in patches]
                    for j, score in zip(patches, scores, strict=True):
                        down, right = place[i][0] - place[j][0], place[i][1] - place[j][1]
                        heads[h] += score / sum(scores) * math.hypot(high * down, wide * right)
        found.append(heads / (len(images) * len(patches)))
    return found


@pytest.mark.parametrize(
    "model",
    [
        vit(),
        vit((12, 16)),
        drawn(ViT(16, 4, 12, 2, 3, num_classes=3, pool="mean")),
        drawn(DistilledDeiT(16, 4, 12, 2, 3, num_classes=3)),
        drawn(DINOv2(16, 4, 12, 2, 3, registers=2, num_classes=3)),
    ],
    ids=["class token", "not square", "mean pooling", "distilled", "registers"],
)
def test_equals_a_loop_over_all_pairs(model: ViT) -> None:
    sides = tuple(4 * count for count in model.grid)
    images = torch.randn(3, 3, *sides)
    found = attention_distance(model, images.split(2))
    assert found.images == 3
    for pixels, wanted in zip(found.pixels, by_hand(model, images), strict=True):
        np.testing.assert_allclose(pixels, wanted, rtol=1e-5)
    assert np.ptp(found.pixels[0]) > 0.1, "attention alike everywhere shows nothing"


@pytest.mark.parametrize("side", [16, 28])  # whole windows; filled-up ones
def test_windows_of_swin_equal_a_loop(side: int) -> None:
    torch.manual_seed(1)
    model = drawn(Swin(side, 2, 4, 12, (2, 2), (2, 3), num_classes=3))
    images = torch.randn(2, 3, side, side)
    layers = attention_layers(model)
    with record(model, *(f"{layer.name}.pattern" for layer in layers)) as seen, torch.no_grad():
        model(images)
    found = attention_distance(model, [images])
    for layer, pixels in zip(layers, found.pixels, strict=True):
        assert layer.windows is not None
        pattern = seen[f"{layer.name}.pattern"].double().unflatten(0, (2, -1))
        step, wanted = side / layer.grid[0], np.zeros(layer.num_heads)
        for w, window in enumerate(layer.windows.tolist()):
            tokens = [(place, *divmod(token, layer.grid[1])) for place, token in enumerate(window) if token != EMPTY]
            for place, row, column in tokens:
                near = np.array([step * math.hypot(row - r, column - c) for _, r, c in tokens])
                given = pattern[:, w, :, place][:, :, [p for p, _, _ in tokens]].numpy()
                wanted += (given @ near / given.sum(-1)).sum(0)
        np.testing.assert_allclose(pixels, wanted / (2 * layer.tokens), rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "patch", "with_self", "without", "largest"),
    [
        (14, 16, 116.4922, 117.0896, 294.1564),
        (7, 32, 115.5029, 117.9092, 271.5290),
        (24, 16, 200.0480, 200.3959, 520.4306),
        (16, 14, 116.5651, 117.0222, 296.9848),
    ],
)
def test_arithmetic_of_uniform_attention(
    side: int, patch: int, with_self: float, without: float, largest: float
) -> None:
    apart = distances((side, side), (patch, patch))
    count = side**2
    assert apart.mean().item() == pytest.approx(with_self, abs=5e-5)
    assert (apart.sum() / (count * (count - 1))).item() == pytest.approx(without, abs=5e-5)
    assert apart.max().item() == pytest.approx(largest, abs=5e-5)


def equal_scores(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if ".qkv." in name or "bias_table" in name or "_rel" in name:
            nn.init.zeros_(parameter)
    return model.eval()


@pytest.mark.parametrize(
    "model",
    [
        equal_scores(create_model("vit_tiny_patch16_224", 3)),
        equal_scores(Swin(28, 2, 4, 12, (2, 2), (2, 3), num_classes=3)),  # shifted, masked and filled-up windows
        equal_scores(create_model("botnet20_32", 3)),
    ],
    ids=["vit", "swin", "botnet"],
)
def test_equal_scores_lie_on_the_line(model: nn.Module) -> None:
    side = 224 if isinstance(model, ViT) else 28 if isinstance(model, Swin) else 32
    found = attention_distance(model, [torch.randn(1, 3, side, side)])
    for pixels, uniform in zip(found.pixels, found.uniform, strict=True):
        np.testing.assert_allclose(pixels, uniform, rtol=1e-5)
    if isinstance(model, ViT):
        assert found.uniform == pytest.approx([116.4922] * 12, abs=1e-4)
    if isinstance(model, Swin):
        assert max(found.uniform[:2]) < 6, "windows of 4 tokens see no further than their own pixels"


def test_is_the_same_in_other_batches_and_leaves_the_model_as_it_was() -> None:
    model, images = vit(), torch.randn(5, 3, 16, 16)
    model.train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]

    def one_by_one() -> Iterator[Tensor]:
        yield from images.split(1)

    single, together = attention_distance(model, one_by_one()), attention_distance(model, [images])
    for a, b in zip(single.pixels, together.pixels, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert modes == [module.training for module in model.modules()]
    assert not any(module.listening for module in model.modules() if isinstance(module, Tap))
    assert not any(module._forward_hooks for module in model.modules())


def test_the_image_tower_of_clip_is_looked_at() -> None:
    torch.manual_seed(1)
    clip, images = drawn(CLIP(16, 4, 12, 2, 3, 8, 12, 1, 3, 8, 20)), torch.randn(2, 3, 16, 16)
    whole, tower = attention_distance(clip, [images]), attention_distance(clip.get_submodule("visual"), [images])
    assert whole.layers == tuple(f"visual.{name}" for name in tower.layers)
    np.testing.assert_array_equal(whole.pixels, tower.pixels)


def test_large_patterns_pass_one_by_one() -> None:
    with torch.device("meta"):
        swin, small = create_model("swin_base_patch4_window12_384", 3), create_model("vit_nano_patch4_32", 3)
    assert at_once(attention_layers(swin)) == 1
    assert at_once(attention_layers(small)) > 1_000


def test_refuses_by_name() -> None:
    with pytest.raises(RegardError, match=r"attention_distance: ResNet has no attention.*ViT, DeiT.*Swin"):
        attention_distance(create_model("resnet20_32", 3), [torch.randn(1, 3, 32, 32)])
    with pytest.raises(RegardError, match="images: none were given"):
        attention_distance(vit(), [])
