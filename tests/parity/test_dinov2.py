"""Ours against timm, Hugging Face and Meta's names: max |difference| <= 1e-5 max |reference| in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peers import assert_equal_gradients, assert_parity, shake
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from regard.errors import RegardError
from regard.layers.patch import image_sides
from regard.models.dinov2 import DINOv2
from regard.weights import load_state

timm = pytest.importorskip("timm")
SIZES: dict[str, Any] = {"patch_size": 14, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 11}
NAMES = {0: "vit_small_patch14_dinov2", 4: "vit_small_patch14_reg4_dinov2"}


def tiny(registers: int, img_size: int | tuple[int, int] = 56, **changes: Any) -> DINOv2:
    return DINOv2(img_size=img_size, registers=registers, **(SIZES | changes)).eval()


def of_timm(registers: int, img_size: int | tuple[int, int] = 56) -> nn.Module:
    return shake(timm.create_model(NAMES[registers], img_size=img_size, **SIZES)).eval()


@pytest.mark.parametrize("registers", NAMES)
@pytest.mark.parametrize("img_size", [56, (42, 56)])
def test_logits_tokens_and_gradients_are_timms(registers: int, img_size: int | tuple[int, int]) -> None:
    theirs, ours = of_timm(registers, img_size), tiny(registers, img_size)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, labels = torch.randn(3, 3, *image_sides(img_size)), torch.arange(3)
    for model in (ours, theirs):
        cross_entropy(model(x), labels).backward()
    assert_equal_gradients(ours, theirs)
    with torch.no_grad():
        assert_parity(ours(x), theirs(x))
        assert_parity(ours.features(x).tokens, theirs.forward_features(x))  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("registers", NAMES)
@pytest.mark.parametrize("img_size", [84, (28, 70)])
@torch.no_grad()
def test_weights_for_one_image_size_work_at_another_as_in_timm(registers: int, img_size: int | tuple[int, int]) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = of_timm(registers).state_dict()
    theirs = timm.create_model(NAMES[registers], img_size=img_size, **SIZES).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    ours = tiny(registers, img_size)
    (line,) = load_state(ours, state)
    assert line.startswith("position embedding resampled from 4x4 to ")
    x = torch.randn(2, 3, *image_sides(img_size))
    assert_parity(ours(x), theirs(x))


# --- Hugging Face -----------------------------------------------------------------------------------------


def of_transformers(registers: int, classifier: bool = False) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    family, extra = ("Dinov2WithRegisters", {"num_register_tokens": registers}) if registers else ("Dinov2", {})
    config = getattr(transformers, f"{family}Config")(
        image_size=56, patch_size=14, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_labels=11, **extra
    )
    kind = "ForImageClassification" if classifier else "Model"
    return shake(getattr(transformers, f"{family}{kind}")(config)).eval()


def until_transformers_4(name: str) -> str:
    """The names that published files bear: those of before transformers 5."""
    for now, before in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        name = name.replace(f"attention.{now}", f"attention.attention.{before}")
    return name.replace("attention.o_proj", "attention.output.dense")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("registers", NAMES)
@torch.no_grad()
def test_hugging_faces_tokens(registers: int, old: bool) -> None:
    theirs, ours = of_transformers(registers), tiny(registers, num_classes=0)
    state = {until_transformers_4(key) if old else key: tensor for key, tensor in theirs.state_dict().items()}
    assert (state.keys() != theirs.state_dict().keys()) == old
    (line,) = load_state(ours, state)
    assert line.startswith("left out embeddings.mask_token: ")
    x = torch.randn(2, 3, 56, 56)
    assert_parity(ours.features(x).tokens, theirs(x).last_hidden_state)
    assert_parity(ours(x), theirs(x).pooler_output)


@pytest.mark.parametrize("registers", NAMES)
def test_hugging_faces_classifier_reads_twice_the_width_and_is_left_out_aloud(registers: int) -> None:
    state = of_transformers(registers, classifier=True).state_dict()
    assert state["classifier.weight"].shape == (11, 2 * 48)
    said = load_state(tiny(registers, num_classes=5), state, num_classes=5)
    assert "classifier.weight" in said[0] and "a fresh head of 5 classes" in said[1]


# --- Meta -------------------------------------------------------------------------------------------------


def of_meta(registers: int) -> tuple[dict[str, Tensor], nn.Module]:
    """Weights as Meta's files name them, made from Hugging Face's, whose model is the reference."""
    theirs = of_transformers(registers)
    state: dict[str, Tensor] = {}
    for name, tensor in theirs.state_dict().items():
        name = name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        name = name.replace("embeddings.position_embeddings", "pos_embed").removeprefix("embeddings.")
        name = name.replace("encoder.layer.", "blocks.").replace("layernorm.", "norm.")
        name = name.replace("layer_scale", "ls").replace("lambda1", "gamma").replace("attention.o_proj", "attn.proj")
        state[name] = tensor
    for block in range(3):
        for part in ("weight", "bias"):
            parts = [state.pop(f"blocks.{block}.attention.{letter}_proj.{part}") for letter in "qkv"]
            state[f"blocks.{block}.attn.qkv.{part}"] = torch.cat(parts)
    return state, theirs


@pytest.mark.parametrize("registers", NAMES)
@torch.no_grad()
def test_metas_files(registers: int) -> None:
    state, theirs = of_meta(registers)
    assert {"mask_token", "cls_token", "pos_embed", "blocks.0.ls1.gamma", "norm.weight"} <= state.keys()
    assert state["pos_embed"].shape == (1, 17, 48)
    ours = tiny(registers, num_classes=0)
    (line,) = load_state(ours, state)
    assert line.startswith("left out mask_token: ")
    x = torch.randn(2, 3, 56, 56)
    assert_parity(ours.features(x).tokens, theirs(x).last_hidden_state)


@pytest.mark.parametrize("registers", NAMES)
@torch.no_grad()
def test_metas_converted_files_are_those_that_timm_makes_of_them(registers: int) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    state, _ = of_meta(registers)
    theirs = timm.create_model(NAMES[registers], img_size=56, **(SIZES | {"num_classes": 0}))
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    ours = tiny(registers, num_classes=0)
    load_state(ours, state)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_registers_are_not_lost_in_a_model_without_them() -> None:
    state, _ = of_meta(4)
    with pytest.raises(RegardError, match=r"w\.pth: .*the model has no reg_token"):
        load_state(tiny(0, num_classes=0), state, "w.pth")
