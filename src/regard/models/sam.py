"""SAM: "Segment Anything" (Kirillov et al., arXiv 2304.02643), section 3 and appendix A.

Three parts turn an image and prompts (points, a box, a rough mask) into masks:

    image encoder    ViTDet once for each image: E (C, h, w)                            (`regard.models.vitdet`)
    prompt encoder   a point is the random Fourier code of its place plus what its kind has learned; a box is its two
                     corners; a mask is scaled down by convolutions and added to E, place by place
    mask decoder     tokens t = [quality, 4 masks, prompts] and the image look at each other, twice:

        t <- LN(t + Attention(t, t));    t <- LN(t + Attention(t, E))
        t <- LN(t + MLP(t));             E <- LN(E + Attention(E, t))

Then E is scaled up four times, and mask i is the product of each of its pixels with an MLP of mask token i. Another MLP
of the quality token estimates each mask's IoU with the truth. Three of the four masks are for one ambiguous prompt (the
whole, a part, a part of that); mask 0 is for several prompts, which leave no doubt.

All prompts of an image are decoded as a batch. Until a prompt has changed it, the image is a batch of one, which is
broadcast. Between few tokens and many places, attention projects the tokens twice and the places never.

Deviations from the paper: those of the published code - the first self-attention of the tokens has no residual and no
places, estimates of IoU are not bounded, no stochastic depth. The text prompt of section 7.5, whose weights were never
published, is not part of the model; `regard segment --text` ranks masks by CLIP instead.

Names of the weights are the authors'. Taps, beside those of `image_encoder`: in mask_decoder.transformer.layers.*,
self_attn, cross_attn_token_to_image and cross_attn_image_to_token each with q, k, v, pattern (prompts, H, N, M), and
mlp.hidden; mask_decoder.transformer.final_attn_token_to_image; mask_decoder.tokens, what the tokens are at last;
mask_decoder.pixels, the image scaled up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.attention import attention_weights
from regard.models.registry import Features, ModelSpec
from regard.models.vitdet import NORM_EPS, ImageEncoder, LayerNorm2d, Mlp
from regard.taps import Tap

MASKS = 4  # of which 0 is for several prompts, 1 to 3 for one
BACKGROUND, FOREGROUND, PADDING = 0, 1, -1  # labels of points
MASK_CHANNELS = 16  # of the convolutions that scale a mask prompt down
UPSCALING = 4  # a mask has so many pixels per side for each place of the image embedding


class Prompts(NamedTuple):
    """P prompts to one image, each of all that is given; places in pixels of the model's input, x before y.

    points: (P, n, 2), labels: (P, n) of 1 (on the object), 0 (beside it) or -1 (none: fills a row up);
    boxes: (P, 4) x0, y0, x1, y1; masks: (P, 1, 4h, 4w), logits as `Masks` has them.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None


class Masks(NamedTuple):
    """logits: (P, k, 4h, 4w), a mask where they are above 0; iou: (P, k), what the model takes its IoU to be."""

    logits: Tensor
    iou: Tensor


class Read(NamedTuple):
    """What the decoder knows of P prompts before it draws; iou: its estimates for all masks."""

    tokens: Tensor  # (P, 1 + MASKS, C)
    image: Tensor  # (P, h*w, C)
    iou: Tensor  # (P, MASKS)


class FourierPositions(nn.Module):
    """Codes of places in 0..1: [sin, cos] of 2 pi (2 c - 1) G, G (2, C/2) drawn once (arXiv 2006.10739, section 6)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def forward(self, places: Tensor) -> Tensor:  # (..., 2) x, y -> (..., C)
        angles = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Prompts as tokens (P, n, C), and as what is added to each place of the image, (P or 1, C, h, w)."""

    def __init__(self, dim: int, grid: tuple[int, int], img_size: int) -> None:
        super().__init__()
        self.grid, self.img_size = grid, img_size
        self.pe_layer = FourierPositions(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, MASK_CHANNELS // 4, kernel_size=2, stride=2),
            LayerNorm2d(MASK_CHANNELS // 4, eps=NORM_EPS),
            nn.GELU(),
            nn.Conv2d(MASK_CHANNELS // 4, MASK_CHANNELS, kernel_size=2, stride=2),
            LayerNorm2d(MASK_CHANNELS, eps=NORM_EPS),
            nn.GELU(),
            nn.Conv2d(MASK_CHANNELS, dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def forward(self, prompts: Prompts) -> tuple[Tensor, Tensor]:
        points, labels, boxes, masks = prompts
        sparse = []
        if points is not None and labels is not None:
            sparse.append(self._points(points, labels, alone=boxes is None))
        if boxes is not None:
            sparse.append(self._corners(boxes))
        if sparse:
            tokens = torch.cat(sparse, dim=1)
        else:
            count = 1 if masks is None else len(masks)
            tokens = self.no_mask_embed.weight.new_zeros(count, 0, self.no_mask_embed.weight.shape[1])
        if masks is None:
            return tokens, self.no_mask_embed.weight[:, :, None, None].expand(1, -1, *self.grid)
        return tokens, self.mask_downscaling(masks)

    def image_positions(self) -> Tensor:
        """(h*w, C): the codes of the places of the image embedding, row after row."""
        height, width = self.grid
        weight = self.no_mask_embed.weight
        y = (torch.arange(height, device=weight.device, dtype=weight.dtype) + 0.5) / height
        x = (torch.arange(width, device=weight.device, dtype=weight.dtype) + 0.5) / width
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        return self.pe_layer(torch.stack([columns, rows], dim=-1)).flatten(0, 1)

    def _points(self, points: Tensor, labels: Tensor, alone: bool) -> Tensor:
        """(P, n, C), with one more that fills up where no box follows."""
        if alone:
            points = F.pad(points, (0, 0, 0, 1))
            labels = F.pad(labels, (0, 1), value=PADDING)
        codes = self._places(points)  # (P, n, C)
        background, foreground, *_ = self._kinds()
        kind = labels[..., None]
        codes = torch.where(kind == PADDING, self.not_a_point_embed.weight, codes)
        codes = torch.where(kind == BACKGROUND, codes + background, codes)
        return torch.where(kind == FOREGROUND, codes + foreground, codes)

    def _corners(self, boxes: Tensor) -> Tensor:  # (P, 4) -> (P, 2, C)
        kinds = torch.cat(self._kinds()[2:])
        return self._places(boxes.unflatten(1, (2, 2))) + kinds

    def _kinds(self) -> list[Tensor]:
        """(1, C) each: background, foreground, first and second corner of a box."""
        return [kind.weight for kind in self.point_embeddings if isinstance(kind, nn.Embedding)]

    def _places(self, pixels: Tensor) -> Tensor:
        """Codes of the middles of pixels (..., 2)."""
        return self.pe_layer((pixels + 0.5) / self.img_size)


class Attention(nn.Module):
    """Attention of queries (B, N, C) to keys and values (B, M, C), in a narrower `inner` width, several heads.

    Either batch may be 1 where the other is not. Taps: q (B, H, N, d), k, v (B, H, M, d), pattern (B, H, N, M).
    """

    def __init__(self, dim: int, num_heads: int, inner: int) -> None:
        super().__init__()
        if inner % num_heads:
            raise RegardError(f"decoder_heads={num_heads}: does not divide the width {inner}; choose a divisor")
        self.num_heads, self.scale = num_heads, (inner // num_heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, inner), nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = self.q(self._heads(self.q_proj(q))), self.k(self._heads(self.k_proj(k)))
        v = self.v(self._heads(self.v_proj(v)))
        z = self.pattern(attention_weights(q, k)) @ v  # (B, H, N, d)
        return self.out_proj(z.transpose(1, 2).flatten(2))  # (B, N, C)

    @property
    def listening(self) -> bool:
        """True while somebody listens to a tap."""
        return any(tap.listening for tap in (self.q, self.k, self.v, self.pattern))

    def _heads(self, x: Tensor) -> Tensor:  # (B, N, inner) -> (B, H, N, d)
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class TokenToImage(Attention):
    """Attention of n tokens to M places: no place is projected; of each head, the tokens are, to the places' width.

        q . (W_k x + b_k) = (W_k^T q) . x + q . b_k,    sum_x a_x (W_v x + b_v) = W_v (sum_x a_x x) + b_v

    q . b_k is the same for all x: softmax does not see it. While somebody listens to a tap, the paper's equations run.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.listening:
            return super().forward(q, k, v)
        keys, values = (proj.weight.unflatten(0, (self.num_heads, -1)) for proj in (self.k_proj, self.v_proj))
        asked = self._heads(self.q_proj(q)) @ (keys * self.scale)  # (B, H, n, C)
        pattern = (asked.flatten(1, 2) @ k.mT).softmax(dim=-1)  # (B, H*n, M)
        seen = (pattern @ v).unflatten(1, (self.num_heads, -1))  # (B, H, n, C)
        z = (seen @ values.mT).transpose(1, 2).flatten(2)  # (B, n, inner)
        return self.out_proj(z + self.v_proj.bias)


class ImageToToken(Attention):
    """Attention of M places to n tokens; again no place is projected:

    (W_q x + b_q) . k = x . (W_q^T k) + b_q . k,    W_o (sum_n a_n v_n) = sum_n a_n (W_o v_n)
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.listening:
            return super().forward(q, k, v)
        k, v = self._heads(self.k_proj(k)) * self.scale, self._heads(self.v_proj(v))  # (B, H, n, d)
        queries, bias = (part.unflatten(0, (self.num_heads, -1)) for part in (self.q_proj.weight, self.q_proj.bias))
        logits = (k @ queries).flatten(1, 2) @ q.mT + (k @ bias[..., None]).flatten(1, 2)  # (B, H*n, M)
        pattern = logits.unflatten(1, (self.num_heads, -1)).softmax(dim=2)  # (B, H, n, M)
        told = v @ self.out_proj.weight.unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)  # (B, H, n, C)
        told = told + self.out_proj.bias / self.num_heads  # the patterns of all heads add up to H
        return pattern.flatten(1, 2).mT @ told.flatten(1, 2)  # (B, M, C)


class TwoWayBlock(nn.Module):
    """One round: tokens (B, n, C) among themselves, tokens to image (B, M, C), an MLP, image to tokens (figure 14)."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = TokenToImage(dim, num_heads, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_dim, nn.ReLU())
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = ImageToToken(dim, num_heads, dim // 2)

    def forward(self, tokens: Tensor, image: Tensor, prompts: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """prompts: the tokens as they came in, (B, n, C); places: codes of the image's places, (M, C)."""
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + prompts
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        at_places = image + places
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + prompts, at_places, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(at_places, tokens + prompts, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """`depth` rounds, then the tokens look at the image once more."""

    def __init__(self, dim: int, depth: int, num_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, num_heads, hidden_dim, first=number == 0) for number in range(depth)
        )
        self.final_attn_token_to_image = TokenToImage(dim, num_heads, dim // 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, prompts: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, C) tokens and a (B or 1, M, C) image -> both, of batch B, after they have looked at each other."""
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, places)
        found = self.final_attn_token_to_image(tokens + prompts, image + places, image)
        return self.norm_final_attn(tokens + found), image


class Perceptron(nn.Module):
    """Three linear layers with ReLU between them, the first two `dim` wide."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out_dim)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


class MaskDecoder(nn.Module):
    """From the image embedding and encoded prompts to masks: `read` compares them, `draw` makes the pixels."""

    def __init__(self, dim: int, depth: int, num_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(dim, depth, num_heads, hidden_dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(MASKS, dim)
        self.tokens = Tap()
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4, eps=NORM_EPS),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.pixels = Tap()
        self.output_hypernetworks_mlps = nn.ModuleList(Perceptron(dim, dim // 8) for _ in range(MASKS))
        self.iou_prediction_head = Perceptron(dim, MASKS)

    def read(self, image: Tensor, places: Tensor, sparse: Tensor, dense: Tensor) -> Read:
        """image: (1, C, h, w) of one image; places: (h*w, C); sparse, dense: as the prompt encoder gives them."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (1 + MASKS, C)
        prompts = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)  # (P, 1 + MASKS + n, C)
        image = (image + dense).flatten(2).mT.contiguous()  # (P or 1, h*w, C)
        tokens, image = self.transformer(prompts, image, places)
        tokens = self.tokens(tokens[:, : 1 + MASKS])
        return Read(tokens, image, self.iou_prediction_head(tokens[:, 0]))

    def draw(self, read: Read, grid: tuple[int, int], which: slice = slice(None)) -> Tensor:
        """Logits (P, k, 4h, 4w) of the masks `which` of all MASKS."""
        image = read.image.transpose(1, 2).unflatten(2, grid)  # (P, C, h, w)
        pixels = self.pixels(self.output_upscaling(image))  # (P, C/8, 4h, 4w)
        numbers = range(MASKS)[which]
        kernels = [self.output_hypernetworks_mlps[number](read.tokens[:, 1 + number]) for number in numbers]
        return (torch.stack(kernels, dim=1) @ pixels.flatten(2)).unflatten(2, pixels.shape[2:])


class SAM(nn.Module):
    """Masks of what prompts mean: forward(images (B, 3, S, S), prompts) -> `Masks` of all four, batches put together.

    S = img_size, a multiple of the patch. dim is the width of prompts and decoder; the other options without
    `decoder_` belong to the image encoder. Of one image, `embed` and then `decode` for as many prompts as are asked.
    """

    HEAD = ""  # there are no classes

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        global_blocks: tuple[int, ...] = (2, 5, 8, 11),
        window: int = 14,
        dim: int = 256,
        decoder_depth: int = 2,
        decoder_heads: int = 8,
        decoder_hidden: int = 2048,
    ) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(
            img_size, patch_size, width, depth, num_heads, global_blocks, window, out_dim=dim
        )
        self.img_size, self.grid = img_size, self.image_encoder.grid
        self.prompt_encoder = PromptEncoder(dim, self.grid, img_size)
        self.mask_decoder = MaskDecoder(dim, decoder_depth, decoder_heads, decoder_hidden)
        init_weights(self)

    @property
    def mask_sides(self) -> tuple[int, int]:
        """Height and width of the masks' logits."""
        return UPSCALING * self.grid[0], UPSCALING * self.grid[1]

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, C, h, w)."""
        return self.image_encoder(images)

    def features(self, images: Tensor) -> Features:
        """What is known of (B, 3, S, S) images before any prompt; pooled is the mean of the places."""
        tokens = self.embed(images).flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, h*w, C), row after row
        return Features(tokens=tokens, grid=self.grid, prefix=0, cls=None, pooled=tokens.mean(1))

    def read(self, image: Tensor, prompts: Prompts) -> Read:
        """What the decoder knows of P prompts to one image (1, C, h, w), its estimates of IoU among it."""
        sparse, dense = self.prompt_encoder(prompts)
        return self.mask_decoder.read(image, self.prompt_encoder.image_positions(), sparse, dense)

    def draw(self, read: Read, which: slice = slice(None)) -> Tensor:
        """Logits (P, k, 4h, 4w) of the masks `which` of the four."""
        return self.mask_decoder.draw(read, self.grid, which)

    def decode(self, image: Tensor, prompts: Prompts) -> Masks:
        """All four masks of P prompts to one image embedding (1, C, h, w)."""
        read = self.read(image, prompts)
        return Masks(self.draw(read), read.iou)

    def forward(self, images: Tensor, points: Tensor, labels: Tensor) -> Masks:
        """points (B, P, n, 2), labels (B, P, n): P prompts to each image -> logits (B*P, 4, 4h, 4w), iou (B*P, 4)."""
        found = [
            self.decode(image[None], Prompts(places, kinds))
            for image, places, kinds in zip(self.embed(images), points, labels, strict=True)
        ]
        return Masks(torch.cat([masks.logits for masks in found]), torch.cat([masks.iou for masks in found]))


def init_weights(model: SAM) -> None:
    """Draws fresh weights: positions, absolute and relative, 0; the rest as PyTorch draws it."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()


SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sam_vit_b": {},
        "sam_vit_l": {"width": 1024, "depth": 24, "num_heads": 16, "global_blocks": (5, 11, 17, 23)},
        "sam_vit_h": {"width": 1280, "depth": 32, "num_heads": 16, "global_blocks": (7, 15, 23, 31)},
        # Ours: trains in minutes on two cores.
        "sam_nano_128": {
            "img_size": 128,
            "patch_size": 8,
            "width": 96,
            "depth": 2,
            "num_heads": 3,
            "global_blocks": (1,),
            "window": 8,
            "dim": 128,
            "decoder_heads": 1,
            "decoder_hidden": 128,
        },
    }
)


def _build(name: str, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> SAM:
    """num_classes is not looked at: a mask has no class."""
    for rate, label in ((drop_rate, "drop_rate"), (drop_path_rate, "drop_path_rate")):
        if rate:
            raise RegardError(f"{label}={rate}: {name} has no dropout and no stochastic depth; leave it at 0")
    return SAM(**{**SIZES[name], "img_size": img_size})


SPECS = tuple(
    ModelSpec(
        name=name,
        family="sam",
        build=partial(_build, name),
        img_size=size.get("img_size", 1024),
        patch_size=size.get("patch_size", 16),
        task="mask-generation",
        paper="Kirillov et al., Segment Anything, 2023, arXiv 2304.02643",
        deviations="those of the published code: no stochastic depth, unbounded estimates of IoU, no text prompt",
    )
    for name, size in SIZES.items()
)
