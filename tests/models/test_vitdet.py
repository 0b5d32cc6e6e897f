"""ViTDet's attention: tiles, windows and distances against loops in float64. Parity with peers: tests/parity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from regard.models import vitdet
from regard.models.vitdet import Attention, ImageEncoder, from_windows, to_windows
from regard.taps import record

HEADS, WIDTH = 2, 6


def attention(height: int, width: int) -> Attention:
    torch.manual_seed(0)
    layer = Attention(HEADS * WIDTH, HEADS, (height, width)).double()
    nn.init.normal_(layer.rel_pos_h)
    nn.init.normal_(layer.rel_pos_w)
    return layer


def in_loops(layer: Attention, x: Tensor) -> Tensor:
    """The equation of the module's docstring, pair by pair."""
    places = [(y, column) for y in range(layer.grid[0]) for column in range(layer.grid[1])]
    out = torch.zeros_like(x)
    for example, tokens in enumerate(x):
        q, k, v = layer.qkv(tokens).unflatten(-1, (3, HEADS, WIDTH)).unbind(2)
        for y, column in places:
            heads = []
            for head in range(HEADS):
                asked = q[y, column, head]
                logits = [
                    asked @ k[other_y, other, head] / math.sqrt(WIDTH)
                    + asked @ layer.rel_pos_h[y - other_y + layer.grid[0] - 1]
                    + asked @ layer.rel_pos_w[column - other + layer.grid[1] - 1]
                    for other_y, other in places
                ]
                weights = torch.stack(logits).softmax(0)
                heads.append(sum(w * v[*place, head] for w, place in zip(weights, places, strict=True)))
            out[example, y, column] = layer.proj(torch.cat(heads))
    return out


# Of 12 places: all at once; three heads of four; one head; parts of one, the last smaller; one query.
@pytest.mark.parametrize("tile", [1 << 20, 3 * 144, 144, 5 * 12, 1])
def test_attention_by_tiles_of_every_size_is_that_of_plain_loops(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitdet, "TILE_LOGITS", tile)
    layer, x = attention(3, 4), torch.randn(2, 3, 4, HEADS * WIDTH, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), in_loops(layer, x))


@pytest.mark.parametrize("tile", [1 << 20, 5 * 12])
def test_a_listener_changes_neither_the_answer_nor_the_gradients(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitdet, "TILE_LOGITS", tile)
    layer, x = attention(4, 3), torch.randn(2, 4, 3, HEADS * WIDTH, dtype=torch.float64)
    wanted = torch.randn(x.shape, dtype=torch.float64)
    alone = layer(x)
    found = torch.autograd.grad((alone * wanted).sum(), list(layer.parameters()))
    with record(layer, "pattern", "v") as seen:
        heard = layer(x)
    torch.testing.assert_close(heard, alone)
    for ours, theirs in zip(found, torch.autograd.grad((heard * wanted).sum(), list(layer.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert seen["pattern"].shape == (2, HEADS, 12, 12)
    z = (seen["pattern"] @ seen["v"]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer.proj(z).unflatten(1, (4, 3)), alone)


@torch.no_grad()
def test_windows_hold_what_lies_in_them_and_the_filling_beyond_the_map() -> None:
    x, fill = 1 + torch.rand(2, 5, 7, 3), torch.tensor([-1.0, -2.0, -3.0])
    windows = to_windows(x, 4, fill)  # of 2 x 2 windows
    assert windows.shape == (8, 4, 4, 3)
    assert torch.equal(windows[4 + 1, :, :3], x[1, :4, 4:]) and (windows[4 + 1, :, 3] == fill).all()
    assert torch.equal(windows[2, 0], x[0, 4, :4]) and (windows[2, 1:] == fill).all()
    assert torch.equal(from_windows(windows, (5, 7)), x)


@torch.no_grad()
def test_in_windows_it_is_as_if_the_map_had_been_filled_with_zeros_first() -> None:
    whole, cut = attention(4, 4), Attention(HEADS * WIDTH, HEADS, (5, 7), window=4).double()
    cut.load_state_dict(whole.state_dict())
    x = torch.randn(2, 5, 7, HEADS * WIDTH, dtype=torch.float64)
    windows = to_windows(x, 4, torch.zeros(HEADS * WIDTH))
    torch.testing.assert_close(cut(x), from_windows(whole(windows), (5, 7)))


@torch.no_grad()
def test_a_token_sees_its_window_and_in_a_global_block_all_of_the_map() -> None:
    for block, seen in ((0, slice(0, 4)), (1, slice(0, 8))):
        torch.manual_seed(0)
        encoder = ImageEncoder(16, 2, 8, 2, 2, (1,), window=4, out_dim=4).eval().blocks[block]
        x = torch.randn(1, 8, 8, 8)
        changed = x.clone()
        changed[0, 1, 2, 0] += 1
        touched = (encoder(changed) != encoder(x)).any(-1)[0]
        assert touched[seen, seen].all() and int(touched.sum()) == int(touched[seen, seen].sum())


def test_the_largest_tensor_of_a_pass_is_far_below_that_of_all_pairs() -> None:
    """32 x 32 patches, two heads: 8 MB of logits in float32; tiles of a sixteenth of that."""
    sizes: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                sizes.append(out.numel())
            return out

    layer = Attention(8, 2, (32, 32))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), Watch():
        patch.setattr(vitdet, "TILE_LOGITS", 1 << 17)
        layer(torch.zeros(1, 32, 32, 8))
    assert max(sizes) == 1 << 17
