"""Ours against timm with the same weights: max |difference| <= 1e-5 max |reference| in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.layers.position import resample_positions
from regard.models import create_model, model_spec, timm_reference
from regard.models.vit import ViT

timm = pytest.importorskip("timm")


def shake(model: nn.Module) -> nn.Module:
    """Draws every parameter anew, so that none hides behind its 0 or 1."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean=centre, std=0.15)
    return model


def assert_parity(ours: Tensor, reference: Tensor) -> None:
    assert reference.std() > 0.01
    assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize(("img_size", "patch_size"), [(32, 8), (48, 8), (56, 14), (96, 16)])
@pytest.mark.parametrize("fused", [True, False])
def test_logits_and_tokens_of_a_tiny_vit_are_timms(img_size: int, patch_size: int, fused: bool) -> None:
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
    x = torch.randn(2, 3, img_size, img_size)
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
    for key, parameter in theirs.named_parameters():
        gradient, expected = ours.get_parameter(key).grad, parameter.grad
        assert gradient is not None and expected is not None
        assert (gradient - expected).abs().max() <= 1e-4 * expected.abs().max(), key


def test_weights_for_one_image_size_work_at_another_as_in_timm() -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    sizes = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 5}
    state = shake(timm.create_model("vit_tiny_patch16_224", img_size=32, **sizes)).state_dict()
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=48, **sizes).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    state["pos_embed"] = resample_positions(state["pos_embed"], (6, 6))
    ours = ViT(img_size=48, **sizes).eval()
    ours.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert_parity(ours(x), theirs(x))


def test_initialisation_spreads_as_timms() -> None:
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 1, "num_heads": 3, "num_classes": 50}
    torch.manual_seed(0)
    ours, theirs = ViT(**sizes), timm.create_model("vit_tiny_patch16_224", **sizes)
    for key, reference in theirs.state_dict().items():
        drawn = ours.state_dict()[key]
        assert drawn.mean().item() == pytest.approx(reference.mean().item(), abs=0.02), key
        if key != "patch_embed.proj.bias":
            assert drawn.std().item() == pytest.approx(reference.std().item(), rel=0.2, abs=1e-8), key
