"""DeiT: "Training data-efficient image transformers & distillation through attention" (Touvron et al. 2020, arXiv
2012.12877).

The plain DeiT is the ViT with another recipe: `deit_tiny|small|base_patch16_*` are `regard.models.vit.ViT`. The
distilled one, section 4, gives the sequence a second token that learns from a teacher:

    z_0 = [x_cls; x_dist; x_1 E; ...; x_N E] + E_pos,   then the blocks of the ViT,   y = LN(z_L)
    training:    W_cls y[0] + b_cls   learns the label,   W_dist y[1] + b_dist   the teacher's answer
    evaluation:  logits = the mean of the two

Deviations from the paper and its code:
- the paper adds the probabilities of both heads; here their logits are averaged, as in the paper's code;
- the plain models draw the class token as the ViT does, with std 1e-6; the paper's code draws it with 0.02;
- without a teacher both heads learn the label, with equal weight; the paper trains no distilled model without one;
- `deit_nano_patch4_32` and `deit_nano_distilled_patch4_32` are our sizes for small images, of the same layers.

Names of the weights are timm's, and the paper's. Taps: those of `regard.models.vit`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from regard.layers.drop import drop_path_rates
from regard.layers.patch import PatchEmbed
from regard.models.registry import Features, Heads, ModelSpec
from regard.models.vit import EPS, Block, ViT, arguments_of, draw_layers
from regard.taps import Tap

PREFIX = 2  # class token, distillation token


class DistilledDeiT(nn.Module):
    """Classifies (B, 3, H, W) images: forward -> logits (B, num_classes) in evaluation, `Heads` in training.

    Where num_classes is 0 the heads pass the two tokens (B, D) through. img_size: the side of square images, or
    (height, width), multiples of patch_size. drop_rate, drop_path_rate: as in the ViT.
    """

    HEAD = "head"
    OTHER_HEADS = ("head_dist",)
    DISTILLATION_HEAD = "head_dist"
    OTHERS_WEIGHT = 1.0  # equation (3): label and teacher count alike

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
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(img_size, patch_size, embed_dim)
        self.grid, self.prefix = self.patch_embed.grid, PREFIX
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.dist_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, PREFIX + self.grid[0] * self.grid[1], embed_dim))
        self.positions, self.embedded = Tap(), Tap()
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, drop_rate, rate) for rate in rates))
        self.norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.head_dist = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def features(self, images: Tensor) -> Features:
        """What the model knows of (B, 3, H, W) images before its heads.

        pooled: the mean of both tokens, (B, D); two heads of equal weights, and only these, give head(pooled).
        """
        x = self.patch_embed(images)  # (B, N, D)
        prefix = torch.cat([self.cls_token, self.dist_token], dim=1).expand(x.shape[0], -1, -1)  # (B, 2, D)
        x = torch.cat([prefix, x], dim=1)  # (B, 2 + N, D)
        x = self.embedded(self.pos_drop(x + self.positions(self.pos_embed)))
        x = self.norm(self.blocks(x))
        cls, distilled = x[:, 0], x[:, 1]  # (B, D)
        return Features(tokens=x, grid=self.grid, prefix=PREFIX, cls=cls, pooled=(cls + distilled) / 2)

    def forward(self, images: Tensor) -> Tensor | Heads:
        tokens = self.features(images).tokens  # (B, 2 + N, D)
        logits, distilled = self.head(tokens[:, 0]), self.head_dist(tokens[:, 1])  # (B, K)
        return Heads(logits, (distilled,)) if self.training else (logits + distilled) / 2


def init_weights(model: DistilledDeiT) -> None:
    """Draws fresh weights, as the paper's code:

    | part                                            | weight                         | bias    |
    |-------------------------------------------------|--------------------------------|---------|
    | qkv, proj, fc1, fc2, both heads                 | truncated normal, std 0.02     | 0       |
    | positions, class token, distillation token      | truncated normal, std 0.02     |         |
    | patch embedding (a convolution)                 | uniform +-1/sqrt(3 P^2)        | as left |
    | norms                                           | 1                              | 0       |
    """
    for parameter in (model.pos_embed, model.cls_token, model.dist_token):
        nn.init.trunc_normal_(parameter, std=0.02)
    draw_layers(model)


PAPER = "Touvron et al., Training data-efficient image transformers & distillation, 2020, arXiv 2012.12877"
PUBLISHED = (("tiny", 16, 224), ("small", 16, 224), ("base", 16, 224), ("base", 16, 384))
OURS = (("nano", 4, 32),)


def _spec(size: str, patch_size: int, img_size: int, distilled: bool) -> ModelSpec:
    sizes = arguments_of(size, patch_size)
    variant = "_distilled" if distilled else ""
    name = f"deit_{size}{variant}_patch{patch_size}_{img_size}"
    published = (size, patch_size, img_size) in PUBLISHED
    like = f"deit_tiny{variant}_patch16_224"
    return ModelSpec(
        name=name,
        family="deit",
        build=partial(DistilledDeiT if distilled else ViT, **sizes),
        img_size=img_size,
        patch_size=patch_size,
        timm=(name, {}) if published else (like, {**sizes, "img_size": img_size}),
        paper=PAPER,
        deviations="" if published else "not a published size: the paper's layers, for small images",
    )


SPECS = tuple(_spec(*row, distilled) for distilled in (False, True) for row in PUBLISHED + OURS)
