from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models import count_gmacs, count_parameters, create_model, model_spec
from regard.models.swin import PUBLISHED, Swin, WindowAttention, from_windows, offset_index, resize_table, to_windows
from regard.taps import edit, record
from regard.weights import load_state

# name -> parameters with K = 1000, GMAC at the model's own size
PARAMETERS = {
    "swin_tiny_patch4_window7_224": (28_288_354, "4.491"),
    "swin_small_patch4_window7_224": (49_606_258, "8.741"),
    "swin_base_patch4_window7_224": (87_768_224, "15.431"),
    "swin_base_patch4_window12_384": (87_903_584, "47.08"),
}


def meta(name: str, num_classes: int = 1000, img_size: int | None = None) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes, img_size)


def tiny(img_size: int = 16, **sizes: object) -> Swin:
    torch.manual_seed(0)
    arguments = {"patch_size": 1, "window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)}
    return Swin(img_size, **{**arguments, "num_classes": 3, **sizes}).eval()  # pyright: ignore[reportArgumentType]


def test_every_published_size_is_in_the_table() -> None:
    assert set(PARAMETERS) == {f"swin_{s}_patch{p}_window{w}_{i}" for s, p, w, i in PUBLISHED}


@pytest.mark.parametrize(
    "name", [name if "tiny" in name else pytest.param(name, marks=pytest.mark.long) for name in PARAMETERS]
)
def test_counts_are_the_published_ones_to_the_digit(name: str) -> None:
    parameters, gmacs = PARAMETERS[name]
    model = meta(name)
    assert count_parameters(model) == parameters
    digits = len(gmacs.partition(".")[2])
    assert f"{count_gmacs(model, model_spec(name).img_size):.{digits}f}" == gmacs


def test_our_small_model_stays_small() -> None:
    assert count_parameters(meta("swin_nano_patch2_window4_32", 10)) == 1_268_356


def test_windows_are_cut_row_after_row_and_put_back() -> None:
    grid = torch.arange(24).reshape(1, 4, 6, 1)
    windows = to_windows(grid, (2, 3))
    assert windows[0, :, :, 0].tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]
    assert torch.equal(from_windows(windows, (2, 3), rows=2), grid)


def test_the_index_counts_offsets_row_after_row() -> None:
    index = offset_index((2, 3))
    for (i, a), (j, b) in itertools.product(enumerate(itertools.product(range(2), range(3))), repeat=2):
        assert index[i, j] == (a[0] - b[0] + 1) * 5 + (a[1] - b[1] + 2)


def neighbours(side: int, window: int, shift: int) -> Tensor:
    """(side^2, side^2): which tokens share a window after the shift, without wrapping around the edge."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    down, right = (((place - shift) // window).flatten() for place in (rows, columns))
    return (down[:, None] == down) & (right[:, None] == right)


@pytest.mark.parametrize(("block", "shift"), [(0, 0), (1, 2)])
def test_a_token_sees_its_window_and_nothing_beyond(block: int, shift: int) -> None:
    layer = tiny().layers[0].blocks[block].double()  # pyright: ignore
    x = torch.randn(1, 256, 12, dtype=torch.float64)
    with torch.no_grad():
        reached = torch.stack([(layer(x + bump(i)) - layer(x)).abs().amax(-1)[0] for i in range(256)]) > 1e-12
    assert torch.equal(reached, neighbours(16, 4, shift))


def bump(i: int) -> Tensor:
    x = torch.zeros(1, 256, 12, dtype=torch.float64)
    x[0, i] = torch.linspace(-1, 1, 12)
    return x


@torch.no_grad()
def test_taps_of_attention_are_in_windows() -> None:
    model = tiny()
    with record(model, "layers.**.attn.*", "layers.*.blocks.*.tokens", "embedded") as seen:
        model(torch.randn(2, 3, 16, 16))
    assert seen["embedded"].shape == (2, 256, 12)
    assert seen["layers.0.blocks.1.tokens"].shape == (2, 256, 12)
    assert seen["layers.1.blocks.1.tokens"].shape == (2, 64, 24)
    assert seen["layers.0.blocks.0.attn.q"].shape == (2 * 16, 2, 16, 6)
    assert seen["layers.1.blocks.0.attn.v"].shape == (2 * 4, 4, 16, 6)
    assert seen["layers.0.blocks.0.attn.positions"].shape == (2, 16, 16)
    shifted = seen["layers.0.blocks.1.attn.pattern"]
    assert shifted.shape == (2 * 16, 2, 16, 16)
    assert torch.allclose(shifted.sum(-1), torch.ones(()))
    last = shifted[15, 0]  # of the first image, the window with all four corners: each token sees its own corner only
    corner = torch.arange(16).reshape(4, 4).unfold(0, 2, 2).unfold(1, 2, 2).reshape(4, 4)
    assert last[corner[0]][:, corner[0]].sum(-1) == pytest.approx(torch.ones(4))
    assert last[corner[0]][:, corner[1:].flatten()].max() < 1e-30


@torch.no_grad()
def test_without_positions_the_tokens_of_a_window_have_no_order() -> None:
    layer = tiny().layers[0].blocks[0]  # pyright: ignore
    x, order = torch.randn(1, 16, 16, 12), torch.randperm(16)
    windows = to_windows(x, (4, 4))
    shuffled = from_windows(windows[:, :, order], (4, 4), rows=4).flatten(1, 2)
    x = x.flatten(1, 2)

    def as_windows(tokens: Tensor) -> Tensor:
        return to_windows(tokens.unflatten(1, (16, 16)), (4, 4))

    assert not torch.allclose(as_windows(layer(x))[:, :, order], as_windows(layer(shuffled)), atol=1e-5)
    with edit(layer, {"attn.positions": torch.zeros_like}):
        assert torch.allclose(as_windows(layer(x))[:, :, order], as_windows(layer(shuffled)), atol=1e-6)


def test_a_stage_of_one_window_is_not_shifted() -> None:
    blocks = [
        module for module in meta("swin_tiny_patch4_window7_224", img_size=64).modules() if hasattr(module, "shift")
    ]
    assert [block.window for block in blocks] == [(7, 7)] * 4 + [(4, 4)] * 6 + [(2, 2)] * 2
    assert [block.shift for block in blocks] == [(0, 0), (3, 3)] * 2 + [(0, 0)] * 8


def test_a_smaller_window_keeps_what_is_known_of_its_offsets() -> None:
    table = torch.arange(13.0).repeat(13, 1)[:, :, None].flatten(0, 1)  # B is the offset to the right, plus 6
    cropped = resize_table(table, (4, 4)).reshape(7, 7)
    assert cropped[3].tolist() == pytest.approx([3, 4, 5, 6, 7, 8, 9], abs=0.05)
    assert resize_table(table, (7, 7)) is table


def test_tables_that_are_no_windows_are_refused() -> None:
    model, state = tiny(), tiny().state_dict()
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    for rows in (50, 36):  # no square; an even side
        state[name] = torch.zeros(rows, 2)
        with pytest.raises(RegardError, match=rf"{name} has shape \({rows}, 2\), the model's has \(49, 2\)"):
            load_state(model, state)


def test_an_image_size_that_the_patch_does_not_divide_is_refused() -> None:
    with pytest.raises(
        RegardError, match="img_size=30: is no multiple of the patch, 4 pixels; nearest sizes: 28 or 32"
    ):
        meta("swin_tiny_patch4_window7_224", img_size=30)
    with pytest.raises(RegardError, match="images: are 16x20, the model was made for 16x16"):
        tiny()(torch.zeros(1, 3, 16, 20))


def test_fresh_weights_follow_the_table() -> None:
    for name, weight in tiny(patch_size=2, embed_dim=96).named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight"))))
        elif name.startswith("patch_embed"):
            assert weight.abs().max() <= (3 * 4) ** -0.5
        elif name.endswith("bias"):
            assert not weight.any()
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.2), name


def test_stochastic_depth_rises_through_all_stages() -> None:
    blocks = [module for module in tiny(drop_path_rate=0.3).modules() if hasattr(module, "drop_path")]
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_dropout_sits_where_the_published_code_has_it() -> None:
    dropouts = {
        name: m.p
        for name, m in tiny(drop_rate=0.25, depths=(1,), num_heads=(2,)).named_modules()
        if isinstance(m, nn.Dropout)
    }
    block = "layers.0.blocks.0"
    assert dropouts == dict.fromkeys(
        ("pos_drop", f"{block}.attn.drop", f"{block}.mlp.drop1", f"{block}.mlp.drop2"), 0.25
    )


@torch.no_grad()
def test_half_precision_answers_alike() -> None:
    model, images = tiny(), torch.randn(2, 3, 16, 16)
    full = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(model(images).float(), full, atol=0.05)
        with record(model, "layers.*.blocks.*.attn.pattern"):
            assert torch.allclose(model(images).float(), full, atol=0.05)
    assert torch.allclose(model.bfloat16()(images.bfloat16()).float(), full, atol=0.05)


@pytest.mark.long
def test_the_graph_exports() -> None:
    model, images = tiny(20), torch.randn(2, 3, 20, 20)
    exported = torch.export.export(model, (images,)).module()
    assert torch.allclose(exported(images), model(images), atol=1e-6)


def test_masks_are_no_weights() -> None:
    model = tiny()
    masks = [module.mask for module in model.modules() if isinstance(module, WindowAttention)]
    assert [mask is not None for mask in masks] == [False, True, False, True]
    assert not any("mask" in name or "index" in name for name in model.state_dict())
