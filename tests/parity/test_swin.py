"""Swin against timm, torchvision and transformers with the same weights, through our converters."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from peers import assert_equal_gradients, assert_parity, shake
from torch import Tensor, nn

from regard.models.swin import Swin, offset_index, resize_table, shift_mask
from regard.weights import load_state, read_state

timm = pytest.importorskip("timm")

TIMM = "swin_tiny_patch4_window7_224"
SIZES = {"patch_size": 2, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def timm_swin(img_size: int | tuple[int, int], **sizes: object) -> nn.Module:
    return shake(timm.create_model(TIMM, img_size=img_size, **{**SIZES, **sizes})).eval()


def authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names as the published files have them, buffers included."""
    out = {}
    for name, tensor in state.items():
        name = re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
        out[name.replace("head.fc.", "head.")] = tensor
    for stage, side in enumerate((16, 8)):
        for block in range(2):
            out[f"layers.{stage}.blocks.{block}.attn.relative_position_index"] = offset_index((4, 4))
        out[f"layers.{stage}.blocks.1.attn_mask"] = shift_mask((side, side), (4, 4), (2, 2))
    return out


# Whole windows; a stage of one window; windows that do not divide the grid; an odd grid; sides that differ.
@pytest.mark.parametrize("img_size", [32, 16, 40, 36, 18, (16, 40)])
@torch.no_grad()
def test_logits_and_tokens_are_timms(img_size: int | tuple[int, int]) -> None:
    theirs = timm_swin(img_size)
    ours = Swin(img_size, **SIZES).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, *((img_size, img_size) if isinstance(img_size, int) else img_size))
    assert_parity(ours(images), theirs(images))
    features = ours.features(images)
    maps = theirs.forward_features(images)  # pyright: ignore[reportCallIssue]
    assert maps.shape[1:3] == features.grid
    assert_parity(features.tokens, maps.flatten(1, 2))
    assert_parity(features.pooled, theirs.forward_head(maps, pre_logits=True))  # pyright: ignore[reportCallIssue]


def test_gradients_are_timms() -> None:
    theirs = timm_swin(32)
    ours = Swin(32, **SIZES).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    for model in (ours, theirs):
        nn.functional.cross_entropy(model(images), labels).backward()
    assert_equal_gradients(ours, theirs)


@torch.no_grad()
def test_the_authors_file(tmp_path: Path) -> None:
    theirs = timm_swin(32)
    torch.save({"model": authors(theirs.state_dict())}, tmp_path / "swin.pth")
    ours, images = Swin(32, **SIZES).eval(), torch.randn(2, 3, 32, 32)
    (line,) = load_state(ours, read_state(tmp_path / "swin.pth"), "swin.pth")
    assert "layers.*.blocks.*.attn.relative_position_index, layers.*.blocks.*.attn_mask" in line
    assert_parity(ours(images), theirs(images))


@torch.no_grad()
def test_torchvision(tmp_path: Path) -> None:
    from torchvision.models import SwinTransformer

    theirs = shake(SwinTransformer([2, 2], 24, [2, 2], [2, 4], [4, 4], num_classes=5)).eval()
    torch.save(theirs.state_dict(), tmp_path / "swin.pth")
    ours, images = Swin(32, **SIZES).eval(), torch.randn(2, 3, 32, 32)
    (line,) = load_state(ours, read_state(tmp_path / "swin.pth"), "swin.pth")
    assert "features.*.*.attn.relative_position_index" in line
    assert_parity(ours(images), theirs(images))


def hugging_face() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, window_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], num_labels=5
    )
    return shake(transformers.SwinForImageClassification(config)).eval()


@torch.no_grad()
def test_hugging_face(tmp_path: Path) -> None:
    theirs = hugging_face()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    ours, images = Swin(32, **SIZES).eval(), torch.randn(2, 3, 32, 32)
    assert load_state(ours, read_state(tmp_path / "pytorch_model.bin")) == []
    assert_parity(ours(images), theirs(images).logits)


def test_hugging_face_names_of_before_transformers_5() -> None:
    new = hugging_face().state_dict()
    old = {}
    for name, tensor in new.items():
        for part, former in (
            ("attention.q_proj", "attention.self.query"),
            ("attention.k_proj", "attention.self.key"),
            ("attention.v_proj", "attention.self.value"),
            ("attention.relative_position_bias.", "attention.self."),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            name = name.replace(part, former)
        old[name] = tensor
    old["swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = offset_index((4, 4))
    a, b = Swin(32, **SIZES), Swin(32, **SIZES)
    (line,) = load_state(a, old)
    assert "relative_position_index" in line
    load_state(b, new)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(("old", "window"), [(7, (4, 4)), (7, (12, 12)), (12, (7, 7)), (4, (2, 4)), (7, (1, 1))])
def test_tables_of_other_windows_are_timms(old: int, window: tuple[int, int]) -> None:
    from timm.layers import resize_rel_pos_bias_table

    table = torch.randn((2 * old - 1) ** 2, 3)
    shape = ((2 * window[0] - 1) * (2 * window[1] - 1), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch about timm's indexing
        reference = resize_rel_pos_bias_table(table, window, shape)
    assert_parity(resize_table(table, window), reference)


@torch.no_grad()
def test_weights_of_other_windows_work_as_in_timm_and_it_is_said() -> None:
    from timm.models.swin_transformer import checkpoint_filter_fn

    state = timm_swin(32).state_dict()
    theirs = timm.create_model(TIMM, img_size=12, **SIZES).eval()  # grids of 6 and 3: windows of 4 and 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    ours = Swin(12, **SIZES).eval()
    assert load_state(ours, state) == ["relative positions of 2 layers resized from windows of 4x4 to 3x3 tokens"]
    images = torch.randn(2, 3, 12, 12)
    assert_parity(ours(images), theirs(images))


def test_initialisation_spreads_as_timms() -> None:
    sizes = {**SIZES, "embed_dim": 96}
    ours, theirs = Swin(32, **sizes), timm.create_model(TIMM, img_size=32, **sizes)
    drawn = ours.state_dict()
    for key, reference in theirs.state_dict().items():
        assert drawn[key].mean().item() == pytest.approx(reference.mean().item(), abs=0.02), key
        if key != "patch_embed.proj.bias":
            assert drawn[key].std().item() == pytest.approx(reference.std().item(), rel=0.3, abs=1e-8), key
