from __future__ import annotations

import pytest
import torch

from regard.models import count_gmacs, count_parameters, create_model
from regard.models.dinov2 import PUBLISHED, DINOv2
from regard.taps import record

# Parameters without a head and with one of 1,000; GMAC at 518 pixels with it. The published counts are rounded:
# 21 M and 86 M, with and without registers.
COUNTS = {
    "vit_small_patch14_dinov2": (22_056_192, 22_441_192, 46.6971),
    "vit_small_patch14_reg4_dinov2": (22_057_344, 22_442_344, 46.8832),
    "vit_base_patch14_dinov2": (86_579_712, 87_348_712, 151.5745),
    "vit_base_patch14_reg4_dinov2": (86_582_016, 87_351_016, 152.1165),
}
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


def test_every_published_size_is_in_the_table() -> None:
    assert COUNTS.keys() == PUBLISHED.keys()


QUICK = {"vit_base_patch14_dinov2", "vit_small_patch14_reg4_dinov2"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in COUNTS]
)
def test_counts(name: str) -> None:
    headless, classes, gmacs = COUNTS[name]
    with torch.device("meta"):
        model, body = create_model(name), create_model(name, 0)
    assert (count_parameters(body), count_parameters(model)) == (headless, classes)
    assert round(count_gmacs(model, 518), 4) == gmacs


def test_counts_follow_from_those_of_the_vit() -> None:
    """24 scales, the positions of 37x37 patches of 14 pixels, four registers in place of one row of positions."""
    with torch.device("meta"):
        vit = count_parameters(create_model("vit_small_patch16_224", 0))
    plain = vit + 3 * (14**2 - 16**2) * 384 + (37**2 - 14**2) * 384 + 24 * 384
    assert plain == COUNTS["vit_small_patch14_dinov2"][0]
    assert plain + (4 - 1) * 384 == COUNTS["vit_small_patch14_reg4_dinov2"][0]


def test_our_small_model_stays_small() -> None:
    with torch.device("meta"):
        assert count_parameters(create_model("vit_nano_patch4_reg4_dinov2_32", 10)) == 460_618


@pytest.mark.parametrize(("registers", "prefix", "rows"), [(0, 1, 17), (4, 5, 16)])
@torch.no_grad()
def test_registers_have_no_position_and_no_patch(registers: int, prefix: int, rows: int) -> None:
    torch.manual_seed(0)
    model, images = DINOv2(registers=registers, **SMALL).eval(), torch.randn(2, 3, 16, 16)
    with record(model, "positions", "embedded", "patch_embed.patches") as seen:
        features = model.features(images)
    assert features.tokens.shape == (2, prefix + 16, 32) and features.prefix == prefix
    assert seen["positions"].shape == (1, rows, 32)
    patches = seen["patch_embed.patches"] + seen["positions"][:, -16:]
    torch.testing.assert_close(seen["embedded"][:, prefix:], patches)
    if model.reg_token is not None:
        assert torch.equal(seen["embedded"][0, 1:5], model.reg_token[0])
        assert torch.equal(seen["embedded"][0, :1], model.cls_token[0])
    assert torch.equal(features.pooled, features.tokens[:, 0])


@torch.no_grad()
def test_the_scales_weigh_both_branches_of_a_block() -> None:
    model, images = DINOv2(registers=4, **SMALL).eval(), torch.randn(2, 3, 16, 16)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            assert torch.equal(parameter, torch.full((32,), 1e-5))
            parameter.zero_()
    with record(model, "embedded", "blocks.1.tokens") as seen:
        model(images)
    assert torch.equal(seen["embedded"], seen["blocks.1.tokens"])


def test_fresh_weights_follow_the_table() -> None:
    torch.manual_seed(0)
    model = DINOv2(registers=4, **(SMALL | {"embed_dim": 128, "num_classes": 100}))
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight"))))
        elif name.endswith("gamma"):
            assert torch.equal(weight, torch.full_like(weight, 1e-5))
        elif name.startswith("patch_embed"):
            assert weight.abs().max() <= (3 * 16) ** -0.5
        elif name.endswith("token"):
            assert 0 < weight.abs().max() < 1e-5
        elif name.endswith("bias"):
            assert not weight.any()
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1), name
