"""Image GPT: "Generative Pretraining from Pixels" (Chen et al. 2020, ICML), on grey levels.

An image is the row of its pixels in raster order, each one of V levels, and its probability is a product:

    p(x) = prod_i p(x_i | x_1, ..., x_(i-1)),   p(x_i | ...) = softmax(W LN(h_(i-1)))
    h^0  = [start; E x_1; ...; E x_(N-1)] + P
    n = LN(h),  h' = h + MSA(n),  h = h' + MLP(LN(h')),   MSA with a causal mask: a pixel sees those before it

as a GPT-2 whose norms have a gain only and divide by the root mean square, whose linear layers have no bias, and whose
activation is x sigmoid(1.702 x).

Deviations from the paper and its code:
- levels are grey values and not clusters of colours; sizes are ours, for 8x8 digits. With 512 levels, 32x32 pixels,
  no classes and the paper's sizes the class has the paper's parameters (76, 455 and 1,362 M);
- `start` is a table: row 0 where no class is told (the paper's only one), row 1 + k for class k, so that one model
  draws images with and without a class;
- dropout (off unless asked for) of embeddings and residual branches, and stochastic depth, for small data;
- initialisation is GPT-2's (see `init_weights`).

Sampling draws one pixel after the other; each block keeps the keys and values of the pixels so far, so that a pixel
costs one token and not all of them.

Names of the weights are ours. Taps: positions, embedded, and in blocks.*: attn.q, attn.k, attn.v, attn.pattern,
mlp.hidden, tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.attention import attention_weights
from regard.layers.drop import DropPath, drop_path_rates
from regard.models.registry import ModelSpec
from regard.taps import Tap

MLP_RATIO = 4
EPS = 1e-5
DIGIT_LEVELS = 17  # grey values 0 to 16 of scikit-learn's digits


class Past:
    """Keys and values (B, H, N, d) of the pixels so far, of one block; room for `most` pixels."""

    def __init__(self, most: int) -> None:
        self.most, self.length = most, 0
        self.kept: tuple[Tensor, Tensor] | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds those of the next pixels, (B, H, n, d), and returns all."""
        if self.kept is None:
            batch, heads, _, width = k.shape
            self.kept = k.new_empty(batch, heads, self.most, width), v.new_empty(batch, heads, self.most, width)
        start, self.length = self.length, self.length + k.shape[2]
        for kept, new in zip(self.kept, (k, v), strict=True):
            kept[:, :, start : self.length] = new
        return self.kept[0][:, :, : self.length], self.kept[1][:, :, : self.length]


class CausalAttention(nn.Module):
    """Self-attention of tokens (B, N, D) to themselves and those before, without biases.

    Taps: q, k, v (B, H, N, D/H) and pattern (B, H, N, M), which exists only while somebody listens to it.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise RegardError(f"num_heads={num_heads}: does not divide embed_dim {dim}; choose a divisor")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """(B, N, D) of x (B, N, D); past: what came before, then x is one token and M are all so far."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, d)
        q, k, v = self.q(q), self.k(k), self.v(v)
        if past is not None:
            k, v = past.extend(k, v)  # (B, H, M, d)
        if self.pattern.listening:
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - q.shape[2])
            z = self.pattern(attention_weights(q, k, seen)) @ v  # (B, H, N, M) @ (B, H, M, d)
        else:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)  # (B, H, N, d)
        return self.proj(z.transpose(1, 2).flatten(2))  # (B, N, D)


class QuickMlp(nn.Module):
    """Linear, x sigmoid(1.702 x), linear on (..., D), without biases. Tap: hidden (..., 4 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim, bias=False)
        self.hidden = Tap()
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(self.hidden(x * torch.sigmoid(1.702 * x)))


class Block(nn.Module):
    """One pre-norm block on tokens (B, N, D). Tap: tokens (B, N, D), what leaves it."""

    def __init__(self, dim: int, num_heads: int, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(dim, eps=EPS), nn.RMSNorm(dim, eps=EPS)
        self.attn = CausalAttention(dim, num_heads)
        self.mlp = QuickMlp(dim)
        self.drop, self.drop_path = nn.Dropout(drop), DropPath(drop_path)
        self.tokens = Tap()

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        x = x + self.drop_path(self.drop(self.attn(self.norm1(x), past)))
        return self.tokens(x + self.drop_path(self.drop(self.mlp(self.norm2(x)))))


class PixelGPT(nn.Module):
    """What each pixel of n x n images is, given those before it: forward -> logits (B, n*n, levels).

    img_size: n; levels: grey levels, 0 to levels - 1; num_classes: classes that it can be told, none where 0.
    drop_rate: dropout of embeddings and branches; drop_path_rate: stochastic depth of the last block.
    """

    HEAD = "head"

    def __init__(
        self,
        img_size: int = 8,
        levels: int = DIGIT_LEVELS,
        embed_dim: int = 96,
        depth: int = 4,
        num_heads: int = 4,
        num_classes: int = 0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.img_size, self.levels, self.num_classes = img_size, levels, num_classes
        self.pixel_embed = nn.Embedding(levels, embed_dim)
        self.start = nn.Embedding(1 + num_classes, embed_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, img_size**2, embed_dim))
        self.positions, self.embedded = Tap(), Tap()
        self.drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, drop_rate, rate) for rate in rates)
        self.norm = nn.RMSNorm(embed_dim, eps=EPS)
        self.head = nn.Linear(embed_dim, levels, bias=False)
        init_weights(self)

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (B, n*n, levels) of grey levels pixels (B, n*n), integers in raster order; the last is not read.

        labels: classes (B,), -1 where none is told; none at all where None.
        """
        x = torch.cat([self._first(len(pixels), labels), self.pixel_embed(pixels[:, :-1])], dim=1)  # (B, n*n, D)
        return self._predict(x, self.pos_embed)

    @torch.no_grad()
    def generate(
        self,
        count: int,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        keep: bool = True,
    ) -> Tensor:
        """`count` new images: grey levels (count, n*n), drawn pixel by pixel from the model in evaluation mode.

        labels: classes (count,), as in `forward`; temperature: what logits are divided by, > 0, below 1 likely levels
        become likelier; keep: keys and values of earlier pixels are kept, else computed again for every pixel, with
        the same result within rounding. Raises RegardError for a temperature that is not above 0.
        """
        if not temperature > 0:
            raise RegardError(f"temperature={temperature}: expected a number above 0")
        pasts = [Past(self.img_size**2) for _ in self.blocks] if keep else None
        x, drawn = self._first(count, labels), []
        for i in range(self.img_size**2):
            first = i if keep else 0
            logits = self._predict(x, self.pos_embed[:, first : i + 1], pasts)[:, -1]  # (B, levels)
            pixel = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)  # (B, 1)
            drawn.append(pixel)
            token = self.pixel_embed(pixel)  # (B, 1, D)
            x = token if keep else torch.cat([x, token], dim=1)
        return torch.cat(drawn, dim=1)

    def _first(self, count: int, labels: Tensor | None) -> Tensor:
        """The token (B, 1, D) before the first pixel."""
        if labels is None:
            return self.start.weight[:1].expand(count, 1, -1)
        return self.start(labels + 1).unsqueeze(1)

    def _predict(self, x: Tensor, positions: Tensor, pasts: list[Past] | None = None) -> Tensor:
        """Logits (B, T, levels) of what follows tokens x (B, T, D) at positions (1, T, D)."""
        x = self.embedded(self.drop(x + self.positions(positions)))
        for i, block in enumerate(self.blocks):
            x = block(x, pasts[i] if pasts else None)
        return self.head(self.norm(x))


def init_weights(model: PixelGPT) -> None:
    """Draws fresh weights, as GPT-2:

    | part                                      | weight                            |
    |-------------------------------------------|-----------------------------------|
    | linear layers, pixels and start           | normal, std 0.02                  |
    | of these, proj and fc2 (residual branches)| normal, std 0.02 / sqrt(2 depth)  |
    | positions                                 | normal, std 0.01                  |
    | norms                                     | 1                                 |
    """
    nn.init.normal_(model.pos_embed, std=0.01)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            branch = name.endswith((".proj", ".fc2"))
            nn.init.normal_(module.weight, std=0.02 / (2 * len(model.blocks)) ** 0.5 if branch else 0.02)


SIZES: dict[str, Any] = {"embed_dim": 96, "depth": 4, "num_heads": 4}
SPECS = (
    ModelSpec(
        name="pixel_gpt_8",
        family="pixel_gpt",
        build=partial(PixelGPT, **SIZES),
        img_size=8,
        patch_size=1,
        task="generate",
        paper="Chen et al., Generative Pretraining from Pixels, 2020, ICML",
        deviations="not a published size: 17 grey levels of 8x8 digits; a start token for each class",
    ),
)
