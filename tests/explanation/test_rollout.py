"""Attention rollout against (T, T) matrices multiplied in loops, as the paper writes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from plain_attention import (
    MODELS,
    Matrix,
    backbone,
    discarded,
    patterns,
    plain_map,
    read_of,
    residual,
    stacked,
    times,
    tiny,
)
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.flow import discard_lowest
from regard.explanation.rollout import METHOD, rollout, rollout_rows
from regard.models import create_model
from regard.models.attending import AttentionLayer
from regard.models.clip import CLIP
from regard.taps import edit

LONG = pytest.mark.long
FUSE = {"mean": lambda heads: sum(heads) / len(heads), "max": max, "min": min}


def plain_matrices(model: nn.Module, images: Tensor, fusion: str, discard: float, first: int) -> list[Matrix]:
    """R_L of each image."""
    seen, layers = patterns(model, images), backbone(model)[first:]

    def fused(layer: AttentionLayer, image: int) -> Matrix:
        heads, size = seen[layer.name][image].tolist(), range(layer.tokens)
        matrix = [[FUSE[fusion]([head[i][j] for head in heads]) for j in size] for i in size]
        return residual(discarded(matrix, heads[0], discard, layer.prefix > 0))

    return [stacked(layers, {layer.name: fused(layer, image) for layer in layers}, times) for image in (0, 1)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("fusion", "discard", "first"), [("mean", 0.0, 0), ("max", 0.9, 0), ("min", 0.5, 1)])
def test_rollout_is_the_product_of_matrices(name: str, fusion: str, discard: float, first: int) -> None:
    model, images, _ = tiny(name)
    options = {"fusion": fusion, "discard": discard, "first": first}
    maps = rollout(model, images, **options)
    layers = backbone(model)
    assert maps.shape == (2, *layers[first].grid) and maps.dtype == torch.float32
    wanted = [
        plain_map(matrix, read_of(name, layers[-1].tokens), layers[first])
        for matrix in plain_matrices(model, images, **options)
    ]
    assert torch.stack(wanted).std() > 1e-4
    torch.testing.assert_close(maps.double(), torch.stack(wanted), rtol=2e-7, atol=1e-12)  # float32


@pytest.mark.parametrize("name", ["token", "swin filled"])
def test_rows_of_any_tokens(name: str) -> None:
    model, images, _ = tiny(name)
    rows = torch.eye(backbone(model)[-1].tokens)[[1, 3]]
    found = rollout_rows(model, images, rows)
    wanted = torch.tensor(plain_matrices(model, images, "mean", 0.0, 0), dtype=torch.float64)[:, [1, 3]]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, dtype=torch.float64))  # rows stay distributions


def test_published_counts_of_what_is_discarded() -> None:
    """Of 197 x 197 entries at 0.9 the lowest int(34,928.1), and of those not the class token's attention to itself."""
    layer = AttentionLayer("layer", (14, 14), 1, 1)
    matrix = torch.rand(2, 197, 197, generator=torch.Generator().manual_seed(0)) + 0.1
    matrix[:, 0, 0] = torch.tensor([2.0, 0.01])
    kept = discard_lowest(matrix, layer, 0.9, keep_class=True)
    assert [int((one == 0).sum()) for one in kept] == [34_928, 34_927]
    assert torch.equal(kept[1, 0, 0], matrix[1, 0, 0])
    assert (discard_lowest(matrix, layer, 0.9, keep_class=False) == 0).sum() == 2 * 34_928


@pytest.mark.parametrize("name", ["token", "swin filled"])
def test_images_do_not_meet_in_a_batch(name: str) -> None:
    model, images, _ = tiny(name)
    together = rollout(model, images, fusion="max", discard=0.9)
    for number in range(2):
        alone = rollout(model, images[number : number + 1], fusion="max", discard=0.9)
        torch.testing.assert_close(together[number : number + 1], alone)


def test_without_attention_between_tokens_each_keeps_its_own() -> None:
    model, images, _ = tiny("mean")
    rows = torch.eye(6)
    with edit(model, {"blocks.*.attn.pattern": lambda p: torch.eye(6, dtype=p.dtype).expand_as(p)}):
        found = rollout_rows(model, images, rows)
    torch.testing.assert_close(found, rows.double().expand(2, 6, 6))


def test_the_image_tower_of_clip_is_asked_without_texts() -> None:
    torch.manual_seed(0)
    model = CLIP(16, 4, 8, 2, 2, 8, text_width=8, text_depth=1, text_heads=2, vocabulary=9).eval()
    images = torch.randn(2, 3, 16, 16)
    assert METHOD.refusal(model) is None
    assert torch.equal(rollout(model, images), rollout(model.visual, images))


def test_a_bfloat16_model_gives_about_the_same_map() -> None:
    model, images, _ = tiny("token")
    wanted = rollout(model, images)
    found = rollout(model.bfloat16(), images.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.005)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(rollout(model.float(), images.float()), wanted, rtol=0.05, atol=0.005)


@pytest.mark.parametrize(
    ("name", "count"),
    [("vit_tiny_patch16_224", 1), ("vit_tiny_patch16_224", 3), pytest.param("vit_base_patch16_224", 2, marks=LONG)],
)
def test_it_needs_little_more_memory_than_the_fused_pass(
    name: str, count: int, peak_bytes: Callable[[Callable[[], object]], int]
) -> None:
    """Of each of 12 layers a (197, 197) of float32 is kept, 1.86 MB; patterns come and go within the pass."""
    model, images = create_model(name, 3).eval(), torch.randn(count, 3, 224, 224)
    with torch.no_grad():
        fused = peak_bytes(lambda: model(images))
    assert peak_bytes(lambda: rollout(model, images)) - fused <= 2.5e6 * count


def test_what_cannot_be_asked() -> None:
    model, images, _ = tiny("token")
    for wrong in ({"fusion": "sum"}, {"discard": 1.0}, {"discard": -0.1}, {"first": 3}, {"first": -1}):
        with pytest.raises(RegardError, match=f"{next(iter(wrong))}=.*(expected|has layers 0 to 2)"):
            rollout(model, images, **wrong)
    with pytest.raises(RegardError, match=r"rows: have shape \(7,\); expected \(R, 7\)"):
        rollout_rows(model, images, torch.ones(7))
    with pytest.raises(RegardError, match="is compiled or exported"):
        rollout(torch.compile(model, backend="eager"), images)
    with pytest.raises(RegardError, match=r"rollout\+fusion=sum: expected one of mean, max, min"):
        METHOD.chosen(["fusion=sum"])
    cnn = create_model("resnet20_32", 3).eval()
    assert "gradcam" in str(METHOD.refusal(cnn)) and "attention of single" not in str(METHOD.refusal(cnn))
    assert "attention of single layers" in str(METHOD.refusal(create_model("botnet20_32", 3)))
    with pytest.raises(RegardError, match="rollout and relevance are not defined"):
        rollout(cnn, images)


def test_the_method_costs_a_pass() -> None:
    model, images, classes = tiny("token")
    chosen = METHOD.chosen(["fusion=max", "discard=0.5"])
    assert tuple(chosen.passes(model, images)) == (1, 0)
    assert torch.equal(chosen.explain(model, images, classes), rollout(model, images, fusion="max", discard=0.5))
