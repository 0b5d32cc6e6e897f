from __future__ import annotations

import pytest
import torch

from regard.errors import RegardError
from regard.models import count_gmacs, count_parameters, create_model, model_spec
from regard.models.vit import PUBLISHED, ViT
from regard.taps import record

# (name, image size) -> parameters with K = 1000, without a head, with K = 21843; GMAC with K = 1000
PARAMETERS = {
    ("vit_tiny_patch16_224", 224): (5_717_416, 5_524_416, 9_740_115, 1.2537),
    ("vit_tiny_patch16_384", 384): (5_790_376, 5_597_376, 9_813_075, 4.6822),
    ("vit_small_patch32_224", 224): (22_878_952, 22_493_952, 30_903_507, 1.1429),
    ("vit_small_patch32_384", 384): (22_915_432, 22_530_432, 30_939_987, 3.4429),
    ("vit_small_patch16_224", 224): (22_050_664, 21_665_664, 30_075_219, 4.5989),
    ("vit_small_patch16_384", 384): (22_196_584, 21_811_584, 30_221_139, 15.4904),
    ("vit_small_patch8_224", 224): (22_055_272, 21_670_272, 30_079_827, 22.4057),
    ("vit_base_patch32_224", 224): (88_224_232, 87_455_232, 104_252_499, 4.4092),
    ("vit_base_patch32_384", 384): (88_297_192, 87_528_192, 104_325_459, 13.0436),
    ("vit_base_patch16_224", 224): (86_567_656, 85_798_656, 102_595_923, 17.5638),
    ("vit_base_patch16_384", 384): (86_859_496, 86_090_496, 102_887_763, 55.4844),
    ("vit_base_patch8_224", 224): (86_576_872, 85_807_872, 102_605_139, 78.1483),
    ("vit_large_patch32_224", 224): (306_535_400, 305_510_400, 327_899_475, 15.3775),
    ("vit_large_patch32_384", 384): (306_632_680, 305_607_680, 327_996_755, 45.2760),
    ("vit_large_patch16_224", 224): (304_326_632, 303_301_632, 325_690_707, 61.5547),
    ("vit_large_patch16_384", 384): (304_715_752, 303_690_752, 326_079_827, 191.0663),
    ("vit_huge_patch14_224", 224): (632_045_800, 630_764_800, 658_745_683, 167.2951),
}


def meta(name: str, num_classes: int = 1000, img_size: int | None = None) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes, img_size)


def test_every_published_size_is_in_the_table() -> None:
    assert {name for name, _ in PARAMETERS} == {f"vit_{s}_patch{p}_{i}" for s, p, i in PUBLISHED}


QUICK = {("vit_tiny_patch16_224", 224), ("vit_base_patch16_384", 384), ("vit_huge_patch14_224", 224)}


@pytest.mark.parametrize(
    ("name", "size"), [row if row in QUICK else pytest.param(*row, marks=pytest.mark.long) for row in PARAMETERS]
)
def test_counts_are_the_published_ones_to_the_digit(name: str, size: int) -> None:
    classes, headless, many, gmacs = PARAMETERS[name, size]
    model = meta(name)
    assert count_parameters(model) == classes
    assert count_parameters(meta(name, 0)) == headless
    assert count_parameters(meta(name, 21_843)) == many
    assert round(count_gmacs(model, size), 4) == gmacs


@pytest.mark.parametrize(
    ("name", "count"),
    [("vit_nano_patch4_32", 459_562), ("vit_micro_patch4_32", 1_205_898), ("vit_tiny_patch4_32", 5_362_762)],
)
def test_our_small_models_stay_small(name: str, count: int) -> None:
    assert count_parameters(meta(name, 10)) == count


def test_another_image_size_changes_the_positions_only() -> None:
    here, there = (
        meta("vit_tiny_patch16_224").state_dict(),
        meta("vit_tiny_patch16_224", img_size=64).state_dict(),
    )
    assert [name for name in here if here[name].shape != there[name].shape] == ["pos_embed"]
    assert there["pos_embed"].shape == (1, 17, 192)


def test_fresh_weights_follow_the_table() -> None:
    torch.manual_seed(0)
    model = ViT(img_size=32, patch_size=4, embed_dim=128, depth=2, num_heads=4, num_classes=100)
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight"))))
        elif name.startswith("patch_embed"):
            assert weight.abs().max() <= (3 * 16) ** -0.5
        elif name == "cls_token":
            assert 0 < weight.abs().max() < 1e-5
        elif name.endswith("bias"):
            assert not weight.any()
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert weight.abs().max() <= 2


def test_stochastic_depth_rises_linearly_and_acts_in_training_only() -> None:
    model = ViT(img_size=16, patch_size=4, embed_dim=16, depth=4, num_heads=2, num_classes=3, drop_path_rate=0.3)
    rates = [model.get_submodule(f"blocks.{i}.drop_path").rate for i in range(4)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    torch.manual_seed(0)
    x = torch.randn(8, 3, 16, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_dropout_sits_at_the_papers_positions() -> None:
    model = ViT(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, drop_rate=0.25)
    dropouts = {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert dropouts == dict.fromkeys(
        ("pos_drop", "blocks.0.attn.drop", "blocks.0.mlp.drop1", "blocks.0.mlp.drop2"), 0.25
    )


def test_ours_for_l32_rounds_to_the_papers_307_million() -> None:
    """Table 1 gives 86, 307 and 632 million, of no stated patch, image or head."""
    counts = [
        PARAMETERS[name, 224] for name in ("vit_base_patch16_224", "vit_large_patch32_224", "vit_huge_patch14_224")
    ]
    assert round(counts[0][1] / 1e6) == 86 and round(counts[1][0] / 1e6) == 307 and round(counts[2][0] / 1e6) == 632


SMALL = "vit_nano_patch4_32"
POSITIONS = model_spec(SMALL).options["positions"]


def made(positions: str = "learned", pool: str = "token") -> ViT:
    torch.manual_seed(0)
    model = create_model(f"{SMALL}+positions={positions}+pool={pool}", 7).eval()
    assert isinstance(model, ViT)
    for name, parameter in model.named_parameters():  # fresh weights are so small that little moves
        torch.nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.15)
    return model


def shuffled(images: torch.Tensor) -> torch.Tensor:
    """The same 4x4 patches of (B, 3, 32, 32) images, elsewhere."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)[:, :, order]  # (B, 3, 64, 4, 4)
    return patches.unflatten(2, (8, 8)).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)


@pytest.mark.parametrize("pool", ["token", "mean", "max"])
@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_the_order_of_the_patches_means_something_with_positions_that_survive_a_norm(positions: str, pool: str) -> None:
    """LayerNorm subtracts the mean over coordinates, and `integer` and `normalised` are the same in all of them."""
    model, images = made(positions, pool), torch.randn(2, 3, 32, 32)
    before, after = model(images), model(shuffled(images))
    change = (after - before).abs().max() / before.abs().max()
    assert change > 0.01 if positions in ("learned", "sinusoidal") else change <= 1e-5


@pytest.mark.parametrize("positions", ["integer", "normalised"])
@torch.no_grad()
def test_one_number_in_all_coordinates_is_no_position_to_a_pre_norm_network(positions: str) -> None:
    model, none, images = made(positions).double(), made("none").double(), torch.randn(2, 3, 32, 32).double()
    none.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(images), none(images), rtol=1e-12, atol=1e-12)
    sinusoidal = made("sinusoidal").double()
    sinusoidal.load_state_dict(model.state_dict())
    assert (sinusoidal(images) - none(images)).abs().max() > 0.01


def test_only_learned_positions_are_weights() -> None:
    learned = made().state_dict()
    for positions in POSITIONS[1:]:
        state = made(positions).state_dict()
        assert learned.keys() - state.keys() == {"pos_embed"}
        assert state.keys() < learned.keys()


@pytest.mark.parametrize(("pool", "prefix"), [("token", 1), ("mean", 0), ("max", 0)])
@torch.no_grad()
def test_pooling_reads_the_class_token_or_all_patches(pool: str, prefix: int) -> None:
    model, images = made(pool=pool), torch.randn(2, 3, 32, 32)
    features = model.features(images)
    assert features.tokens.shape == (2, prefix + 64, 96) and features.prefix == prefix
    assert (model.cls_token is None) == (features.cls is None) == (pool != "token")
    tokens = features.tokens.double()
    expected = {"token": tokens[:, 0], "mean": tokens.sum(1) / 64, "max": tokens.max(1).values}[pool]
    torch.testing.assert_close(features.pooled.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(model(images), model.head(features.pooled))


@torch.no_grad()
def test_the_class_token_is_position_0_and_the_patches_follow_in_raster_order() -> None:
    model, images = made("integer"), torch.randn(1, 3, 32, 32)
    with record(model, "positions", "embedded", "patch_embed.patches") as seen:
        model(images)
    assert torch.equal(seen["positions"][0, :, 0], torch.arange(65.0))
    assert torch.equal(seen["embedded"][0, 1:], seen["patch_embed.patches"][0] + torch.arange(1.0, 65)[:, None])


@torch.no_grad()
def test_an_image_need_not_be_square() -> None:
    model = ViT(img_size=(16, 24), patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=3).eval()
    assert model.features(torch.randn(2, 3, 16, 24)).grid == (4, 6)
    with pytest.raises(RegardError, match="images: are 24x16, the model was made for 16x24"):
        model(torch.randn(2, 3, 24, 16))
