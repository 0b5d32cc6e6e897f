"""DINOv2: "Learning Robust Visual Features without Supervision" (Oquab et al. 2023, arXiv 2304.07193), plain and with
the registers of "Vision Transformers Need Registers" (Darcet et al. 2023, arXiv 2309.16588).

A ViT with patches of 14 pixels whose branches are scaled per channel (LayerScale, arXiv 2103.17239):

    z_0 = [x_cls; x_1 E; ...; x_N E] + E_pos                    plain
    z_0 = [x_cls; r_1; ...; r_4; [x_1 E; ...; x_N E] + E_pos]   with four registers r
    z'  = s_1 * MSA(LN(z)) + z,   z = s_2 * MLP(LN(z')) + z'
    y   = LN(z_L)[0],   logits = W y + b

The published weights have no head: it is `regard`'s, on the class token.

Deviations from the papers and their code:
- with registers E_pos has no row for the class token, as in timm: the published one is part of the class token;
- the token that stands for masked patches in self-supervised training is left out, and so is that training;
- positions follow another image size by timm's rule (bicubic with antialiasing); the papers' code has no antialiasing
  where there are no registers;
- stochastic depth rises linearly over the blocks; the papers' has the same rate in all of them;
- `vit_nano_patch4_reg4_dinov2_32` is our size for small images, of the same layers.

Names of the weights are timm's. Taps: those of `regard.models.vit`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from regard.layers.attention import MultiHeadAttention
from regard.layers.drop import DropPath, drop_path_rates
from regard.layers.mlp import Mlp
from regard.layers.patch import PatchEmbed
from regard.models.registry import Features, ModelSpec
from regard.models.vit import EPS, MLP_RATIO, arguments_of, draw_layers
from regard.taps import Tap

FRESH_SCALE = 1e-5


class LayerScale(nn.Module):
    """Multiplies each channel of (B, N, D) by a weight of its own."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """The ViT's encoder block on tokens (B, N, D) with scaled branches. Tap: tokens (B, N, D), what leaves it."""

    def __init__(self, dim: int, num_heads: int, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = MultiHeadAttention(dim, num_heads, drop)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, MLP_RATIO * dim, drop)
        self.ls2 = LayerScale(dim)
        self.drop_path = DropPath(drop_path)
        self.tokens = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return self.tokens(x + self.drop_path(self.ls2(self.mlp(self.norm2(x)))))


class DINOv2(nn.Module):
    """Classifies (B, 3, H, W) images: forward -> logits (B, num_classes); (B, D) where num_classes is 0.

    img_size: the side of square images, or (height, width), multiples of patch_size. registers: tokens that belong to
    no patch and are read by no head. drop_rate, drop_path_rate: as in the ViT.
    """

    HEAD = "head"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 518,
        patch_size: int = 14,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        registers: int = 0,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(img_size, patch_size, embed_dim)
        self.grid = self.patch_embed.grid
        self.prefix = 1 + registers
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.reg_token = nn.Parameter(torch.empty(1, registers, embed_dim)) if registers else None
        rows = self.grid[0] * self.grid[1] + (0 if registers else 1)
        self.pos_embed = nn.Parameter(torch.empty(1, rows, embed_dim))
        self.positions, self.embedded = Tap(), Tap()
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, drop_rate, rate) for rate in rates))
        self.norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def features(self, images: Tensor) -> Features:
        """What the model knows of (B, 3, H, W) images before its head; pooled is the class token."""
        x = self.patch_embed(images)  # (B, N, D)
        positions = self.positions(self.pos_embed)
        cls = self.cls_token.expand(x.shape[0], -1, -1)  # (B, 1, D)
        if self.reg_token is None:
            x = torch.cat([cls, x], dim=1) + positions  # (B, 1 + N, D)
        else:
            x = torch.cat([cls, self.reg_token.expand(x.shape[0], -1, -1), x + positions], dim=1)  # (B, 1 + R + N, D)
        x = self.norm(self.blocks(self.embedded(self.pos_drop(x))))
        cls = x[:, 0]  # (B, D)
        return Features(tokens=x, grid=self.grid, prefix=self.prefix, cls=cls, pooled=cls)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).pooled)  # (B, K)


def init_weights(model: DINOv2) -> None:
    """Draws fresh weights, as the paper's code and timm:

    | part                                  | weight                         | bias    |
    |---------------------------------------|--------------------------------|---------|
    | qkv, proj, fc1, fc2, head             | truncated normal, std 0.02     | 0       |
    | positions                             | truncated normal, std 0.02     |         |
    | class token, registers                | normal, std 1e-6               |         |
    | scales of the branches                | 1e-5                           |         |
    | patch embedding (a convolution)       | uniform +-1/sqrt(3 P^2)        | as left |
    | norms                                 | 1                              | 0       |
    """
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    nn.init.normal_(model.cls_token, std=1e-6)
    if model.reg_token is not None:
        nn.init.normal_(model.reg_token, std=1e-6)
    draw_layers(model)
    for module in model.modules():
        if isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, FRESH_SCALE)


PAPER = "Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, 2023, arXiv 2304.07193"
REGISTERS_PAPER = "Darcet et al., Vision Transformers Need Registers, 2023, arXiv 2309.16588"
# name -> size, patch, image, registers
PUBLISHED = {
    f"vit_{size}_patch14{'_reg4' if registers else ''}_dinov2": (size, 14, 518, registers)
    for size in ("small", "base")
    for registers in (0, 4)
}
OURS = {"vit_nano_patch4_reg4_dinov2_32": ("nano", 4, 32, 4)}


def _spec(name: str, size: str, patch_size: int, img_size: int, registers: int) -> ModelSpec:
    sizes = arguments_of(size, patch_size)
    published = name in PUBLISHED
    return ModelSpec(
        name=name,
        family="dinov2",
        build=partial(DINOv2, registers=registers, **sizes),
        img_size=img_size,
        patch_size=patch_size,
        timm=(name, {}) if published else ("vit_small_patch14_reg4_dinov2", {**sizes, "img_size": img_size}),
        paper=f"{PAPER}; {REGISTERS_PAPER}" if registers else PAPER,
        deviations="no published head" if published else "not a published size: the paper's layers, for small images",
    )


SPECS = tuple(_spec(name, *row) for name, row in (PUBLISHED | OURS).items())
