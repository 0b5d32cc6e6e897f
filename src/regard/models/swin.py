"""Swin: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (Liu et al. 2021, arXiv 2103.14030).

    z'  = W-MSA(LN(z)) + z,    z = MLP(LN(z')) + z'      blocks 0, 2, ... of a stage           (3)
    z'  = SW-MSA(LN(z)) + z,   z = MLP(LN(z')) + z'      blocks 1, 3, ...: windows shifted by w // 2
    Attention(Q, K, V) = softmax(Q K^T / sqrt(d) + B) V  within each window of w x w tokens    (4)

Between stages 2x2 tokens of C channels become one of 2 C. B is read off a table of (2w - 1)^2 rows by the offset of
the two tokens. A shifted window at the edge holds tokens that are no neighbours in the image: -100 parts them.

Deviations from the paper, all as timm has them:
- the merging of 2x2 tokens opens a stage and does not close the one before (names `layers.1.downsample`, ...);
- a stage of no more than w x w tokens is one window of its own size, without a shift;
- where the windows do not divide the grid, it is filled up with zeros below and to the right, after the shift, as is
  an odd grid before a merge. What was filled in takes part as keys, and as the -100 is counted from the filled edge,
  tokens of opposite edges may meet (torchvision and Hugging Face fill up before the shift);
- `swin_nano_patch2_window4_32` is our size for small images, three stages of the same layers.

Names of the weights are timm's. Taps: patch_embed.patches, embedded, and in layers.*.blocks.*: attn.q, attn.k, attn.v,
attn.positions, attn.pattern, mlp.hidden, tokens. Those of attn are in windows: image by image, windows row by row.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.layers.attention import MultiHeadAttention
from regard.layers.drop import DropPath, drop_path_rates
from regard.layers.mlp import Mlp
from regard.layers.patch import PatchEmbed
from regard.models.registry import Features, ModelSpec
from regard.taps import Tap

MLP_RATIO = 4  # of all published sizes
TABLE = "relative_position_bias_table"  # what the weights of B are called
APART = -100.0  # added to the logits of two tokens that are no neighbours, as published


def to_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """(B, h, w, C) -> (B, windows, n, C), n = tokens of a window; windows and tokens row after row."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))  # (B, rows, n_h, columns, n_w, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, window: tuple[int, int], rows: int) -> Tensor:
    """(B, rows * columns, n, C) -> (B, rows * n_h, columns * n_w, C), the reverse of `to_windows`."""
    x = x.unflatten(2, window).unflatten(1, (rows, -1))  # (B, rows, columns, n_h, n_w, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def offset_index(window: tuple[int, int]) -> Tensor:
    """(n, n): for each pair of tokens of a window, the row of the table that bears their offset."""
    down, right = (torch.arange(side)[:, None] - torch.arange(side) + side - 1 for side in window)  # from 0 upwards
    index = down[:, None, :, None] * (2 * window[1] - 1) + right[None, :, None, :]  # (n_h, n_w, n_h, n_w)
    return index.flatten(2).flatten(0, 1)


def shift_mask(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """(windows, n, n): 0 between neighbours on a grid shifted by `shift` tokens up and left, else -100."""
    down, right = (_regions(*axis) for axis in zip(grid, window, shift, strict=True))
    regions = to_windows((3 * down[:, None] + right)[None, :, :, None], window)[0, :, :, 0]  # (windows, n)
    return torch.zeros(()).where(regions[:, :, None] == regions[:, None, :], APART)


def _regions(count: int, window: int, shift: int) -> Tensor:
    """Along one axis, filled up to whole windows: 0, and in the last window 1 or, where it was wrapped around, 2."""
    region = torch.zeros(-(-count // window) * window)
    if shift:
        region[-window:] += 1
        region[-shift:] += 1
    return region


def resize_table(table: Tensor, window: tuple[int, int]) -> Tensor:
    """A table ((2w - 1)^2, H) of the offsets in a square window for another window: (offsets, H), same dtype.

    timm's rule: the old offsets are spread over the new range in geometric progression, fine near 0, and the new ones
    read off linearly. The paper resizes bicubically. Within a smaller window the offsets stay, nearly, what they were.
    """
    old = round(len(table) ** 0.5)
    if window == ((old + 1) // 2,) * 2:
        return table
    down, right = (_spreading(old, 2 * side - 1) for side in window)
    moved = torch.einsum("ya,xb,abh->yxh", down, right, table.unflatten(0, (old, old)).double())
    return moved.flatten(0, 1).to(table.dtype)


def _spreading(old: int, new: int) -> Tensor:
    """(new, old): what each of the old offsets -(old // 2), ..., old // 2 along one axis gives to each new one."""
    places, wanted = _spread(old // 2, new // 2), np.arange(new) - new // 2
    return torch.from_numpy(np.stack([np.interp(wanted, places, unit) for unit in np.eye(old)], 1))


def _spread(old: int, new: int) -> np.ndarray:
    """Places of the offsets -old..old: 0, 1, 1 + q, 1 + q + q^2, ..., with the q in [1.01, 1.5] that reaches `new`."""
    low, high, ratio = 1.01, 1.5, 0.0
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if np.sum(ratio ** np.arange(old)) > new:
            high = ratio
        else:
            low = ratio
    ahead = np.cumsum(ratio ** np.arange(old))
    return np.concatenate([-ahead[::-1], [0.0], ahead])


class WindowAttention(MultiHeadAttention):
    """Self-attention within each of W windows of n tokens: (B, W, n, C) -> the same, equation (4).

    mask (W, n, n) is added to the logits of each window. Taps: q, k, v (B*W, H, n, C/H), positions (H, n, n), which is
    B of the equation, and pattern (B*W, H, n, n), which exists only while somebody listens to it.
    """

    relative_position_index: Tensor
    mask: Tensor | None

    def __init__(self, dim: int, num_heads: int, window: tuple[int, int], mask: Tensor | None, drop: float) -> None:
        super().__init__(dim, num_heads, drop)
        self.window = window
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, num_heads))
        self.register_buffer("relative_position_index", offset_index(window), persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.positions = Tap()

    def forward(self, x: Tensor) -> Tensor:  # (B, W, n, C)
        q, k, v = self.split_heads(self.qkv(x.flatten(0, 1)))  # each (B*W, H, n, C/H)
        q, k, v = self.q(q), self.k(k), self.v(v)
        bias = self.positions(self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1))
        bias = bias[None].to(q.dtype)  # (1, H, n, n)
        if self.mask is not None:
            bias = bias + self.mask[:, None].to(q.dtype)  # (W, H, n, n)
            bias = bias.expand(len(x), *bias.shape).flatten(0, 1)  # (B*W, H, n, n)
        if self.pattern.listening:
            logits = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias
            z = self.pattern(logits.softmax(dim=-1)) @ v  # (B*W, H, n, n) @ (B*W, H, n, C/H)
        else:
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B*W, H, n, C/H)
        z = self.drop(self.proj(z.transpose(1, 2).flatten(2)))  # (B*W, n, C)
        return z.unflatten(0, x.shape[:2])


class Block(nn.Module):
    """One block on a grid of tokens (B, h*w, C), equation (3). Tap: tokens (B, h*w, C), what leaves it."""

    def __init__(
        self, dim: int, grid: tuple[int, int], num_heads: int, window: int, shifted: bool, drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.grid = grid
        self.window = (min(window, grid[0]), min(window, grid[1]))
        down, right = (window // 2 if shifted and side > window else 0 for side in grid)
        self.shift = (down, right)
        mask = shift_mask(grid, self.window, self.shift) if any(self.shift) else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, self.window, mask, drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, MLP_RATIO * dim, drop)
        self.drop_path = DropPath(drop_path)
        self.tokens = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return self.tokens(x + self.drop_path(self.mlp(self.norm2(x))))

    def attend(self, x: Tensor) -> Tensor:
        """Shifts, fills up, attends within windows, and back: (B, h*w, C) -> the same."""
        (height, width), (down, right) = self.grid, self.shift
        x = x.unflatten(1, self.grid)  # (B, h, w, C)
        if any(self.shift):
            x = x.roll((-down, -right), (1, 2))
        x = F.pad(x, (0, 0, 0, -width % self.window[1], 0, -height % self.window[0]))
        rows = x.shape[1] // self.window[0]
        x = from_windows(self.attn(to_windows(x, self.window)), self.window, rows)
        x = x[:, :height, :width]  # (B, h, w, C)
        if any(self.shift):
            x = x.roll((down, right), (1, 2))
        return x.flatten(1, 2)


class PatchMerging(nn.Module):
    """Each 2x2 tokens to one of twice the channels: (B, h*w, C) -> (B, ceil(h/2) * ceil(w/2), 2 C)."""

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x.unflatten(1, self.grid), (0, 0, 0, self.grid[1] % 2, 0, self.grid[0] % 2))  # (B, h, w, C), even
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, h/2, 2, w/2, 2, C)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)  # (B, h*w/4, 4 C): down before right
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Merges 2x2 tokens, except in the first stage, then blocks: (B, N, C) -> (B, N', C')."""

    def __init__(self, downsample: nn.Module, blocks: list[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class NormedPatchEmbed(PatchEmbed):
    """Patches with a norm behind: (B, 3, S, S) -> (B, N, C). Tap: patches (B, N, C), before the norm."""

    def __init__(self, img_size: int | tuple[int, int], patch_size: int, dim: int) -> None:
        super().__init__(img_size, patch_size, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Swin(nn.Module):
    """Classifies (B, 3, H, W) images: forward -> logits (B, num_classes); (B, D) where num_classes is 0.

    img_size: the side of square images, or (height, width), multiples of patch_size. Stage i has embed_dim * 2^i
    channels, depths[i] blocks and num_heads[i] heads. drop_rate: dropout after the embedding, the attention and both
    layers of the MLP, as in the published code. drop_path_rate: stochastic depth, rising linearly from 0 in the first
    block to this in the last.
    """

    HEAD = "head.fc"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        window_size: int = 7,
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_embed = NormedPatchEmbed(img_size, patch_size, embed_dim)
        self.embedded = Tap()
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        grid, dim, stages = self.patch_embed.grid, embed_dim, []
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            downsample = PatchMerging(dim, grid) if i else nn.Identity()
            if i:
                grid, dim = (-(-grid[0] // 2), -(-grid[1] // 2)), 2 * dim
            blocks = [Block(dim, grid, heads, window_size, j % 2 == 1, drop_rate, rates.pop(0)) for j in range(depth)]
            stages.append(Stage(downsample, blocks))
        self.layers = nn.Sequential(*stages)
        self.grid = grid
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(OrderedDict(fc=nn.Linear(dim, num_classes) if num_classes else nn.Identity()))
        init_weights(self)

    def features(self, images: Tensor) -> Features:
        """What the model knows of (B, 3, H, W) images before its head; pooled is the mean of the tokens."""
        x = self.embedded(self.pos_drop(self.patch_embed(images)))  # (B, N, C)
        x = self.norm(self.layers(x))  # (B, h*w, D) of the last stage
        return Features(tokens=x, grid=self.grid, prefix=0, cls=None, pooled=x.mean(dim=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).pooled)  # (B, K)


def init_weights(model: Swin) -> None:
    """Draws fresh weights, as timm and the published code:

    | part                                  | weight                         | bias    |
    |---------------------------------------|--------------------------------|---------|
    | qkv, proj, fc1, fc2, reduction, head  | truncated normal, std 0.02     | 0       |
    | tables of relative positions          | truncated normal, std 0.02     |         |
    | patch embedding (a convolution)       | uniform +-1/sqrt(3 P^2)        | as left |
    | norms                                 | 1                              | 0       |
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        elif isinstance(module, nn.Conv2d | nn.LayerNorm):
            module.reset_parameters()


PAPER = "Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, 2021, arXiv 2103.14030"
SIZES: dict[str, dict[str, Any]] = {
    "nano": {"embed_dim": 48, "depths": (2, 2, 2), "num_heads": (3, 6, 12)},
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}
PUBLISHED = (("tiny", 4, 7, 224), ("small", 4, 7, 224), ("base", 4, 7, 224), ("base", 4, 12, 384))
OURS = (("nano", 2, 4, 32),)


def _spec(size: str, patch_size: int, window_size: int, img_size: int) -> ModelSpec:
    sizes = {"patch_size": patch_size, "window_size": window_size, **SIZES[size]}
    name = f"swin_{size}_patch{patch_size}_window{window_size}_{img_size}"
    published = (size, patch_size, window_size, img_size) in PUBLISHED
    return ModelSpec(
        name=name,
        family="swin",
        build=partial(Swin, **sizes),
        img_size=img_size,
        patch_size=patch_size,
        smallest=patch_size * 2 ** len(SIZES[size]["depths"]),  # 2x2 tokens in the last stage
        timm=(name, {}) if published else ("swin_tiny_patch4_window7_224", {**sizes, "img_size": img_size}),
        paper=PAPER,
        deviations="" if published else "not a published size: the paper's layers in three stages, for small images",
    )


SPECS = tuple(_spec(*row) for row in PUBLISHED + OURS)
