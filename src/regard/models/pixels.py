"""The transformer on pixels: every pixel a token, which is the ViT with patches of one pixel.

    z_0 = [x_cls; x_1 E; ...; x_(n n) E] + E_pos,   x_i the 3 numbers of a pixel of an n x n image

It is the naive start of the ViT paper's section 2 (Dosovitskiy et al. 2020, arXiv 2010.11929), which needs n^2 tokens
and n^4 pairs of them. What grows how, per image and head of a block:

- arithmetic: 2 n^4 d multiply-adds for scores and means, always;
- memory, fused attention: linear, n^2 D, because the kernel never holds the scores;
- memory, while somebody listens to a pattern: n^4 numbers of 4 bytes for each head.

So small images are its field. A batch that cannot fit is refused in one line before it is computed, by the path in
use: activations where attention is fused, the patterns of a block where they are observed.

Deviations: the sizes are ours (no such classifier is published); everything else, names of weights and taps included,
is `regard.models.vit`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.layers.attention import MultiHeadAttention
from regard.layers.position import FIXED_POSITIONS
from regard.models.memory import refuse_too_large
from regard.models.registry import Features, ModelSpec
from regard.models.vit import POOLS, ViT

FLOAT_BYTES = 4
SMALLER = "use a smaller img_size, or a ViT with larger patches"
# Numbers held at once per token and per number of its width: in a pass alone the tokens, their norm, the MLP's hidden
# layer before and after GELU; for a backward pass, in each block, the inputs of both norms, of qkv, of the attention
# (3), of proj, of both layers of the MLP (1 + 4) and of GELU (4), and what leaves the attention.
WIDTHS_ALONE, WIDTHS_KEPT = 10, 17


def pattern_bytes(n: int, num_heads: int) -> int:
    """Bytes of one block's float32 attention patterns among the pixels of one n x n image."""
    return num_heads * n**4 * FLOAT_BYTES


def activation_bytes(n: int, dim: int, depth: int, training: bool) -> int:
    """Bytes of float32 activations that one n x n image needs where attention is fused: linear in its n^2 pixels."""
    return n**2 * dim * FLOAT_BYTES * (depth * WIDTHS_KEPT if training else WIDTHS_ALONE)


class PixelTransformer(ViT):
    """Classifies (B, 3, n, n) images, n = img_size, pixel by pixel: forward -> logits (B, num_classes).

    Arguments are the ViT's. Raises RegardError where one image does not fit into memory, MemoryError where this batch
    does not.
    """

    def __init__(
        self,
        img_size: int = 28,
        embed_dim: int = 96,
        depth: int = 4,
        num_heads: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        positions: str = "learned",
        pool: str = "token",
    ) -> None:
        super().__init__(
            img_size, 1, embed_dim, depth, num_heads, num_classes, drop_rate, drop_path_rate, positions, pool
        )
        self.img_size, self.embed_dim = img_size, embed_dim
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                module.register_forward_pre_hook(_refuse_patterns)

    def features(self, images: Tensor) -> Features:
        """What the model knows of (B, 3, n, n) images before its head."""
        if not torch.compiler.is_compiling():
            each = activation_bytes(self.img_size, self.embed_dim, len(self.blocks), torch.is_grad_enabled())
            what = f"activations of {self.img_size}x{self.img_size} pixels as tokens"
            refuse_too_large(each, len(images), images.device, what, SMALLER)
        return super().features(images)


def _refuse_patterns(attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Asked at each block, because patterns that are recorded stay: scores and pattern lie in memory together."""
    assert isinstance(attention, MultiHeadAttention)
    if not attention.pattern.listening or torch.compiler.is_compiling():
        return
    count, tokens, _ = inputs[0].shape
    each = 2 * attention.num_heads * tokens**2 * FLOAT_BYTES
    advice = f"listen to fewer blocks or use fused attention (listen to no pattern); or {SMALLER}"
    refuse_too_large(each, count, inputs[0].device, f"attention patterns of {tokens:,} tokens", advice)


DIM, DEPTH, HEADS = 96, 4, 3  # those of vit_nano_patch4_32
SIZES: dict[str, Any] = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}


def _spec(n: int) -> ModelSpec:
    return ModelSpec(
        name=f"pixel_transformer_{n}",
        family="pixel",
        build=partial(PixelTransformer, **SIZES),
        img_size=n,
        patch_size=1,
        options={"positions": ("learned", *FIXED_POSITIONS, "none"), "pool": tuple(POOLS)},
        paper="the naive application to pixels of Dosovitskiy et al., An Image is Worth 16x16 Words, 2020, section 2",
        timm=("vit_tiny_patch16_224", {**SIZES, "patch_size": 1}),
        deviations=(
            "our sizes. Memory of an image is linear in its pixels, "
            f"{activation_bytes(n, DIM, DEPTH, training=True) / 1e6:.1f} MB of activations in training; "
            f"a block's patterns take heads x n^4 x 4 bytes, {pattern_bytes(n, HEADS) / 1e6:.2f} MB, only while "
            f"observed; arithmetic grows with n^4, {2 * DIM * n**4 / 1e6:,.1f} M multiply-adds a block, always"
        ),
    )


SPECS = tuple(_spec(n) for n in (8, 16, 28, 32))
