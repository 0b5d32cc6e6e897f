"""Names of the hybrid's publishers. That the weights compute the same is shown in tests/parity/test_hybrid.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models import create_model
from regard.weights import convert, detect_dialect, left_out, load_state


def zeros(*names: str) -> dict[str, Tensor]:
    return {name: torch.zeros(1) for name in names}


@pytest.mark.parametrize(
    ("dialect", "names"),
    [
        ("timm hybrid ViT", ["patch_embed.proj.weight", "patch_embed.backbone.stem.conv.weight", "cls_token"]),
        ("Google hybrid ViT", ["embedding/kernel", "conv_root/kernel", "Transformer/encoder_norm/scale"]),
    ],
)
def test_dialects_are_told_apart(dialect: str, names: list[str]) -> None:
    found = detect_dialect(names)
    assert found is not None and found.name == dialect


def test_our_own_names_pass_unchanged() -> None:
    with torch.device("meta"):
        state = create_model("vit_small_r26_s32_224").state_dict()
    assert list(convert(state, "vit_small_r26_s32_224")) == list(state)
    assert not left_out(state)


@pytest.mark.parametrize("name", ["block1/unit1/conv4/kernel", "block1/unit1/conv1/bias", "gn_root/mean"])
def test_a_name_without_a_place_is_an_error_that_names_it(name: str) -> None:
    state = {"conv_root/kernel": torch.zeros(7, 7, 3, 64), name: torch.zeros(1)}
    with pytest.raises(RegardError, match=rf"^a\.npz: {name}: no part of a Google hybrid ViT bears this name"):
        convert(state, path="a.npz")


def test_a_kernel_of_the_wrong_rank_is_named() -> None:
    with pytest.raises(RegardError, match=r"conv_root/kernel: shape \(1,\) found, 4 axes expected"):
        convert(zeros("conv_root/kernel"))


def test_another_family_is_told_and_the_fitting_model_is_named() -> None:
    state = create_model("vit_nano_r8_s4_32", num_classes=3).state_dict()
    with pytest.raises(
        RegardError, match=r"weights of a timm hybrid ViT, but vit_nano_patch4_32 is of the family vit;"
    ):
        convert(state, "vit_nano_patch4_32")
    with pytest.raises(RegardError, match=r"the model has no patch_embed\.backbone.*they fit vit_nano_r8_s4_32$"):
        load_state(create_model("vit_nano_patch4_32", num_classes=3), state)
