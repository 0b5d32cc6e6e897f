"""Names of Swin's publishers. That the converted weights compute the same is shown in tests/parity/test_swin.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models import create_model, reset_head
from regard.models.swin import TABLE
from regard.weights import convert, detect_dialect, left_out, load_state

HF = "swin.encoder.layers.0.blocks.0.attention."


def zeros(*names: str) -> dict[str, Tensor]:
    return {name: torch.zeros(1) for name in names}


@pytest.mark.parametrize(
    ("dialect", "names"),
    [
        ("timm Swin", ["patch_embed.proj.weight", f"layers.0.blocks.0.attn.{TABLE}"]),
        ("torchvision Swin", ["features.0.0.weight", f"features.1.0.attn.{TABLE}", "head.weight"]),
        ("Hugging Face Swin", [f"{HF}self.{TABLE}"]),
        ("Hugging Face Swin", [f"{HF.removeprefix('swin.')}relative_position_bias.{TABLE}"]),
    ],
)
def test_dialects_are_told_apart(dialect: str, names: list[str]) -> None:
    found = detect_dialect(names)
    assert found is not None and found.name == dialect


def test_our_own_names_pass_unchanged() -> None:
    with torch.device("meta"):
        state = create_model("swin_tiny_patch4_window7_224").state_dict()
    assert list(convert(state, "swin_tiny_patch4_window7_224")) == list(state)
    assert not left_out(state)


def test_the_authors_merging_moves_to_the_next_stage() -> None:
    state = zeros(f"layers.0.blocks.0.attn.{TABLE}", "layers.0.downsample.norm.weight", "layers.2.downsample.norm.bias")
    assert list(convert(state))[1:] == ["layers.1.downsample.norm.weight", "layers.3.downsample.norm.bias"]


def test_buffers_are_left_out_and_said_once() -> None:
    index = [f"layers.{s}.blocks.{b}.attn.relative_position_index" for s in range(4) for b in range(2)]
    state = zeros(f"layers.0.blocks.0.attn.{TABLE}", *index, "layers.0.blocks.1.attn_mask")
    assert list(convert(state)) == [f"layers.0.blocks.0.attn.{TABLE}"]
    (line,) = left_out(state)
    assert line.count("relative_position_index") == line.count("layers.*.blocks.*.attn_mask") == 1


@pytest.mark.parametrize(
    "state",
    [
        zeros(f"features.1.0.attn.{TABLE}", "features.1.0.attn.logit_scale"),
        zeros(f"{HF}self.{TABLE}", "swin.embeddings.mask_token"),
    ],
)
def test_a_name_without_a_place_is_an_error_that_names_it(state: dict[str, Tensor]) -> None:
    with pytest.raises(RegardError, match=rf"^a\.bin: {list(state)[-1]}: no part of a .* Swin bears this name"):
        convert(state, path="a.bin")


def test_a_missing_part_of_q_k_v_is_named() -> None:
    with pytest.raises(RegardError, match=r"layers\.0\.blocks\.0\.attn\.qkv\.bias: the weights lack its k and v part"):
        convert(zeros(f"{HF}self.{TABLE}", f"{HF}self.query.bias"))


def test_another_family_and_another_size_are_told() -> None:
    model = create_model("swin_nano_patch2_window4_32", num_classes=3)
    state = model.state_dict()
    with pytest.raises(RegardError, match=r"weights of a timm Swin, but resnet18 is of the family resnet"):
        convert(state, "resnet18")
    reset_head(model, 5)
    with pytest.raises(RegardError, match=r"they fit swin_nano_patch2_window4_32$"):
        load_state(create_model("vit_nano_patch4_32", num_classes=3, img_size=32, force=True), state)
