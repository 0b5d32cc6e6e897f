"""ViT: "An Image is Worth 16x16 Words" (Dosovitskiy et al. 2020, arXiv 2010.11929).

    z_0 = [x_cls; x_1 E; ...; x_N E] + E_pos                                              (1)
    z'  = MSA(LN(z)) + z,   z = MLP(LN(z')) + z'                                          (2), (3)
    y   = LN(z_L)[0],   logits = W y + b                                                  (4)

Sizes Ti and S are those of "How to train your ViT?" (Steiner et al. 2021, arXiv 2106.10270).

Deviations from the paper and its code:
- initialisation is timm's (see `init_weights`); the paper's code draws Xavier-uniform weights, a zero head;
- the head is one linear layer always; the hidden tanh layer of the paper's pre-training is left out;
- GELU is the exact one, as in timm's conversion of the weights; the paper's code has the tanh approximation;
- stochastic depth, of "How to train your ViT?", is off unless asked for, and so is dropout;
- positions belong to one image size; `regard.layers.position.resample_positions` carries them to another;
- `vit_nano|micro|tiny_patch4_32` are our sizes for small images, of the same layers.

Names of the weights are timm's. Taps: patch_embed.patches, positions, embedded, and in blocks.*: attn.q,
attn.k, attn.v, attn.pattern, mlp.hidden, tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.layers.attention import MultiHeadAttention
from regard.layers.drop import DropPath
from regard.layers.mlp import Mlp
from regard.layers.patch import PatchEmbed
from regard.models.registry import Features, ModelSpec
from regard.taps import Tap

MLP_RATIO = 4  # of all published sizes
EPS = 1e-6


class Block(nn.Module):
    """One encoder block on tokens (B, N, D), equations (2), (3). Tap: tokens (B, N, D), what leaves it."""

    def __init__(self, dim: int, num_heads: int, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = MultiHeadAttention(dim, num_heads, drop)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, MLP_RATIO * dim, drop)
        self.drop_path = DropPath(drop_path)
        self.tokens = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return self.tokens(x + self.drop_path(self.mlp(self.norm2(x))))


class ViT(nn.Module):
    """Classifies (B, 3, S, S) images: forward -> logits (B, num_classes); (B, D) where num_classes is 0.

    S = img_size, a multiple of patch_size. drop_rate: dropout after the positions, the attention and both
    layers of the MLP (paper, appendix B.1). drop_path_rate: stochastic depth, rising linearly from 0 in the
    first block to this in the last.
    """

    HEAD = "head"

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(img_size, patch_size, embed_dim)
        self.grid = self.patch_embed.grid
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], embed_dim))
        self.positions, self.embedded = Tap(), Tap()
        self.pos_drop = nn.Dropout(drop_rate)
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, drop_rate, rate) for rate in rates))
        self.norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def features(self, images: Tensor) -> Features:
        """What the model knows of (B, 3, S, S) images before its head; pooled is the class token."""
        x = self.patch_embed(images)  # (B, N, D)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, 1 + N, D)
        x = self.embedded(self.pos_drop(x + self.positions(self.pos_embed)))
        x = self.norm(self.blocks(x))
        cls = x[:, 0]  # (B, D)
        return Features(tokens=x, grid=self.grid, prefix=1, cls=cls, pooled=cls)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).pooled)  # (B, K)


def init_weights(model: ViT) -> None:
    """Draws fresh weights, as timm:

    | part                                  | weight                         | bias    |
    |---------------------------------------|--------------------------------|---------|
    | qkv, proj, fc1, fc2, head             | truncated normal, std 0.02     | 0       |
    | positions                             | truncated normal, std 0.02     |         |
    | class token                           | normal, std 1e-6               |         |
    | patch embedding (a convolution)       | uniform +-1/sqrt(3 P^2)        | as left |
    | norms                                 | 1                              | 0       |
    """
    nn.init.normal_(model.cls_token, std=1e-6)
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.LayerNorm):
            module.reset_parameters()


SIZES = {  # embed_dim, depth, num_heads
    "nano": (96, 4, 3),
    "micro": (128, 6, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
PUBLISHED = (
    *((size, 16, img_size) for size in ("tiny", "small", "base", "large") for img_size in (224, 384)),
    *((size, 32, img_size) for size in ("small", "base", "large") for img_size in (224, 384)),
    ("small", 8, 224),
    ("base", 8, 224),
    ("huge", 14, 224),
)
OURS = (("nano", 4, 32), ("micro", 4, 32), ("tiny", 4, 32))


def _spec(size: str, patch_size: int, img_size: int) -> ModelSpec:
    embed_dim, depth, num_heads = SIZES[size]
    sizes: dict[str, Any] = {
        "patch_size": patch_size, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads
    }  # fmt: skip
    name = f"vit_{size}_patch{patch_size}_{img_size}"
    published = (size, patch_size, img_size) in PUBLISHED
    return ModelSpec(
        name=name,
        family="vit",
        build=partial(ViT, **sizes),
        img_size=img_size,
        patch_size=patch_size,
        timm=(name, {}) if published else ("vit_tiny_patch16_224", {**sizes, "img_size": img_size}),
        deviations="" if published else "not a published size: the paper's layers, for small images",
    )


SPECS = tuple(_spec(*row) for row in PUBLISHED + OURS)
