from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regard.errors import RegardError
from regard.models import count_gmacs, count_parameters, create_model
from regard.models.hybrid import PUBLISHED, Backbone, HybridViT, StdConv2d
from regard.taps import record

# name -> parameters with K = 1000, without a head, GMAC with K = 1000
PARAMETERS = {
    "vit_small_r26_s32_224": (36_431_912, 36_046_912, "3.464"),
    "vit_small_r26_s32_384": (36_468_392, None, "10.26"),
    "vit_base_r50_s16_224": (98_659_112, 97_890_112, "21.54"),
    "vit_base_r50_s16_384": (98_950_952, None, "67.16"),
    "vit_large_r50_s32_224": (328_994_856, None, "19.41"),
    "vit_large_r50_s32_384": (329_092_136, None, "57.14"),
}


def meta(name: str, num_classes: int = 1000) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes)


def tiny(**sizes: float) -> HybridViT:
    torch.manual_seed(0)
    return HybridViT((1, 1), 32, 24, 2, 2, num_classes=3, **sizes).eval()  # pyright: ignore[reportArgumentType]


def test_every_published_size_is_in_the_table() -> None:
    assert set(PARAMETERS) == {
        f"vit_{size}_{cnn}_s{stride}_{img_size}" for size, cnn, _, stride, img_size, _ in PUBLISHED
    }


@pytest.mark.parametrize(
    "name", [name if "r26_s32_224" in name else pytest.param(name, marks=pytest.mark.long) for name in PARAMETERS]
)
def test_counts_are_the_published_ones_to_the_digit(name: str) -> None:
    parameters, headless, gmacs = PARAMETERS[name]
    model = meta(name)
    assert count_parameters(model) == parameters
    assert headless is None or count_parameters(meta(name, 0)) == headless
    digits = len(gmacs.partition(".")[2])
    assert f"{count_gmacs(model, int(name.rsplit('_', 1)[1])):.{digits}f}" == gmacs


@pytest.mark.long
def test_the_published_cost_of_r50_b16_is_without_a_head() -> None:
    assert f"{count_gmacs(meta('vit_base_r50_s16_224', 0), 224):.2f}" == "21.53"


@pytest.mark.parametrize(("depths", "count"), [((3, 4, 9), 11_894_848), ((2, 2, 2, 2), 13_946_176)])
def test_the_cnn_alone_has_its_published_count(depths: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        assert count_parameters(Backbone(depths)) == count


def test_our_small_model_stays_small() -> None:
    assert count_parameters(meta("vit_nano_r8_s4_32", 10)) == 634_474


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (1, 2), (1, 1)])
@torch.no_grad()
def test_kernels_are_standardised_and_padding_is_tensorflows(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv, x = StdConv2d(4, 6, kernel, stride).double(), torch.randn(2, 4, 12, 8, dtype=torch.float64)
    weight = torch.stack([(w - w.mean()) / (w.var(correction=0) + 1e-8).sqrt() for w in conv.weight])
    pads = []
    for side in (8, 12):  # width, height
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    assert torch.allclose(conv(x), F.conv2d(F.pad(x, pads), weight, stride=stride))
    assert conv(x).shape[-2:] == (12 // stride, 8 // stride)


@torch.no_grad()
def test_the_pool_of_the_stem_looks_below_and_to_the_right() -> None:
    pool, x = Backbone((1,)).stem.pool, torch.randn(1, 2, 6, 8)
    assert isinstance(pool, nn.Module)
    assert torch.equal(pool(x), F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2))


@torch.no_grad()
def test_taps_are_those_of_the_vit_and_stages_have_names() -> None:
    model = tiny()
    with record(model, "**") as seen:
        model(torch.randn(2, 3, 32, 32))
    assert seen["patch_embed.backbone.stem"].shape == (2, 64, 8, 8)
    assert seen["patch_embed.backbone.stages.1"].shape == (2, 512, 4, 4)
    assert seen["patch_embed.patches"].shape == (2, 16, 24)
    assert seen["embedded"].shape == seen["blocks.1.tokens"].shape == (2, 17, 24)
    assert seen["blocks.0.attn.pattern"].shape == (2, 2, 17, 17)


@torch.no_grad()
def test_a_fresh_bottleneck_passes_its_shortcut_through() -> None:
    block = tiny().patch_embed.backbone.stages[0].blocks[0]  # pyright: ignore
    x = torch.randn(2, 64, 8, 8)
    assert torch.equal(block(x), block.downsample(x).relu())


def test_fresh_weights_follow_the_table() -> None:
    model = tiny()
    for name, weight in model.named_parameters():
        if name.endswith("norm3.weight"):
            assert not weight.any()
        elif "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight"))))
        elif ".conv" in name:
            out, _, k, _ = weight.shape
            assert weight.std().item() == pytest.approx((2 / (k * k * out)) ** 0.5, rel=0.1), name
        elif name.startswith("patch_embed"):
            assert weight.abs().max() <= 512**-0.5
        elif name == "cls_token":
            assert 0 < weight.abs().max() < 1e-5
        elif not name.endswith("bias"):
            assert weight.std().item() == pytest.approx(0.02, rel=0.2), name


def test_stochastic_depth_and_dropout_are_those_of_the_vit() -> None:
    model = tiny(drop_rate=0.25, drop_path_rate=0.3)
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0, 0.3])
    dropouts = {name for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p == 0.25}
    assert len(dropouts) == 1 + 2 * 3 and not any("patch_embed" in name for name in dropouts)


def test_image_sizes_are_multiples_of_the_stride() -> None:
    with pytest.raises(
        RegardError, match="img_size=200: is no multiple of the patch, 32 pixels; nearest sizes: 192 or 224"
    ):
        create_model("vit_small_r26_s32_224", img_size=200)
    with pytest.raises(RegardError, match="images: are 32x64, the model was made for 32x32"):
        tiny()(torch.zeros(1, 3, 32, 64))


@pytest.mark.long
def test_the_graph_exports() -> None:
    model, images = tiny(), torch.randn(2, 3, 32, 32)
    exported = torch.export.export(model, (images,)).module()
    assert torch.allclose(exported(images), model(images), atol=1e-5)
