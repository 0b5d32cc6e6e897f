from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regard.errors import RegardError
from regard.layers.attention import MultiHeadAttention, attention_weights


def test_weights_are_softmax_of_scaled_products_by_hand() -> None:
    q, k = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[2.0, 5.0, 5.0, 5.0], [0.0, 9.0, 9.0, 9.0]])
    first = math.exp(2 / math.sqrt(4)) / (math.exp(2 / math.sqrt(4)) + 1)
    torch.testing.assert_close(attention_weights(q, k), torch.tensor([[first, 1 - first]]))


def test_weights_times_values_is_the_fused_kernel() -> None:
    q, k, v = (torch.randn(2, 3, 5, 8, dtype=torch.float64) for _ in range(3))
    torch.testing.assert_close(attention_weights(q, k) @ v, F.scaled_dot_product_attention(q, k, v))


def test_layer_equals_torch_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(RegardError, match="num_heads=5"):
        MultiHeadAttention(12, 5)
