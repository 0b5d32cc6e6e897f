"""ViT: "An Image is Worth 16x16 Words" (Dosovitskiy et al. 2020, arXiv 2010.11929).

    z_0 = [x_cls; x_1 E; ...; x_N E] + E_pos                                              (1)
    z'  = MSA(LN(z)) + z,   z = MLP(LN(z')) + z'                                          (2), (3)
    y   = LN(z_L)[0],   logits = W y + b                                                  (4)

Sizes Ti and S are those of "How to train your ViT?" (Steiner et al. 2021, arXiv 2106.10270).

Options, for the comparisons of positions and of pooling:
- `positions`: E_pos, a parameter, is `learned`; by a formula of the token's number 0, 1, 2, ... in raster order (the
  class token is 0) it is `sinusoidal`, `integer` (the number in every coordinate) or `normalised` (the number divided
  by the last one, in [0, 1]); with `none`, E_pos is left out, and the order of the patches means nothing. The same
  holds for `integer` and `normalised`: LN subtracts what all coordinates of a token have in common, and everything
  that (2), (3) and (4) compute is behind an LN, so these two change no answer (up to rounding; no dropout);
- `pool`: the head reads the class `token`, or the `mean` or `max` of LN(z_L) over the patches; these two have no
  class token. They are timm's `global_pool="avg"|"max"` with `class_token=False, fc_norm=False`; timm's default for
  them pools first and norms afterwards (`fc_norm`).

Deviations from the paper and its code:
- initialisation is timm's (see `init_weights`); the paper's code draws Xavier-uniform weights, a zero head;
- the head is one linear layer always; the hidden tanh layer of the paper's pre-training is left out;
- GELU is the exact one, as in timm's conversion of the weights; the paper's code has the tanh approximation;
- stochastic depth, of "How to train your ViT?", is off unless asked for, and so is dropout;
- positions belong to one image size; `regard.layers.position.resample_positions` carries them to another;
- `vit_nano|micro|tiny_patch4_32` are our sizes for small images, of the same layers.

Table 1 of the paper rounds: its 86 M for B fits B/16 without a head (85.8 M), its 632 M for H fits H/14 with a head of
1,000 (632.0 M), and its 307 M for L fits L/32 with one (306.5 M); L/16 has 304.3 M with it and 303.3 M without.

Names of the weights are timm's. Taps: patch_embed.patches, positions, embedded, and in blocks.*: attn.q,
attn.k, attn.v, attn.pattern, mlp.hidden, tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.layers.attention import MultiHeadAttention
from regard.layers.drop import DropPath, drop_path_rates
from regard.layers.mlp import Mlp
from regard.layers.patch import PatchEmbed
from regard.layers.position import FIXED_POSITIONS, fixed_positions
from regard.models.registry import Features, ModelSpec
from regard.taps import Tap

MLP_RATIO = 4  # of all published sizes
EPS = 1e-6
POOLS: dict[str, Callable[[Tensor], Tensor]] = {  # (B, T, D) -> (B, D)
    "token": lambda tokens: tokens[:, 0],
    "mean": lambda tokens: tokens.mean(dim=1),
    "max": lambda tokens: tokens.amax(dim=1),
}


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
    """Classifies (B, 3, H, W) images: forward -> logits (B, num_classes); (B, D) where num_classes is 0.

    img_size: the side of square images, or (height, width), multiples of patch_size. drop_rate: dropout after the
    positions, the attention and both layers of the MLP (paper, appendix B.1). drop_path_rate: stochastic depth,
    rising linearly from 0 in the first block to this in the last. positions, pool: see the top of this file.
    """

    HEAD = "head"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        positions: str = "learned",
        pool: str = "token",
    ) -> None:
        super().__init__()
        self.pool = pool
        self.patch_embed = PatchEmbed(img_size, patch_size, embed_dim)
        self.grid = self.patch_embed.grid
        self.prefix = 1 if pool == "token" else 0
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim)) if self.prefix else None
        count = self.prefix + self.grid[0] * self.grid[1]
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, count, embed_dim))
        else:
            self.register_buffer("pos_embed", fixed_positions(positions, count, embed_dim), persistent=False)
        if self.pos_embed is not None:
            self.positions = Tap()
        self.embedded = Tap()
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, drop_rate, rate) for rate in rates))
        self.norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def features(self, images: Tensor) -> Features:
        """What the model knows of (B, 3, H, W) images before its head; pooled is the class token unless asked else."""
        x = self.patch_embed(images)  # (B, N, D)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, 1 + N, D)
        if self.pos_embed is not None:
            x = x + self.positions(self.pos_embed)
        x = self.norm(self.blocks(self.embedded(self.pos_drop(x))))
        cls = None if self.cls_token is None else x[:, 0]  # (B, D)
        return Features(tokens=x, grid=self.grid, prefix=self.prefix, cls=cls, pooled=POOLS[self.pool](x))

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
    if model.cls_token is not None:
        nn.init.normal_(model.cls_token, std=1e-6)
    if isinstance(model.pos_embed, nn.Parameter):
        nn.init.trunc_normal_(model.pos_embed, std=0.02)
    draw_layers(model)


def draw_layers(model: nn.Module) -> None:
    """Linear layers: truncated normal, std 0.02, biases 0; convolutions and norms: as torch makes them."""
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
TIMM_OPTIONS = {
    ("positions", "none"): {"pos_embed": "none"},
    ("pool", "mean"): {"global_pool": "avg", "class_token": False, "fc_norm": False},
    ("pool", "max"): {"global_pool": "max", "class_token": False, "fc_norm": False},
}
PAPER = "Dosovitskiy et al., An Image is Worth 16x16 Words, 2020, arXiv 2010.11929"
OURS = (("nano", 4, 32), ("micro", 4, 32), ("tiny", 4, 32))


def arguments_of(size: str, patch_size: int) -> dict[str, Any]:
    """Keyword arguments of a size, ours and timm's."""
    embed_dim, depth, num_heads = SIZES[size]
    return {"patch_size": patch_size, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}


def _spec(size: str, patch_size: int, img_size: int) -> ModelSpec:
    sizes = arguments_of(size, patch_size)
    name = f"vit_{size}_patch{patch_size}_{img_size}"
    published = (size, patch_size, img_size) in PUBLISHED
    return ModelSpec(
        name=name,
        family="vit",
        build=partial(ViT, **sizes),
        img_size=img_size,
        patch_size=patch_size,
        timm=(name, {}) if published else ("vit_tiny_patch16_224", {**sizes, "img_size": img_size}),
        options={"positions": ("learned", *FIXED_POSITIONS, "none"), "pool": tuple(POOLS)},
        timm_options=TIMM_OPTIONS,
        paper=PAPER,
        deviations="" if published else "not a published size: the paper's layers, for small images",
    )


SPECS = tuple(_spec(*row) for row in PUBLISHED + OURS)
