from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from regard.analysis.inside import look_inside, prefix_names, shown_layers
from regard.errors import RegardError
from regard.models import create_model
from regard.models.attending import attention_layers
from regard.taps import record

MODELS = (
    "vit_nano_patch4_32",
    "vit_nano_patch4_32+pool=mean",
    "vit_nano_patch4_32+positions=none",
    "deit_nano_distilled_patch4_32",
    "vit_nano_patch4_reg4_dinov2_32",
    "vit_nano_r8_s4_32",
    "t2t_vit_nano_32",
    "swin_nano_patch2_window4_32",
    "pixel_transformer_8",
    "botnet20_32",
)


def lively(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model whose attention is not uniform, and an image."""
    torch.manual_seed(3)
    model = create_model(name, num_classes=7).eval()
    for layer in attention_layers(model):
        module = model.get_submodule(layer.name)
        with torch.no_grad():
            getattr(module, "qkv", getattr(module, "kqv", None)).weight.mul_(4)
    size = 8 if name.endswith("_8") else 32
    return model, torch.randn(1, 3, size, size)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_shown_is_what_record_sees(name: str) -> None:
    model, image = lively(name)
    found = look_inside(model, image, shown_layers(model, None))
    layers = attention_layers(model)
    with (
        torch.no_grad(),
        record(model, *(f"{layer.name}.{part}" for layer in layers for part in ("pattern", *"qkv"))) as seen,
    ):
        logits = model(image)
    np.testing.assert_allclose(found.logits, logits[0].numpy(), atol=1e-5)
    for number, (layer, shown) in enumerate(zip(layers, found.layers, strict=True)):
        assert (shown.number, shown.name, shown.grid, shown.prefix) == (number, layer.name, layer.grid, layer.prefix)
        pattern = seen[f"{layer.name}.pattern"].numpy()
        assert shown.pattern.error <= pattern.max() / 255 * 1.3
        np.testing.assert_allclose(shown.pattern.decoded(), pattern, atol=shown.pattern.error + 1e-6)
        for part in "qkv":
            coded = getattr(shown, part)
            true = seen[f"{layer.name}.{part}"].transpose(0, 1).numpy()
            assert coded.error <= np.abs(true).max() / (2 * int(np.abs(coded.values).max())) * 1.01
            np.testing.assert_allclose(coded.decoded(), true, atol=coded.error + 1e-5)
        if shown.scale is None:
            assert "attention1" in layer.name or "attention2" in layer.name
            continue
        assert softmax_error(shown, pattern) < 0.05 + 3 * shown.score_error


def softmax_error(shown, pattern: np.ndarray) -> float:
    """How much the pattern differs from the softmax of the page's scores, relative to each row's largest weight."""
    q, k = (getattr(shown, part).decoded().swapaxes(0, 1).astype(np.float64) for part in "qk")
    scores = shown.scale * q @ k.swapaxes(-1, -2)
    if shown.bias is not None:
        scores = scores + shown.bias.decoded()
    scores[pattern < 1e-30] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return float((np.abs(weights - pattern) / pattern.max(-1, keepdims=True)).max())


@pytest.mark.parametrize("name", MODELS)
def test_tokens_that_leave_blocks(name: str) -> None:
    model, image = lively(name)
    found = look_inside(model, image, shown_layers(model, None))
    for shown in found.layers:
        block = shown.name.removesuffix(".attn") if name != "botnet20_32" else shown.name.rpartition(".")[0]
        tap = block if name == "botnet20_32" else f"{block}.tokens"
        with torch.no_grad(), record(model, tap) as seen:
            model(image)
        tokens = seen[tap][0].double()
        tokens = tokens.flatten(1).T if tokens.ndim == 3 else tokens
        count = shown.out_prefix + shown.out_grid[0] * shown.out_grid[1]
        assert tokens.shape == (count, shown.width)
        np.testing.assert_allclose(shown.norms, tokens.norm(dim=1), rtol=1e-5)
        directions = nn.functional.normalize(tokens, dim=1)
        cosines = (directions @ directions.T).numpy()
        if shown.unit is None:
            assert shown.similarity is not None
            close = shown.similarity.decoded(), cosines[np.triu_indices(count)]
        else:
            unit = shown.unit.decoded()
            close = unit @ unit.T, cosines
        assert shown.similarity_error < 0.02
        np.testing.assert_allclose(*close, atol=shown.similarity_error + 1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_embedding_and_answers_by_depth(name: str) -> None:
    model, image = lively(name)
    found = look_inside(model, image, shown_layers(model, None))
    if name == "botnet20_32":
        assert found.embedding is None and found.depth is None
        return
    with torch.no_grad(), record(model, "embedded") as seen:
        logits = model(image)
    embedding = found.embedding
    assert embedding is not None and found.depth is not None
    total = embedding.content.decoded()
    assert (embedding.positions is None) == ("positions=none" in name or name.startswith("swin"))
    if embedding.positions is not None:
        total = total + embedding.positions.decoded()
    assert len(total) == embedding.prefix + embedding.grid[0] * embedding.grid[1]
    error = embedding.content.error + (embedding.positions.error if embedding.positions else 0)
    np.testing.assert_allclose(total, seen["embedded"][0], atol=error + 1e-5)
    np.testing.assert_allclose(found.depth[-1], logits[0], atol=1e-4)
    depth = len(found.layers)
    expected = {
        "swin_nano_patch2_window4_32": ("layer 4", "layer 5"),
        "t2t_vit_nano_32": ("embedding", *(f"layer {number}" for number in range(2, depth))),
    }
    assert found.depth_labels == expected.get(name, ("embedding", *(f"layer {number}" for number in range(depth))))


def test_the_model_is_left_as_it_was() -> None:
    model, image = lively("vit_nano_patch4_32")
    before = model(image)
    look_inside(model, image, shown_layers(model, [-1, 0]))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(image), before)


def test_some_layers() -> None:
    model, image = lively("vit_nano_patch4_32")
    found = look_inside(model, image, shown_layers(model, [-1, 0, 0]))
    assert [layer.number for layer in found.layers] == [0, 3]
    assert len(found.depth_labels) == 5
    calls = []
    look_inside(model, image, shown_layers(model, [1, 2]), lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_names_of_the_tokens_before_the_patches() -> None:
    assert prefix_names(create_model("deit_nano_distilled_patch4_32"), 2) == ("class token", "distillation token")
    assert prefix_names(create_model("vit_nano_patch4_reg4_dinov2_32"), 5)[::4] == ("class token", "register 4")
    assert prefix_names(create_model("swin_nano_patch2_window4_32"), 0) == ()


def test_refusals() -> None:
    model = create_model("vit_nano_patch4_32")
    with pytest.raises(RegardError, match=r"^layers: 4 is none; the model has 0 \(blocks.0.attn\) to 3$"):
        shown_layers(model, [4])
    with pytest.raises(RegardError, match=re.escape("`regard explain` shows where it looks")):
        shown_layers(create_model("resnet20_32"), None)
    with torch.device("meta"):
        large = create_model("vit_large_patch16_384")
    with pytest.raises(RegardError, match=r"128 million weights .* name about 6 of the layers 0 to 23 \(--layers\)"):
        shown_layers(large, None)
    assert len(shown_layers(large, [0, 23])) == 2
