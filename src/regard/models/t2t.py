"""T2T-ViT: "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet" (Yuan et al. 2021, arXiv
2101.11986).

    T'  = MLP(MSA(T))                      a token transformer over the tokens T                       (1)
    I   = reshape(T')                      re-structurisation: N tokens back into a map of h x w       (2)
    T_o = unfold(I; kernel k, overlap s)   soft split: windows k x k with stride k - s, flattened      (3)

An image passes (3), (1), (2), (3), (1), (2), (3), then a linear layer: 224 pixels become 56x56, 28x28 and 14x14 tokens.
A class token and fixed sinusoidal positions join them, and a deep, narrow ViT reads them.

Equation (1) narrows tokens of c numbers to C = 64, so its residual is the value v in place of T. With
(q, k, v) = LN(T) W and MLP of one hidden layer of C:

    token transformer   z_i = sum_j softmax_j(q_i . k_j / sqrt(c)) v_j
    token performer     z_i = sum_j phi(q_i) . phi(k_j) v_j / (sum_j phi(q_i) . phi(k_j) + 1e-8)
                        phi(x) = exp(W_m x - |x|^2 / 2) / sqrt(m),   m = C / 2 fixed random features
    both                T = v + proj(z),   T' = T + MLP(LN(T))

The performer ("Rethinking Attention with Performers", arXiv 2009.14794) sums over j once for all i, so its time and
memory grow with N and not with N^2; its attention matrix is computed only while somebody listens to its pattern.

What the paper leaves open or its code does otherwise, and what is done here:
- the backbone's attention is scaled by d_h^-0.5, d_h the width of a head, as in the published accuracies. The authors'
  code has D^-0.5 where a model is built with its `pretrained` flag, which their evaluation does not use;
- the token transformer is scaled by c^-0.5, with c the 147 or 576 numbers of a token before it is narrowed, and not by
  the width 64 of q and k: this is the authors' code, and the published weights were trained so;
- qkv of the backbone and of the token transformer have no bias; the performer's has one, in the order k, q, v;
- norms have torch's epsilon, 1e-5; the performer always drops 0.1 of its two outputs in training;
- positions and the performer's W_m are frozen parameters, stored in every file: `requires_grad_` leaves them frozen.
  Another image size is another table; published tables are resampled by `regard.layers.position.resample_positions`
  (with antialiasing, where the authors resample without);
- `t2t_vit_14_384` is the authors' fine-tuned T2T-ViT-14, the same layers at 384 pixels;
- `t2t_vit_nano_32` is our size for small images: token width 32, a first soft split of 3x3 windows with stride 1, so
  that 32 pixels become 32x32, 16x16 and 8x8 tokens.

Names of the weights are the authors'. Taps: tokens_to_token.split0|split1|split2 (after each soft split),
tokens_to_token.attention1|attention2 with q, k, v, pattern (under attn. in a token transformer), mlp.hidden and tokens
(what leaves it), tokens_to_token.patches (after the linear layer); then those of the ViT: positions, embedded, and in
blocks.*: attn.q, attn.k, attn.v, attn.pattern, mlp.hidden, tokens.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.attention import MultiHeadAttention
from regard.layers.drop import DropPath, drop_path_rates
from regard.layers.mlp import Mlp
from regard.layers.patch import image_sides, patch_grid
from regard.layers.position import sinusoidal_positions
from regard.models.registry import Features, ModelSpec
from regard.taps import Tap

Window = tuple[int, int, int]  # kernel, stride, padding in rows and columns of the map
WINDOWS: tuple[Window, Window, Window] = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
PERFORMER_DROP = 0.1
PERFORMER_EPS = 1e-8


def soft_split(image: Tensor, kernel: int, stride: int, padding: int = 0) -> Tensor:
    """Overlapping windows of a map (B, C, H, W) as tokens (B, h*w, C*kernel*kernel), row after row; equation (3).

    h = (H + 2 padding - kernel) // stride + 1. Within a token the channel is the slowest, then row, then column.
    """
    return F.unfold(image, kernel, stride=stride, padding=padding).transpose(1, 2)


def restructure(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, h*w, C) as the map (B, C, h, w) that they stand for; equation (2)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


class TokenAttention(nn.Module):
    """One head over tokens (B, N, c) that narrows them to (B, N, C): v + proj(softmax(q k^T / sqrt(c)) v).

    Taps: q, k, v (B, 1, N, C) and pattern (B, 1, N, N), which exists only while somebody listens to it.
    """

    def __init__(self, dim: int, token_dim: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.qkv = nn.Linear(dim, 3 * token_dim, bias=False)
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()
        self.proj = nn.Linear(token_dim, token_dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, c)
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)  # each (B, 1, N, C)
        q, k, v = self.q(q), self.k(k), self.v(v)
        if self.pattern.listening:
            z = self.pattern((q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)) @ v  # (B, 1, N, C)
        else:
            z = F.scaled_dot_product_attention(q, k, v, scale=self.scale)  # (B, 1, N, C)
        return (v + self.proj(z)).squeeze(1)  # (B, N, C)


class TokenTransformer(nn.Module):
    """Equation (1) with softmax attention: tokens (B, N, c) -> (B, N, C). Tap: tokens, what leaves it."""

    def __init__(self, dim: int, token_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = TokenAttention(dim, token_dim)
        self.norm2 = nn.LayerNorm(token_dim)
        self.mlp = Mlp(token_dim, token_dim)
        self.tokens = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1(x))
        return self.tokens(x + self.mlp(self.norm2(x)))


class TokenPerformer(nn.Module):
    """Equation (1) with the performer's attention: tokens (B, N, c) -> (B, N, C).

    Taps: q, k, v (B, 1, N, C), mlp.hidden and tokens (B, N, C), and pattern (B, 1, N, N), the matrix that the sums
    over random features stand for, which exists only while somebody listens to it. Features and their sums are float32
    in any precision, because they are exponentials.
    """

    def __init__(self, dim: int, token_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.kqv = nn.Linear(dim, 3 * token_dim)
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()
        self.w = nn.Parameter(torch.empty(token_dim // 2, token_dim), requires_grad=False)
        self.proj = nn.Linear(token_dim, token_dim)
        self.drop = nn.Dropout(PERFORMER_DROP)
        self.norm2 = nn.LayerNorm(token_dim)
        layers: dict[str, nn.Module] = {
            "0": nn.Linear(token_dim, token_dim),
            "1": nn.GELU(),
            "hidden": Tap(),
            "2": nn.Linear(token_dim, token_dim),
            "3": nn.Dropout(PERFORMER_DROP),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.tokens = Tap()

    def forward(self, x: Tensor) -> Tensor:  # (B, N, c)
        k, q, v = self.kqv(self.norm1(x)).unsqueeze(1).chunk(3, dim=-1)  # each (B, 1, N, C)
        q, k, v = self.q(q), self.k(k), self.v(v)
        with _no_autocast(x.device):
            z = self._mix(self.kernel(q), self.kernel(k), v.float()).to(v.dtype)  # (B, 1, N, C)
        x = (v + self.drop(self.proj(z))).squeeze(1)  # (B, N, C)
        return self.tokens(x + self.mlp(self.norm2(x)))

    def kernel(self, x: Tensor) -> Tensor:
        """phi: (..., C) -> (..., m), positive, with E[phi(q) . phi(k)] = exp(q . k)."""
        x, w = x.float(), self.w.float()
        return (x @ w.T - x.square().sum(dim=-1, keepdim=True) / 2).exp() / math.sqrt(len(w))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Means of v (B, 1, N, C) with weights phi(q_i) . phi(k_j); q, k: the features (B, 1, N, m)."""
        total = q @ k.sum(dim=-2).unsqueeze(-1) + PERFORMER_EPS  # (B, 1, N, 1)
        if self.pattern.listening:
            return self.pattern(q @ k.transpose(-2, -1) / total) @ v  # (B, 1, N, N) @ (B, 1, N, C)
        return q @ (k.transpose(-2, -1) @ v) / total  # (B, 1, N, m) @ (B, 1, m, C)


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


MIXERS = {"transformer": TokenTransformer, "performer": TokenPerformer}
Mixer = Literal["transformer", "performer"]


class TokensToToken(nn.Module):
    """The T2T module: images (B, 3, H, W) of `img_size` -> tokens (B, N, D), row after row of `grid`.

    Taps: split0, split1, split2, the tokens after each soft split, and patches (B, N, D).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        windows: tuple[Window, Window, Window],
        mixer: Mixer,
        token_dim: int,
        dim: int,
    ) -> None:
        super().__init__()
        self.img_size, self.windows = image_sides(img_size), windows
        (first, stride1, _), (second, stride2, _), (third, stride3, _) = windows
        self.grid = patch_grid(img_size, stride1 * stride2 * stride3)
        self.grid1 = patch_grid(img_size, stride1)
        self.grid2 = patch_grid(img_size, stride1 * stride2)
        self.split0, self.split1, self.split2 = Tap(), Tap(), Tap()
        self.attention1 = MIXERS[mixer](3 * first**2, token_dim)
        self.attention2 = MIXERS[mixer](token_dim * second**2, token_dim)
        self.project = nn.Linear(token_dim * third**2, dim)
        self.patches = Tap()

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W)
        height, width = self.img_size
        if images.shape[-2:] != (height, width):
            raise RegardError(
                f"images: are {images.shape[-2]}x{images.shape[-1]}, the model was made for {height}x{width}; "
                "resize them, or make the model with their img_size"
            )
        x = self.split0(soft_split(images, *self.windows[0]))  # (B, 56*56, 147) of 224 pixels
        x = restructure(self.attention1(x), self.grid1)  # (B, 64, 56, 56)
        x = self.split1(soft_split(x, *self.windows[1]))  # (B, 28*28, 576)
        x = restructure(self.attention2(x), self.grid2)  # (B, 64, 28, 28)
        x = self.split2(soft_split(x, *self.windows[2]))  # (B, 14*14, 576)
        return self.patches(self.project(x))  # (B, 14*14, D)


class Attention(MultiHeadAttention):
    """The ViT's attention, but qkv has no bias."""

    def __init__(self, dim: int, num_heads: int, drop: float) -> None:
        super().__init__(dim, num_heads, drop)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)


class Block(nn.Module):
    """One block of the backbone on tokens (B, N, D), pre-norm. Tap: tokens (B, N, D), what leaves it."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim, drop)
        self.drop_path = DropPath(drop_path)
        self.tokens = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return self.tokens(x + self.drop_path(self.mlp(self.norm2(x))))


class T2TViT(nn.Module):
    """Classifies (B, 3, H, W) images: forward -> logits (B, num_classes); (B, D) where num_classes is 0.

    img_size: the side of square images, or (height, width), multiples of the strides' product (16). windows: kernel,
    stride and padding of the three soft splits, each with a padding that makes its map smaller by its stride exactly.
    mixer: what passes between them. drop_rate: dropout after the positions and in the backbone; drop_path_rate:
    stochastic depth of its last block.
    """

    HEAD = "head"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        embed_dim: int = 384,
        depth: int = 14,
        num_heads: int = 6,
        mlp_ratio: int = 3,
        mixer: Mixer = "performer",
        token_dim: int = 64,
        windows: tuple[Window, Window, Window] = WINDOWS,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens_to_token = TokensToToken(img_size, windows, mixer, token_dim, embed_dim)
        self.grid, self.prefix = self.tokens_to_token.grid, 1
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        table = sinusoidal_positions(1 + self.grid[0] * self.grid[1], embed_dim)  # the class token is position 0
        self.pos_embed = nn.Parameter(table.unsqueeze(0), requires_grad=False)  # (1, 1 + N, D)
        self.positions, self.embedded = Tap(), Tap()
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, mlp_ratio, drop_rate, rate) for rate in rates))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def requires_grad_(self, requires_grad: bool = True) -> T2TViT:
        """As of any module, but positions and random features stay frozen."""
        super().requires_grad_(requires_grad)
        self.pos_embed.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, TokenPerformer):
                module.w.requires_grad_(False)
        return self

    def features(self, images: Tensor) -> Features:
        """What the model knows of (B, 3, H, W) images before its head; pooled is the class token."""
        x = self.tokens_to_token(images)  # (B, N, D)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, 1 + N, D)
        x = self.embedded(self.pos_drop(x + self.positions(self.pos_embed)))
        x = self.norm(self.blocks(x))
        cls = x[:, 0]  # (B, D)
        return Features(tokens=x, grid=self.grid, prefix=1, cls=cls, pooled=cls)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).pooled)  # (B, K)


def init_weights(model: T2TViT) -> None:
    """Draws fresh weights, as the authors:

    | part                             | weight                                          | bias |
    |----------------------------------|-------------------------------------------------|------|
    | all linear layers                | truncated normal, std 0.02                      | 0    |
    | class token                      | truncated normal, std 0.02                      |      |
    | w of a performer, (m, C), frozen | orthogonal rows of length sqrt(m)               |      |
    | positions, frozen                | sines and cosines                               |      |
    | norms                            | 1                                               | 0    |
    """
    nn.init.trunc_normal_(model.cls_token, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, TokenPerformer):
            nn.init.orthogonal_(module.w, gain=math.sqrt(len(module.w)))


SIZES = {  # embed_dim, depth, num_heads, mlp_ratio
    "7": (256, 7, 4, 2),
    "10": (256, 10, 4, 2),
    "12": (256, 12, 4, 2),
    "14": (384, 14, 6, 3),
    "19": (448, 19, 7, 3),
    "24": (512, 24, 8, 3),
}
PAPER = (
    "Yuan et al., Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet, 2021, arXiv 2101.11986"
)
SCALES = "attention scaled by d_h^-0.5 (backbone) and c^-0.5 (token transformer), as the published weights"


def _spec(name: str, size: str, mixer: Mixer, img_size: int = 224) -> ModelSpec:
    embed_dim, depth, num_heads, mlp_ratio = SIZES[size]
    sizes: dict[str, Any] = {
        "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio, "mixer": mixer
    }  # fmt: skip
    return ModelSpec(
        name=name,
        family="t2t",
        build=partial(T2TViT, **sizes),
        img_size=img_size,
        patch_size=16,
        paper=PAPER,
        deviations=SCALES,
    )


NANO = ModelSpec(
    name="t2t_vit_nano_32",
    family="t2t",
    build=partial(
        T2TViT,
        embed_dim=96,
        depth=4,
        num_heads=3,
        mlp_ratio=2,
        token_dim=32,
        windows=((3, 1, 1), (3, 2, 1), (3, 2, 1)),
    ),
    img_size=32,
    patch_size=4,
    paper=PAPER,
    deviations="not a published size: the paper's layers, with a first soft split of 3x3 windows for small images",
)
SPECS = (
    *(_spec(f"t2t_vit_{size}", size, "performer") for size in SIZES),
    *(_spec(f"t2t_vit_t_{size}", size, "transformer") for size in ("14", "19", "24")),
    _spec("t2t_vit_14_384", "14", "performer", 384),
    NANO,
)
