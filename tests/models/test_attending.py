"""Where attention lies: patterns put back in their places do what the layer does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models import create_model
from regard.models.attending import EMPTY, AttentionLayer, Merge, attention_layers, attention_stack, reading
from regard.models.swin import PatchMerging, Swin
from regard.models.vitdet import ImageEncoder
from regard.taps import record

COUNTS = {  # name: layers, of which in the stack
    "vit_nano_patch4_32": (4, 4),
    "vit_nano_patch4_32+pool=mean": (4, 4),
    "deit_nano_distilled_patch4_32": (4, 4),
    "vit_nano_patch4_reg4_dinov2_32": (4, 4),
    "vit_nano_r8_s4_32": (4, 4),
    "t2t_vit_nano_32": (6, 4),
    "swin_nano_patch2_window4_32": (6, 6),
    "clip_vit_base_patch32": (12, 12),
    "sam_vit_b": (12, 0),
    "botnet20_32": (3, 0),
    "resnet20_32": (0, 0),
    "resnet20_nl_32": (0, 0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_layers_and_what_their_taps_give(name: str) -> None:
    meta = name.startswith(("clip", "sam"))
    with torch.device("meta" if meta else "cpu"):
        model = create_model(name, 5).eval()
    layers = attention_layers(model)
    assert len(layers) == COUNTS[name][0]
    assert {f"{layer.name}.pattern" for layer in layers} <= dict(model.named_modules()).keys()
    try:
        stack = [part for part in attention_stack(model) if isinstance(part, AttentionLayer)]
    except RegardError as error:
        stack = []
        assert "gradcam" in str(error)
    assert len(stack) == COUNTS[name][1]
    if meta or not layers:
        return
    with record(model, *(f"{layer.name}.pattern" for layer in layers)) as seen, torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    for layer in layers:
        whole = layer.whole(seen[f"{layer.name}.pattern"])
        assert whole.shape == (2, layer.num_heads, layer.tokens, layer.tokens)
        torch.testing.assert_close(whole.sum(-1), torch.ones(whole.shape[:-1]))


def swin(side: int) -> Swin:
    torch.manual_seed(1)
    return Swin(side, 2, 4, 12, (2, 2), (2, 3), num_classes=3).eval()


def encoder(side: int) -> ImageEncoder:
    torch.manual_seed(1)
    model = ImageEncoder(side, 4, 12, 3, 2, (1,), 3, out_dim=8).eval()
    for name, parameter in model.named_parameters():
        if "pos" in name:
            nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize(
    ("make", "side"),
    [(swin, 16), (swin, 28), (swin, (20, 28)), (encoder, 24), (encoder, 16)],
    ids=["swin", "swin-filled", "swin-oblong", "vitdet", "vitdet-filled"],
)
def test_windows_back_in_their_places_give_what_the_block_gives(
    make: Callable[[Any], nn.Module], side: int | tuple[int, int]
) -> None:
    model = make(side)
    height, width = (side, side) if isinstance(side, int) else side
    images = torch.randn(2, 3, height, width)
    layers = [layer for layer in attention_layers(model) if layer.windows is not None]
    assert layers
    for layer in layers:
        attention = model.get_submodule(layer.name)
        with record(model, f"{layer.name}.pattern", f"{layer.name}.v", layer.name) as seen, torch.no_grad():
            model(images)
        assert layer.windows is not None
        values = torch.zeros(2, layer.num_heads, layer.tokens + 1, seen[f"{layer.name}.v"].shape[-1])
        parts = seen[f"{layer.name}.v"].unflatten(0, (2, -1))  # (B, W, H, n, d)
        filling = torch.zeros_like(parts)
        for w, window in enumerate(layer.windows.tolist()):
            for place, token in enumerate(window):
                if token == EMPTY:
                    filling[:, w, :, place] = parts[:, w, :, place]
                else:
                    values[:, :, token] = parts[:, w, :, place]
        # What windows give to their filling is not in `whole`: it is added here, window by window.
        pattern = seen[f"{layer.name}.pattern"].unflatten(0, (2, -1))
        rest = values.new_zeros(values.shape)
        for w, window in enumerate(layer.windows.tolist()):
            for place, token in enumerate(window):
                if token != EMPTY:
                    rest[:, :, token] = (pattern[:, w, :, place, None] @ filling[:, w]).squeeze(2)
        mixed = layer.whole(seen[f"{layer.name}.pattern"]) @ values[:, :, :-1] + rest[:, :, :-1]
        wanted = attention.get_submodule("proj")(mixed.transpose(1, 2).flatten(2))
        given = seen[layer.name]
        if isinstance(model, ImageEncoder):  # whose attention has put its windows back itself: (B, h, w, C)
            given = given.flatten(1, 2)
        else:
            given = in_places(given.reshape(2, len(layer.windows), -1, wanted.shape[-1]), layer.windows, layer.tokens)
        torch.testing.assert_close(given, wanted)


def in_places(windows: Tensor, places: Tensor, tokens: int) -> Tensor:
    """(B, W, n, C) -> (B, T, C), one token at a time."""
    found = windows.new_zeros(len(windows), tokens, windows.shape[-1])
    for w, window in enumerate(places.tolist()):
        for place, token in enumerate(window):
            if token != EMPTY:
                found[:, token] = windows[:, w, place]
    return found


@pytest.mark.parametrize("side", [16, 28])
def test_merged_tokens(side: int) -> None:
    model = swin(side)
    merge = next(part for part in attention_stack(model) if isinstance(part, Merge))
    module = next(module for module in model.modules() if isinstance(module, PatchMerging))
    tokens = torch.randn(1, module.grid[0] * module.grid[1], 12, requires_grad=True)
    for row, members in enumerate(merge.members.tolist()):
        (gradient,) = torch.autograd.grad(module(tokens)[0, row].sum(), tokens)
        assert set(gradient[0].abs().sum(-1).nonzero().flatten().tolist()) == set(members) - {EMPTY}


@pytest.mark.parametrize(
    "name", [name for name, (_, stacked) in COUNTS.items() if stacked and not name.startswith("clip")]
)
def test_what_the_head_reads(name: str) -> None:
    model = create_model(name, 5).eval()
    seen: list[Tensor] = []
    norm = model.get_submodule("norm")
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad_()))
    for other in getattr(model, "OTHER_HEADS", ()):  # a head of its own would weigh its token otherwise
        model.set_submodule(other, model.get_submodule("head"))
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features == 5:
            nn.init.ones_(module.weight)
    (gradient,) = torch.autograd.grad(model(torch.randn(1, 3, 32, 32)).sum(), seen[0])
    torch.testing.assert_close(gradient[0].mean(-1) / 5, reading(model))
