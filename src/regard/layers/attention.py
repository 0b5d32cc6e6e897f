"""Scaled dot-product attention with several heads ("Attention Is All You Need", arXiv 1706.03762, 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.taps import Tap


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)), the pattern: q (..., N, d), k (..., M, d) -> (..., N, M); rows sum to 1.

    mask: boolean, broadcast to (..., N, M), False where a query may not look; each row has a True.
    """
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1)


class MultiHeadAttention(nn.Module):
    """Self-attention over tokens (B, N, D), with biases; rows of `qkv` are q, k, v, each head after head.

    Taps: q, k, v (B, H, N, D/H) and pattern (B, H, N, N). The pattern exists only while somebody listens to
    it; else the fused kernel computes the same within float32 rounding. Names of the weights are timm's.
    """

    def __init__(self, dim: int, num_heads: int, drop: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise RegardError(f"num_heads={num_heads}: does not divide embed_dim {dim}; choose a divisor")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D)
        q, k, v = self.split_heads(self.qkv(x))  # each (B, H, N, D/H)
        q, k, v = self.q(q), self.k(k), self.v(v)
        if self.pattern.listening:
            z = self.pattern(attention_weights(q, k)) @ v  # (B, H, N, N) @ (B, H, N, D/H)
        else:
            z = F.scaled_dot_product_attention(q, k, v)  # (B, H, N, D/H)
        return self.drop(self.proj(z.transpose(1, 2).flatten(2)))  # (B, N, D)

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3 D) -> three of (B, H, N, D/H)."""
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v
