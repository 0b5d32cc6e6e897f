"""Ours against timm with the same weights: max |difference| <= 1e-5 max |reference| in float32."""

from __future__ import annotations

import pytest
import torch
from peers import assert_equal_gradients, assert_parity, shake
from torch import nn

from regard.layers.patch import image_sides
from regard.models import create_model, model_spec, timm_reference
from regard.models.vit import ViT
from regard.weights import load_state

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(("img_size", "patch_size"), [(32, 8), (48, 8), (56, 14), (96, 16), ((48, 32), 8)])
@pytest.mark.parametrize("fused", [True, False])
def test_logits_and_tokens_of_a_tiny_vit_are_timms(
    img_size: int | tuple[int, int], patch_size: int, fused: bool
) -> None:
    sizes = {
        "img_size": img_size,
        "patch_size": patch_size,
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 4,
        "num_classes": 11,
    }
    theirs = shake(timm.create_model("vit_tiny_patch16_224", **sizes)).eval()
    for block in theirs.blocks:  # pyright: ignore[reportGeneralTypeIssues]
        block.attn.fused_attn = fused
    ours = ViT(**sizes).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, *image_sides(img_size))
    with torch.no_grad():
        assert_parity(ours(x), theirs(x))
        features = ours.features(x)
        assert_parity(features.tokens, theirs.forward_features(x))  # pyright: ignore[reportCallIssue]
        assert_parity(features.pooled, theirs.forward_head(theirs.forward_features(x), pre_logits=True))  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", ["vit_nano_patch4_32", "vit_tiny_patch16_224"])
def test_registered_models_have_timms_logits_and_gradients(name: str) -> None:
    spec = model_spec(name)
    size = 4 * (spec.patch_size or 1)
    reference = timm_reference(spec, size)
    assert reference is not None
    theirs = shake(timm.create_model(reference[0], num_classes=10, **reference[1])).eval()
    ours = create_model(name, 10, size).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, labels = torch.randn(4, 3, size, size), torch.arange(4)
    for model in (ours, theirs):
        nn.functional.cross_entropy(model(x), labels).backward()
    assert_parity(ours(x), theirs(x))
    assert_equal_gradients(ours, theirs)


@pytest.mark.parametrize("img_size", [48, (24, 48)])
def test_weights_for_one_image_size_work_at_another_as_in_timm(img_size: int | tuple[int, int]) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    sizes = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 5}
    state = shake(timm.create_model("vit_tiny_patch16_224", img_size=32, **sizes)).state_dict()
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=img_size, **sizes).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    ours = ViT(img_size=img_size, **sizes).eval()
    assert load_state(ours, state)
    x = torch.randn(2, 3, *image_sides(img_size))
    with torch.no_grad():
        assert_parity(ours(x), theirs(x))


POOLS_OF_TIMM = {"token": {}, "mean": {"global_pool": "avg"}, "max": {"global_pool": "max"}}


@pytest.mark.parametrize("pool", POOLS_OF_TIMM)
@pytest.mark.parametrize("positions", ["learned", "none"])
def test_the_options_that_timm_has_are_timms(pool: str, positions: str) -> None:
    options = POOLS_OF_TIMM[pool] and {**POOLS_OF_TIMM[pool], "class_token": False, "fc_norm": False}
    if positions == "none":
        options = {**options, "pos_embed": "none"}
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 5}
    theirs = shake(timm.create_model("vit_tiny_patch16_224", **sizes, **options)).eval()
    ours = ViT(**sizes, positions=positions, pool=pool).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(3, 3, 32, 32)
    for model in (ours, theirs):
        nn.functional.cross_entropy(model(x), torch.arange(3)).backward()
    assert_parity(ours(x), theirs(x))
    assert_equal_gradients(ours, theirs)


def test_initialisation_spreads_as_timms() -> None:
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 1, "num_heads": 3, "num_classes": 50}
    torch.manual_seed(0)
    ours, theirs = ViT(**sizes), timm.create_model("vit_tiny_patch16_224", **sizes)
    for key, reference in theirs.state_dict().items():
        drawn = ours.state_dict()[key]
        assert drawn.mean().item() == pytest.approx(reference.mean().item(), abs=0.02), key
        if key != "patch_embed.proj.bias":
            assert drawn.std().item() == pytest.approx(reference.std().item(), rel=0.2, abs=1e-8), key
