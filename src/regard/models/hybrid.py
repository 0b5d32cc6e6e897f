"""Hybrid CNN + ViT: "An Image is Worth 16x16 Words" (Dosovitskiy et al. 2020, arXiv 2010.11929), section 3.1.

    w_hat = (w - mean(w)) / sqrt(var(w) + 1e-8)   weight-standardised convolution, per output channel (arXiv 1903.10520)
    y     = ReLU(x + GN(w3 * ReLU(GN(w2 * ReLU(GN(w1 * x))))))   bottleneck, GN: group normalisation of 32 groups
    z_0   = [x_cls; f_1 E; ...; f_N E] + E_pos    f_i: the pixels of the last feature map; from there on it is a ViT

R50+B/16 is the paper's: its last stage is moved into the one before, which strides by 16 in all. R26+S/32 and R50+L/32
are those of "How to train your ViT?" (Steiner et al. 2021, arXiv 2106.10270). Padding is SAME, as TensorFlow has it:
a convolution of stride 2 on an even side pads one pixel more below and to the right than above and to the left.

Deviations from the paper's code:
- all that `regard.models.vit` says of the ViT part: initialisation, exact GELU, one linear head;
- group normalisation adds 1e-5 to the variance, as timm; the paper's code adds 1e-6, and 1e-5 to the standard deviation
  of a kernel where timm and we add 1e-8 to its variance;
- `vit_nano_r8_s4_32` is our size for small images: the stem and two bottlenecks of the first stage, on 8x8 tokens.

Names of the weights are timm's. Taps: those of `regard.models.vit`; patch_embed.patches are the projected pixels of the
feature map, and `patch_embed.backbone.stages.*` is what leaves each stage of the CNN.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.layers.drop import drop_path_rates
from regard.layers.patch import check_sides, image_sides, patch_grid
from regard.models.registry import Features, ModelSpec
from regard.models.vit import EPS, PAPER, SIZES, Block, draw_layers
from regard.taps import Tap

GROUPS = 32
STEM_CHANNELS, STAGE_CHANNELS = 64, (256, 512, 1024, 2048)
EXPANSION = 4
WEIGHT_EPS = 1e-8


class StdConv2d(nn.Conv2d):
    """Convolution of (B, C, h, w) whose kernels have mean 0 and variance 1; h and w are even where it strides.

    SAME padding: k - stride pixels in all, the odd one below and to the right.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, bias=False)
        around = max(kernel - stride, 0)
        self.around = (around // 2, around - around // 2) * 2  # left, right, above, below

    def forward(self, x: Tensor) -> Tensor:
        weight = F.layer_norm(self.weight, self.weight.shape[1:], eps=WEIGHT_EPS)
        return F.conv2d(F.pad(x, self.around), weight, stride=self.stride)


class Projection(nn.Module):
    """The shortcut of a stage's first bottleneck: 1x1 convolution and norm."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv = StdConv2d(channels, out, 1, stride)
        self.norm = nn.GroupNorm(GROUPS, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides) and 1x1 convolution around a shortcut: (B, C, h, w) -> (B, out, h/stride, w/stride)."""

    def __init__(self, channels: int, out: int, stride: int, first: bool) -> None:
        super().__init__()
        width = out // EXPANSION
        self.downsample = Projection(channels, out, stride) if first else nn.Identity()
        self.conv1, self.norm1 = StdConv2d(channels, width, 1), nn.GroupNorm(GROUPS, width)
        self.conv2, self.norm2 = StdConv2d(width, width, 3, stride), nn.GroupNorm(GROUPS, width)
        self.conv3, self.norm3 = StdConv2d(width, out, 1), nn.GroupNorm(GROUPS, out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.downsample(x))


class Backbone(nn.Module):
    """The CNN: (B, 3, H, W) -> (B, C, H/stride, W/stride); stage i has depths[i] bottlenecks."""

    def __init__(self, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                conv=StdConv2d(3, STEM_CHANNELS, 7, 2),
                norm=nn.GroupNorm(GROUPS, STEM_CHANNELS),
                relu=nn.ReLU(),
                pool=nn.MaxPool2d(3, stride=2, ceil_mode=True),  # on even sides: SAME
            )
        )
        self.stages = nn.Sequential()
        channels = STEM_CHANNELS
        for i, depth in enumerate(depths):
            out = STAGE_CHANNELS[i]
            blocks = [Bottleneck(out if j else channels, out, 2 if i and not j else 1, not j) for j in range(depth)]
            self.stages.append(nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks))))
            channels = out
        self.channels, self.stride = channels, 4 * 2 ** (len(depths) - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x))


class HybridEmbed(nn.Module):
    """The pixels of a CNN's feature map as tokens, each mapped linearly: (B, 3, H, W) -> (B, N, D).

    Tap: patches (B, N, D), row after row.
    """

    def __init__(self, img_size: int | tuple[int, int], depths: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.img_size = image_sides(img_size)
        self.backbone = Backbone(depths)
        self.grid = patch_grid(img_size, self.backbone.stride)
        self.proj = nn.Conv2d(self.backbone.channels, dim, 1)
        self.patches = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_sides(x, self.img_size)
        x = self.proj(self.backbone(x))  # (B, D, h, w)
        return self.patches(x.flatten(2).transpose(1, 2))


class HybridViT(nn.Module):
    """Classifies (B, 3, H, W) images: forward -> logits (B, num_classes); (B, D) where num_classes is 0.

    img_size: the side of square images, or (height, width), multiples of the CNN's stride. depths: bottlenecks per
    stage of the CNN. drop_rate and drop_path_rate as in the ViT; the CNN has neither.
    """

    HEAD = "head"

    def __init__(
        self,
        depths: tuple[int, ...],
        img_size: int | tuple[int, int] = 224,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_embed = HybridEmbed(img_size, depths, embed_dim)
        self.grid, self.prefix = self.patch_embed.grid, 1
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], embed_dim))
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
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, 1 + N, D)
        x = self.embedded(self.pos_drop(x + self.positions(self.pos_embed)))
        x = self.norm(self.blocks(x))
        cls = x[:, 0]  # (B, D)
        return Features(tokens=x, grid=self.grid, prefix=1, cls=cls, pooled=cls)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).pooled)  # (B, K)


def init_weights(model: HybridViT) -> None:
    """Draws fresh weights, as timm:

    | part                                  | weight                                          | bias |
    |---------------------------------------|-------------------------------------------------|------|
    | convolutions of the CNN               | normal, std sqrt(2 / (k^2 * channels out)) (He) |      |
    | norms                                 | 1; 0 in the last of a bottleneck                | 0    |
    | projection to tokens (a convolution)  | uniform +-1/sqrt(channels in)                   | same |
    | qkv, proj, fc1, fc2, head             | truncated normal, std 0.02                      | 0    |
    | positions                             | truncated normal, std 0.02                      |      |
    | class token                           | normal, std 1e-6                                |      |
    """
    nn.init.normal_(model.cls_token, std=1e-6)
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    draw_layers(model)
    for module in model.patch_embed.backbone.modules():
        if isinstance(module, StdConv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.norm3.weight)


AUGREG = "Steiner et al., How to train your ViT?, 2021, arXiv 2106.10270"
PUBLISHED = (  # size of the ViT, name of the CNN, its depths, its stride, image size, paper
    *(("small", "r26", (2, 2, 2, 2), 32, img_size, AUGREG) for img_size in (224, 384)),
    *(("base", "r50", (3, 4, 9), 16, img_size, PAPER) for img_size in (224, 384)),
    *(("large", "r50", (3, 4, 6, 3), 32, img_size, AUGREG) for img_size in (224, 384)),
)
OURS = (("nano", "r8", (2,), 4, 32, PAPER),)


def _spec(size: str, cnn: str, depths: tuple[int, ...], stride: int, img_size: int, paper: str) -> ModelSpec:
    embed_dim, depth, num_heads = SIZES[size]
    sizes: dict[str, Any] = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    name = f"vit_{size}_{cnn}_s{stride}_{img_size}"
    published = (size, cnn, depths, stride, img_size, paper) in PUBLISHED
    return ModelSpec(
        name=name,
        family="hybrid",
        build=partial(HybridViT, depths, **sizes),
        img_size=img_size,
        patch_size=stride,
        timm=(name, {}) if published else None,
        paper=paper,
        deviations="" if published else "not a published size: the paper's layers, one stage of them, for small images",
    )


SPECS = tuple(_spec(*row) for row in PUBLISHED + OURS)
