from __future__ import annotations

import math

import pytest
import torch

from regard.errors import RegardError
from regard.layers.attention import attention_weights
from regard.layers.cross_attention import CrossAttention
from regard.taps import record


def made() -> tuple[CrossAttention, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False, True, True, True], [True, False, False, False, False, False]])
    return CrossAttention(12, 3), torch.randn(2, 4, 12), torch.randn(2, 6, 12), mask[:, None, None]


@torch.no_grad()
def test_equals_plain_loops_over_heads_and_queries() -> None:
    layer, x, memory, mask = made()
    out = layer(x, memory, mask)
    q, k, v = layer.query(x), layer.key(memory), layer.value(memory)
    for image in range(2):
        seen = [place for place in range(6) if mask[image, 0, 0, place]]
        for token in range(4):
            found = []
            for head in range(3):
                part = slice(4 * head, 4 * head + 4)
                powers = [math.exp(q[image, token, part].dot(k[image, j, part]).item() / 2) for j in seen]
                values = [v[image, j, part] * power / sum(powers) for j, power in zip(seen, powers, strict=True)]
                found.append(torch.stack(values).sum(0))
            torch.testing.assert_close(out[image, token], layer.proj(torch.cat(found)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_listening_gives_the_pattern_and_the_same_output() -> None:
    layer, x, memory, mask = made()
    plain = layer(x, memory, mask)
    with record(layer, "pattern", "k") as seen:
        listened = layer(x, memory, mask)
    torch.testing.assert_close(listened, plain, atol=1e-6, rtol=1e-5)
    assert seen["pattern"].shape == (2, 3, 4, 6) and seen["k"].shape == (2, 3, 6, 4)
    torch.testing.assert_close(seen["pattern"].sum(-1), torch.ones(2, 3, 4))
    assert not seen["pattern"][~mask.expand(2, 3, 4, 6)].any()


@torch.no_grad()
def test_kept_keys_and_values_give_the_same_output() -> None:
    layer, x, memory, mask = made()
    assert torch.equal(layer.attend(x, *layer.keys_values(memory), mask), layer(x, memory, mask))


def test_weights_without_a_mask_are_those_of_a_mask_of_trues() -> None:
    q, k = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    assert torch.equal(attention_weights(q, k), attention_weights(q, k, torch.ones(3, 5, dtype=torch.bool)))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(RegardError, match="num_heads=5: does not divide the width 12"):
        CrossAttention(12, 5)
