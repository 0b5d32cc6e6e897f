"""Attention of some tokens to others ("Attention Is All You Need", arXiv 1706.03762, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.attention import attention_weights
from regard.taps import Tap


class CrossAttention(nn.Module):
    """Tokens x (B, N, D) ask a memory (B, M, D): MultiHead(x W_Q, memory W_K, memory W_V) W_O, with biases.

    Self-attention is the case memory = x. Keys and values can be kept: `forward` is `attend` with those that
    `keys_values` gives. Taps: q (B, H, N, D/H), k, v (B, H, M, D/H) and pattern (B, H, N, M), which exists only while
    somebody listens to it; else the fused kernel computes the same within float32 rounding.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise RegardError(f"num_heads={num_heads}: does not divide the width {dim}; choose a divisor")
        self.num_heads = num_heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) from x (B, N, D) and memory (B, M, D); mask as in `attention_weights`, to (B, H, N, M)."""
        return self.attend(x, *self.keys_values(memory), mask)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, M, D/H) of a memory (B, M, D)."""
        return self.k(self._heads(self.key(memory))), self.v(self._heads(self.value(memory)))

    def attend(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D): what x finds among keys and values (B, H, M, D/H)."""
        q = self.q(self._heads(self.query(x)))
        if self.pattern.listening:
            z = self.pattern(attention_weights(q, k, mask)) @ v  # (B, H, N, M) @ (B, H, M, D/H)
        else:
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, N, D/H)
        return self.proj(z.transpose(1, 2).flatten(2))  # (B, N, D)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, D/H)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
