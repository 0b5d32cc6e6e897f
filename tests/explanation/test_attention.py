"""The attention of one layer against sums over its pattern."""

from __future__ import annotations

import pytest
import torch
from plain_attention import MODELS, patterns, read_of, tiny

from regard.errors import RegardError
from regard.explanation.attention import METHOD, attention
from regard.models import create_model, list_models, model_spec
from regard.models.attending import attention_layers


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("head", ["mean", 1])
def test_each_layer_and_head(name: str, head: str | int) -> None:
    model, images, _ = tiny(name)
    seen = patterns(model, images)
    for number, layer in enumerate(attention_layers(model)):
        if layer.num_heads == 1 and head == 1:  # the token transformers of T2T
            continue
        found = attention(model, images, layer=number, head=head).tolist()
        read = read_of(name, layer.tokens) if layer.prefix else [1 / layer.tokens] * layer.tokens
        heads = range(layer.num_heads) if head == "mean" else [head]
        for image, maps in enumerate(seen[layer.name].tolist()):
            for y in range(layer.grid[0]):
                for x in range(layer.grid[1]):
                    key = layer.prefix + y * layer.grid[1] + x
                    looked = [sum(weight * maps[h][query][key] for query, weight in enumerate(read)) for h in heads]
                    assert found[image][y][x] == pytest.approx(sum(looked) / len(looked), rel=1e-6, abs=1e-9)
    assert torch.equal(attention(model, images), attention(model, images, layer=len(seen) - 1))


def test_attention_in_the_place_of_convolutions() -> None:
    torch.manual_seed(0)
    model, images = create_model("botnet20_32", 3).eval(), torch.randn(2, 3, 32, 32)
    (name, pattern), *_ = patterns(model, images).items()
    found = attention(model, images, layer=0, head="2")
    assert attention_layers(model)[0].name == name
    torch.testing.assert_close(found.flatten(1), pattern[:, 2].mean(1))


def test_bfloat16() -> None:
    model, images, _ = tiny("token")
    wanted = attention(model, images)
    found = attention(model.bfloat16(), images.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.005)


def test_what_does_not_exist_is_named_with_what_does() -> None:
    model, images, _ = tiny("token")
    with pytest.raises(
        RegardError, match=r"layer=3: no such layer; ViT has 0 \(blocks.0.attn\) to 2 \(blocks.2.attn\)"
    ):
        attention(model, images, layer=3)
    for head in (2, -1, "2", "all"):
        with pytest.raises(RegardError, match=rf"head={head}: no such head; blocks.2.attn has 0 to 1, or mean of all"):
            attention(model, images, head=head)


def test_every_model_is_answered_or_refused_by_name() -> None:
    for name in list_models("*_32"):
        if model_spec(name).task != "classify":
            continue
        with torch.device("meta"):
            model = create_model(name, 3).eval()
        refusal = METHOD.refusal(model)
        assert (refusal is None) == bool(attention_layers(model))
        if refusal is not None:
            assert "gradcam, integrated_gradients and occlusion are" in refusal
            with pytest.raises(RegardError, match="attention is not defined"):
                attention(model, torch.zeros(1, 3, 32, 32, device="meta"))
