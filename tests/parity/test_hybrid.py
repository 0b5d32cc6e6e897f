"""The hybrid against timm with the same weights, and Google's .npz through timm's reader and through ours."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import assert_equal_gradients, assert_parity, shake
from torch import nn

from regard.models import create_model
from regard.models.hybrid import HybridViT
from regard.weights import load_state, read_state

timm = pytest.importorskip("timm")

DEPTHS = (2, 1)
SIZES = {"embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 7}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def timm_hybrid(img_size: int | tuple[int, int]) -> nn.Module:
    """timm's VisionTransformer behind a CNN of two short stages, as it builds the published ones."""
    from timm.layers import HybridEmbed, StdConv2dSame
    from timm.models.resnetv2 import ResNetV2
    from timm.models.vision_transformer import VisionTransformer

    conv = partial(StdConv2dSame, eps=1e-8)
    backbone = ResNetV2(DEPTHS, num_classes=0, global_pool="", preact=False, stem_type="same", conv_layer=conv)
    embed = partial(HybridEmbed, backbone=backbone)
    return VisionTransformer(img_size=img_size, patch_size=1, embed_layer=embed, **SIZES).eval()


@pytest.mark.parametrize("img_size", [32, (24, 48)])
def test_logits_tokens_and_gradients_are_timms(img_size: int | tuple[int, int]) -> None:
    theirs = shake(timm_hybrid(img_size))
    ours = HybridViT(DEPTHS, img_size, **SIZES).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(4, 3, *((img_size, img_size) if isinstance(img_size, int) else img_size))
    with torch.no_grad():
        assert_parity(ours(images), theirs(images))
        assert_parity(ours.features(images).tokens, theirs.forward_features(images))  # pyright: ignore[reportCallIssue]
    for model in (ours.double(), theirs.double()):
        nn.functional.cross_entropy(model(images.double()), torch.arange(4)).backward()
    assert_equal_gradients(ours, theirs)


@pytest.mark.long
@pytest.mark.parametrize("name", ["vit_small_r26_s32_224", "vit_base_r50_s16_224"])
@torch.no_grad()
def test_registered_models_have_timms_logits(name: str) -> None:
    """In float64: a CNN this deep with random weights makes 2e-5 of the rounding of float32, in timm's too."""
    theirs = shake(timm.create_model(name, img_size=128, num_classes=10)).eval().double()
    ours = create_model(name, 10, 128).eval().double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 128, 128, dtype=torch.float64)
    reference = theirs(images)
    assert reference.std() > 0.01
    assert (ours(images) - reference).abs().max() <= 1e-10 * reference.abs().max()


def google_arrays(side: int) -> dict[str, np.ndarray]:
    """Random arrays under the names and shapes of a published hybrid .npz, for side x side tokens."""
    dim, heads, classes = SIZES["embed_dim"], SIZES["num_heads"], SIZES["num_classes"]
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, dim),
        "conv_root/kernel": (7, 7, 3, 64),
        "embedding/kernel": (1, 1, 512, dim),
        "embedding/bias": (dim,),
        "Transformer/posembed_input/pos_embedding": (1, 1 + side * side, dim),
        "head/kernel": (dim, classes),
        "head/bias": (classes,),
        "pre_logits/kernel": (dim, dim),
        "pre_logits/bias": (dim,),
    }
    groups, layers = {"gn_root": 64}, {"Transformer/encoder_norm": dim}
    for block, unit, channels, width in ((1, 1, 64, 64), (1, 2, 256, 64), (2, 1, 256, 128)):
        root = f"block{block}/unit{unit}"
        out = 4 * width
        shapes |= {
            f"{root}/conv1/kernel": (1, 1, channels, width),
            f"{root}/conv2/kernel": (3, 3, width, width),
            f"{root}/conv3/kernel": (1, 1, width, out),
        }
        groups |= {f"{root}/gn1": width, f"{root}/gn2": width, f"{root}/gn3": out}
        if unit == 1:
            shapes[f"{root}/conv_proj/kernel"] = (1, 1, channels, out)
            groups[f"{root}/gn_proj"] = out
    for i in range(SIZES["depth"]):
        root = f"Transformer/encoderblock_{i}"
        attention = f"{root}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes |= {
                f"{attention}/{part}/kernel": (dim, heads, dim // heads),
                f"{attention}/{part}/bias": (heads, dim // heads),
            }
        shapes |= {f"{attention}/out/kernel": (heads, dim // heads, dim), f"{attention}/out/bias": (dim,)}
        layers |= {f"{root}/LayerNorm_0": dim, f"{root}/LayerNorm_2": dim}
        for j, (inputs, outputs) in enumerate(((dim, 4 * dim), (4 * dim, dim))):
            shapes |= {
                f"{root}/MlpBlock_3/Dense_{j}/kernel": (inputs, outputs),
                f"{root}/MlpBlock_3/Dense_{j}/bias": (outputs,),
            }
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(0, 0.15, shape).astype(np.float32) for name, shape in shapes.items()}
    for names, lead in ((groups, (1, 1, 1)), (layers, ())):
        for name, count in names.items():
            arrays[f"{name}/scale"] = rng.normal(1, 0.15, (*lead, count)).astype(np.float32)
            arrays[f"{name}/bias"] = rng.normal(0, 0.15, (*lead, count)).astype(np.float32)
    return arrays


@torch.no_grad()
def test_googles_npz_is_read_as_timm_reads_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "R.npz", **google_arrays(4))
    theirs = timm_hybrid(32)
    theirs.load_pretrained(str(tmp_path / "R.npz"))  # pyright: ignore[reportCallIssue]
    ours = HybridViT(DEPTHS, 32, **SIZES).eval()
    (line,) = load_state(ours, read_state(tmp_path / "R.npz"), "R.npz")
    assert "pre_logits" in line
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    images = torch.randn(2, 3, 32, 32)
    assert_parity(ours(images), theirs(images))


@torch.no_grad()
def test_weights_for_one_image_size_work_at_another_as_in_timm() -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = shake(timm_hybrid(32)).state_dict()
    theirs = timm_hybrid(48)
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))  # pyright: ignore[reportArgumentType]
    ours = HybridViT(DEPTHS, 48, **SIZES).eval()
    assert load_state(ours, state) == ["position embedding resampled from 4x4 to 6x6 patches"]
    images = torch.randn(2, 3, 48, 48)
    assert_parity(ours(images), theirs(images))


def test_initialisation_spreads_as_timms() -> None:
    ours, theirs = HybridViT(DEPTHS, 32, **SIZES), timm_hybrid(32)
    drawn = ours.state_dict()
    for key, reference in theirs.state_dict().items():
        assert drawn[key].mean().item() == pytest.approx(reference.mean().item(), abs=0.02), key
        if key != "patch_embed.proj.bias":
            assert drawn[key].std().item() == pytest.approx(reference.std().item(), rel=0.3, abs=1e-8), key
