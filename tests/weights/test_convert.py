"""Conversion of names: dialects are told apart, nothing is lost in silence, nothing given is changed.

That the converted weights compute the same is shown in tests/parity/test_weights.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models import create_model
from regard.weights import convert, detect_dialect, left_out

State = dict[str, Tensor]


def zeros(*names: str) -> State:
    return {name: torch.zeros(1) for name in names}


@pytest.mark.parametrize(
    ("dialect", "names"),
    [
        ("timm ViT", ["patch_embed.proj.weight", "cls_token"]),
        ("Hugging Face ViT", ["vit.embeddings.patch_embeddings.projection.weight"]),
        ("Hugging Face ViT", ["embeddings.patch_embeddings.projection.weight"]),
        (
            "Hugging Face DeiT",
            ["deit.embeddings.patch_embeddings.projection.weight", "deit.embeddings.distillation_token"],
        ),
        ("Hugging Face DeiT", ["embeddings.patch_embeddings.projection.weight", "embeddings.distillation_token"]),
        (
            "Hugging Face DINOv2",
            ["embeddings.patch_embeddings.projection.weight", "encoder.layer.0.layer_scale1.lambda1"],
        ),
        ("Meta DINOv2", ["patch_embed.proj.weight", "mask_token", "blocks.0.ls1.gamma"]),
        ("Meta DINOv2", ["patch_embed.proj.weight", "register_tokens", "blocks.0.ls1.gamma"]),
        ("timm ViT", ["patch_embed.proj.weight", "reg_token", "blocks.0.ls1.gamma"]),
        ("torchvision ViT", ["conv_proj.weight", "class_token"]),
        ("Google ViT", ["embedding/kernel", "cls"]),
        ("Google ViT", ["Transformer/encoder_norm/scale"]),
        ("torchvision ResNet", ["conv1.weight", "layer1.0.conv1.weight"]),
        ("", ["features.0.weight"]),
        ("", []),
    ],
)
def test_dialects_are_told_apart(dialect: str, names: list[str]) -> None:
    found = detect_dialect(names)
    assert (found.name if found else "") == dialect


@pytest.mark.parametrize(
    "architecture",
    ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2", "resnet18"],
)
def test_our_own_names_pass_unchanged_and_twice_is_once(architecture: str) -> None:
    with torch.device("meta"):
        state = create_model(architecture).state_dict()
    once = convert(state, architecture)
    assert list(once) == list(state)
    assert convert(once, architecture) == once
    assert not left_out(state)


def test_the_input_is_not_changed() -> None:
    given = zeros("conv_proj.weight", "class_token")
    before = dict(given)
    assert set(convert(given)) == {"patch_embed.proj.weight", "cls_token"}
    assert given == before


@pytest.mark.parametrize(
    ("marker", "names"),
    [
        ("patch_embed.proj.weight", ["pre_logits.fc.weight", "pre_logits.fc.bias"]),
        ("embeddings.patch_embeddings.projection.weight", ["pooler.dense.weight"]),
        ("vit.embeddings.patch_embeddings.projection.weight", ["vit.pooler.dense.weight"]),
        ("embedding/bias", ["Transformer/encoder_norm/scale", "pre_logits/kernel"]),
    ],
)
def test_the_pre_logits_layer_is_left_out_and_said(marker: str, names: list[str]) -> None:
    state = zeros(marker, *names)
    assert not any("pre_logits" in name or "pooler" in name for name in convert(state))
    (line,) = left_out(state)
    assert names[-1] in line


@pytest.mark.parametrize(
    "state",
    [
        zeros("vit.embeddings.patch_embeddings.projection.weight", "vit.decoder.weight"),
        zeros("conv_proj.weight", "encoder.layers.encoder_layer_0.adapter.weight"),
        zeros("embedding/bias", "Transformer/encoder_norm/scale", "MAPHead_0/probe"),
    ],
)
def test_a_name_without_a_place_is_an_error_that_names_it(state: State) -> None:
    name = list(state)[-1]
    with pytest.raises(RegardError, match=rf"^a\.bin: {name}: no part of a"):
        convert(state, path="a.bin")


def test_a_missing_part_of_q_k_v_is_named() -> None:
    layer = "vit.encoder.layer.0.attention.attention."
    state = zeros("vit.embeddings.patch_embeddings.projection.weight", f"{layer}query.bias", f"{layer}value.bias")
    with pytest.raises(RegardError, match=r"blocks\.0\.attn\.qkv\.bias: the weights lack its k part"):
        convert(state)


def test_a_kernel_of_the_wrong_rank_is_named() -> None:
    state = zeros("Transformer/encoder_norm/scale", "head/kernel")
    with pytest.raises(RegardError, match=r"head/kernel: shape \(1,\) found, 2 axes expected"):
        convert(state)


@pytest.mark.parametrize(
    ("architecture", "state"),
    [
        ("vit_tiny_patch16_224", zeros("conv1.weight", "layer1.0.conv1.weight")),
        ("resnet18", zeros("patch_embed.proj.weight")),
    ],
)
def test_the_other_family_is_an_error(architecture: str, state: State) -> None:
    with pytest.raises(RegardError, match=rf"a\.pth: weights of .*, but {architecture} is"):
        convert(state, architecture, "a.pth")
