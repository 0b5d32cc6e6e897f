"""CLIP: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., arXiv 2103.00020).

Two towers map images and texts to one space, in which a pair that belongs together has a large cosine:

    i = W_i LN(z_L)[class],   t = W_t LN(s_L)[end of text]                               (paper, figure 3)
    logits = exp(logit_scale) * (i / |i|) (t / |t|)^T

Both are stacks of pre-norm blocks, z' = MSA(LN(z)) + z, z = MLP(LN(z')) + z', with the activation
x sigmoid(1.702 x) ("quick GELU", as in the published weights). Images: ViT with one more norm before the blocks and a
patch embedding without bias. Texts: causal attention over at most 77 tokens; the token read out is the end of text,
which has the highest number of the vocabulary.

Deviations from the paper and its code:
- `features` puts the last norm of the image tower on every token, the code on the class token alone; what is read out
  is the same;
- the learned scale is not cut off at 100: the code does that in its training loop;
- weights and norms are float32 (the published files hold float16, computed norms in float32).

Names of the weights are OpenAI's, which open_clip shares: they are the authors', and q, k, v lie in one matrix as in
our other models; Hugging Face's three matrices are stacked by the converter. So the parts of the text tower stand at
the top, those of the image tower under `visual`.

Taps, of the image tower with `visual.` in front: positions, embedded, and in transformer.resblocks.*: attn.q, attn.k,
attn.v, attn.pattern, mlp.hidden, tokens; and visual.patches.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.patch import patch_grid
from regard.models.registry import Features, ModelSpec
from regard.taps import Tap

MLP_RATIO = 4
CONTEXT_LENGTH = 77
VOCABULARY = 49_408
FIRST_SCALE = math.log(1 / 0.07)  # temperature 0.07 (paper, section 2.5)


class Attention(nn.Module):
    """Self-attention over tokens (B, N, D), with biases; causal: a token sees itself and those before it.

    Taps: q, k, v (B, H, N, D/H) and pattern (B, H, N, N), computed only while somebody listens to it.
    """

    def __init__(self, dim: int, num_heads: int, causal: bool) -> None:
        super().__init__()
        if dim % num_heads:
            raise RegardError(f"num_heads={num_heads}: does not divide the width {dim}; choose a divisor")
        self.num_heads, self.causal = num_heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D)
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, N, 3 D)
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, D/H)
        q, k, v = self.q(q), self.k(k), self.v(v)
        if self.pattern.listening:
            scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)  # (B, H, N, N)
            if self.causal:
                later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
                scores = scores.masked_fill(later, -torch.inf)
            z = self.pattern(scores.softmax(dim=-1)) @ v
        else:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(z.transpose(1, 2).flatten(2))  # (B, N, D)


class Mlp(nn.Module):
    """Linear, quick GELU, linear on (..., D). Tap: hidden (..., 4 D), after the activation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(dim, MLP_RATIO * dim)
        self.hidden = Tap()
        self.c_proj = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(self.hidden(x * torch.sigmoid(1.702 * x)))


class Block(nn.Module):
    """One pre-norm block on tokens (B, N, D). Tap: tokens (B, N, D), what leaves it."""

    def __init__(self, dim: int, num_heads: int, causal: bool) -> None:
        super().__init__()
        self.attn = Attention(dim, num_heads, causal)
        self.ln_1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.ln_2 = nn.LayerNorm(dim)
        self.tokens = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return self.tokens(x + self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """`depth` blocks, one after the other."""

    def __init__(self, dim: int, depth: int, num_heads: int, causal: bool) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(dim, num_heads, causal) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisionTower(nn.Module):
    """(B, 3, S, S) images -> (B, embed_dim); S = img_size, a multiple of patch_size."""

    def __init__(self, img_size: int, patch_size: int, width: int, depth: int, num_heads: int, embed_dim: int) -> None:
        super().__init__()
        self.img_size, self.grid, self.prefix = img_size, patch_grid(img_size, patch_size), 1
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + self.grid[0] * self.grid[1], width))
        self.patches, self.positions, self.embedded = Tap(), Tap(), Tap()
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, depth, num_heads, causal=False)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def features(self, images: Tensor) -> Features:
        """What the tower knows of the images before its projection; pooled is the class token."""
        if images.shape[-2:] != (self.img_size, self.img_size):
            raise RegardError(
                f"images: are {images.shape[-2]}x{images.shape[-1]}, the model was made for "
                f"{self.img_size}x{self.img_size}; resize them, or make the model with their img_size"
            )
        x = self.patches(self.conv1(images).flatten(2).transpose(1, 2))  # (B, D, h, w) -> (B, h*w, D), row after row
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)  # (B, 1 + N, D)
        x = self.embedded(self.ln_pre(x + self.positions(self.positional_embedding)))
        x = self.ln_post(self.transformer(x))
        cls = x[:, 0]  # (B, D)
        return Features(tokens=x, grid=self.grid, prefix=1, cls=cls, pooled=cls)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).pooled @ self.proj  # (B, E)


class CLIP(nn.Module):
    """Compares images with texts: forward(images (B, 3, S, S), tokens (T, L)) -> logits (B, T).

    tokens: int64, L <= context_length, each row with its end of text, the highest number in it; what follows that is
    not looked at. width, depth, num_heads belong to the image tower, those with `text_` to the text tower.
    """

    HEAD = ""  # the texts are the classes

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 32,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        embed_dim: int = 512,
        text_width: int = 512,
        text_depth: int = 12,
        text_heads: int = 8,
        context_length: int = CONTEXT_LENGTH,
        vocabulary: int = VOCABULARY,
    ) -> None:
        super().__init__()
        self.visual = VisionTower(img_size, patch_size, width, depth, num_heads, embed_dim)
        self.token_embedding = nn.Embedding(vocabulary, text_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, text_width))
        self.positions, self.embedded = Tap(), Tap()
        self.transformer = Transformer(text_width, text_depth, text_heads, causal=True)
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.empty(text_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))
        init_weights(self)

    def features(self, images: Tensor) -> Features:
        """What the image tower knows of (B, 3, S, S) images before `visual.proj`; pooled is the class token."""
        return self.visual.features(images)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, embed_dim), of any length."""
        return self.visual(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) int64 -> (B, embed_dim), of any length.

        Raises RegardError where L is more than the context length.
        """
        length, most = tokens.shape[1], self.positional_embedding.shape[0]
        if length > most:
            raise RegardError(f"tokens: rows of {length}, the model reads at most {most}; shorten the texts")
        x = self.token_embedding(tokens) + self.positions(self.positional_embedding)[:length]  # (B, L, D)
        x = self.ln_final(self.transformer(self.embedded(x)))
        last = tokens.argmax(dim=1)  # (B,): the end of text
        return x[torch.arange(len(x), device=x.device), last] @ self.text_projection  # (B, E)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        image = F.normalize(self.encode_image(images), dim=-1)  # (B, E)
        text = F.normalize(self.encode_text(tokens), dim=-1)  # (T, E)
        return self.logit_scale.exp() * image @ text.T  # (B, T)


def init_weights(model: CLIP) -> None:
    """Draws fresh weights, as OpenAI's code; w is the width of the tower, n its depth, N a normal distribution:

    | part                                      | weight                        | bias                  |
    |-------------------------------------------|-------------------------------|-----------------------|
    | token embedding                           | N, std 0.02                   |                       |
    | positions of texts                        | N, std 0.01                   |                       |
    | text: in_proj                             | N, std w^-1/2                 | 0                     |
    | text: out_proj                            | N, std (2 n w)^-1/2           | 0                     |
    | text: c_fc                                | N, std (2 w)^-1/2             | uniform +-w^-1/2      |
    | text: c_proj                              | N, std (2 n w)^-1/2           | uniform +-(4 w)^-1/2  |
    | text_projection                           | N, std w^-1/2                 |                       |
    | image: class embedding, positions, proj   | N, std w^-1/2                 |                       |
    | image: in_proj                            | Xavier uniform                | 0                     |
    | image: out_proj                           | uniform +-w^-1/2              | 0                     |
    | image: c_fc, c_proj, conv1                | uniform +-(inputs)^-1/2       | same                  |
    | norms                                     | 1                             | 0                     |
    | logit_scale                               | ln(1 / 0.07)                  |                       |
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d):
            module.reset_parameters()
    for module in model.modules():
        if isinstance(module, Attention):
            nn.init.xavier_uniform_(module.in_proj_weight)
            nn.init.zeros_(module.in_proj_bias)
            nn.init.zeros_(module.out_proj.bias)
    width, depth = model.text_projection.shape[0], len(model.transformer.resblocks)
    for block in model.transformer.resblocks:
        assert isinstance(block, Block)
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=(2 * depth * width) ** -0.5)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=(2 * depth * width) ** -0.5)
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    nn.init.normal_(model.positional_embedding, std=0.01)
    nn.init.normal_(model.text_projection, std=width**-0.5)
    visual = model.visual
    for weight in (visual.class_embedding, visual.positional_embedding, visual.proj):
        nn.init.normal_(weight, std=visual.proj.shape[0] ** -0.5)
    nn.init.constant_(model.logit_scale, FIRST_SCALE)


def _build(
    name: str, patch_size: int, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float
) -> CLIP:
    """num_classes is not looked at: the classes are the texts that `forward` gets."""
    for rate, label in ((drop_rate, "drop_rate"), (drop_path_rate, "drop_path_rate")):
        if rate:
            raise RegardError(f"{label}={rate}: {name} has no dropout and no stochastic depth; leave it at 0")
    return CLIP(img_size=img_size, patch_size=patch_size)


SPECS = tuple(
    ModelSpec(
        name=f"clip_vit_base_patch{patch_size}",
        family="clip",
        build=partial(_build, f"clip_vit_base_patch{patch_size}", patch_size),
        img_size=224,
        patch_size=patch_size,
        task="image-text",
        paper="Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, "
        "arXiv 2103.00020",
        deviations="float32 weights; the learned scale is not cut off at 100",
    )
    for patch_size in (32, 16)
)
