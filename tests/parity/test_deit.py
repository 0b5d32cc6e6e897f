"""Ours against timm and Hugging Face with the same weights: max |difference| <= 1e-5 max |reference| in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peers import assert_equal_gradients, assert_parity, shake
from torch import nn
from torch.nn.functional import cross_entropy

from regard.layers.patch import image_sides
from regard.models import Heads
from regard.models.deit import DistilledDeiT
from regard.models.vit import ViT
from regard.weights import load_state

timm = pytest.importorskip("timm")
SIZES: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 11}
DISTILLED = "deit_tiny_distilled_patch16_224"


@pytest.mark.parametrize("img_size", [32, 48, (24, 48)])
def test_the_distilled_one_is_timms_in_evaluation_and_in_training(img_size: int | tuple[int, int]) -> None:
    theirs = shake(timm.create_model(DISTILLED, img_size=img_size, **SIZES)).eval()
    ours = DistilledDeiT(img_size=img_size, **SIZES).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, labels = torch.randn(4, 3, *image_sides(img_size)), torch.arange(4)
    with torch.no_grad():
        assert_parity(ours(x), theirs(x))
        features = ours.features(x)
        assert_parity(features.tokens, theirs.forward_features(x))  # pyright: ignore[reportCallIssue]
        assert_parity(features.pooled, theirs.forward_head(features.tokens, pre_logits=True))  # pyright: ignore[reportCallIssue]
    theirs.train().set_distilled_training(True)  # pyright: ignore[reportCallIssue]
    answer, (logits, distilled) = ours.train()(x), theirs(x)
    assert isinstance(answer, Heads)
    assert_parity(answer.logits, logits)
    assert_parity(answer.others[0], distilled)
    (cross_entropy(answer.logits, labels) + cross_entropy(answer.others[0], labels.flip(0))).backward()
    (cross_entropy(logits, labels) + cross_entropy(distilled, labels.flip(0))).backward()
    assert_equal_gradients(ours, theirs)


def test_the_plain_one_is_timms() -> None:
    theirs = shake(timm.create_model("deit_tiny_patch16_224", img_size=32, **SIZES)).eval()
    ours = ViT(img_size=32, **SIZES).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    for model in (ours, theirs):
        cross_entropy(model(x), labels).backward()
    assert_parity(ours(x), theirs(x))
    assert_equal_gradients(ours, theirs)


@pytest.mark.parametrize("img_size", [48, (24, 48)])
@torch.no_grad()
def test_two_rows_of_positions_are_kept_at_another_image_size_as_in_timm(img_size: int | tuple[int, int]) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = shake(timm.create_model(DISTILLED, img_size=32, **SIZES)).state_dict()
    theirs = timm.create_model(DISTILLED, img_size=img_size, **SIZES).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    ours = DistilledDeiT(img_size=img_size, **SIZES).eval()
    (line,) = load_state(ours, state)
    assert line.startswith("position embedding resampled from 4x4 to ")
    assert torch.equal(ours.pos_embed[:, :2], state["pos_embed"][:, :2])
    x = torch.randn(2, 3, *image_sides(img_size))
    assert_parity(ours(x), theirs(x))


# --- Hugging Face -----------------------------------------------------------------------------------------


def of_transformers(name: str) -> nn.Module:
    """A tiny DeiT of that class with our norm's epsilon: theirs is 1e-12 by default."""
    transformers = pytest.importorskip("transformers")
    config = transformers.DeiTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        num_labels=11,
        layer_norm_eps=1e-6,
    )
    return shake(getattr(transformers, name)(config)).eval()


def until_transformers_4(name: str) -> str:
    """The names that published files bear: those of before transformers 5."""
    for now, before in (
        (".layers.", ".encoder.layer."),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        name = name.replace(now, before)
    return name


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["DeiTForImageClassificationWithTeacher", "DeiTForImageClassification"])
@torch.no_grad()
def test_hugging_faces_logits(name: str, old: bool) -> None:
    theirs, ours = of_transformers(name), DistilledDeiT(img_size=32, **SIZES).eval()
    state = {until_transformers_4(key) if old else key: tensor for key, tensor in theirs.state_dict().items()}
    assert (state.keys() != theirs.state_dict().keys()) == old
    assert load_state(ours, state) == []
    x = torch.randn(2, 3, 32, 32)
    assert_parity(ours(x), theirs(x).logits)


@torch.no_grad()
def test_hugging_faces_body_loads_without_its_pooler() -> None:
    theirs, ours = of_transformers("DeiTModel"), DistilledDeiT(img_size=32, **(SIZES | {"num_classes": 0})).eval()
    (line,) = load_state(ours, theirs.state_dict())
    assert "pooler.dense.weight" in line
    x = torch.randn(2, 3, 32, 32)
    assert_parity(ours.features(x).tokens, theirs(x).last_hidden_state)
