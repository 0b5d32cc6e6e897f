"""Where the attention of a model lies in the image: which layers have it, among which tokens, in which windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.attention import MultiHeadAttention
from regard.models.botnet import RelativeAttention
from regard.models.clip import CLIP, Attention, VisionTower
from regard.models.deit import DistilledDeiT
from regard.models.dinov2 import DINOv2
from regard.models.hybrid import HybridViT
from regard.models.swin import Block as SwinBlock
from regard.models.swin import PatchMerging, Swin, WindowAttention, to_windows
from regard.models.t2t import T2TViT
from regard.models.vit import ViT
from regard.models.vitdet import Block as ViTDetBlock

Stacked = ViT | DistilledDeiT | DINOv2 | HybridViT | T2TViT | VisionTower  # blocks over one set of tokens
EMPTY = -1  # a place of a window, or of a merge, that no token of the image fills


@dataclass(frozen=True)
class AttentionLayer:
    """Self-attention among the tokens of an image: those of the patches, row after row, and `prefix` before them.

    name: dotted ("blocks.3.attn"); its taps are NAME.q, NAME.k, NAME.v and NAME.pattern. grid: (height, width) of the
    patches. windows: (W, n), the token in each place of each window, EMPTY where zeros fill it up, and the pattern is
    (B*W, H, n, n); None where each token looks at all T, and it is (B, H, T, T).
    """

    name: str
    grid: tuple[int, int]
    prefix: int
    num_heads: int
    windows: Tensor | None = None

    @property
    def tokens(self) -> int:
        """T, patches and prefix."""
        return self.prefix + self.grid[0] * self.grid[1]

    def whole(self, pattern: Tensor) -> Tensor:
        """The pattern that the tap gives as (B, H, T, T), windows put back in their places, 0 outside them.

        What a window gives to its filling is left out, so rows of such windows sum to less than 1.
        """
        if self.windows is None:
            return pattern
        windows = self.windows.to(pattern.device)
        count, places = windows.shape
        parts = pattern.unflatten(0, (-1, count))  # (B, W, H, n, n)
        whole = pattern.new_zeros(len(parts), pattern.shape[1], self.tokens + 1, self.tokens + 1)
        rows = windows[:, :, None].expand(count, places, places)  # EMPTY is the last row and column, cut off below
        whole[:, :, rows, windows[:, None, :].expand_as(rows)] = parts.transpose(1, 2)
        return whole[:, :, :-1, :-1]


@dataclass(frozen=True)
class Merge:
    """Tokens that become one: members (T', m), the tokens before, EMPTY where zeros fill up; grid: of those before."""

    name: str
    grid: tuple[int, int]
    members: Tensor


def attention_layers(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """The layers in which all tokens, or those of a window, attend to each other, in the order they are passed.

    Attention in the place of single convolutions (BoTNet) counts; local and non-local layers, whose patterns lie
    otherwise, do not. Empty for a model without, and for a module that is not of the registry.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, SwinBlock):
            windows = _window_places(module)
            heads = module.attn.num_heads
            found.append(AttentionLayer(f"{name}.attn", module.grid, 0, heads, windows))
        elif isinstance(module, ViTDetBlock):
            attention = module.attn
            windows = _filled_windows(attention.grid, attention.sides) if attention.window else None
            found.append(AttentionLayer(f"{name}.attn", attention.grid, 0, attention.num_heads, windows))
        elif isinstance(module, RelativeAttention):
            found.append(AttentionLayer(name, module.grid, 0, module.num_heads))
        elif isinstance(module, T2TViT):
            split = module.tokens_to_token
            for which, grid in (("attention1", split.grid1), ("attention2", split.grid2)):
                layer = getattr(split, which)
                inner = ".attn" if hasattr(layer, "attn") else ""
                found.append(AttentionLayer(_joined(name, f"tokens_to_token.{which}{inner}"), grid, 0, 1))
        if isinstance(module, Stacked):
            found += _blocks(name, module)
    return tuple(found)


def attention_stack(model: nn.Module) -> tuple[AttentionLayer | Merge, ...]:
    """The layers through which rollout and relevance go: attention with a residual, over tokens that stay the same
    from layer to layer, or are merged between them (Swin).

    Of T2T-ViT and of hybrids these are the layers of the backbone. Raises RegardError for a model without.
    """
    if isinstance(model, CLIP):
        return tuple(_blocks("visual", model.visual))
    if isinstance(model, Stacked):
        return tuple(_blocks("", model))
    if not isinstance(model, Swin):
        raise RegardError(
            f"{type(model).__name__}: has no stack of attention layers over one set of tokens, so rollout and "
            "relevance are not defined; gradcam, integrated_gradients and occlusion are"
        )
    found: list[AttentionLayer | Merge] = []
    layers = {layer.name: layer for layer in attention_layers(model)}
    for name, module in model.named_modules():
        if isinstance(module, PatchMerging):
            found.append(Merge(name, module.grid, _filled_windows(module.grid, (2, 2))))
        elif isinstance(module, WindowAttention):
            found.append(layers[name])
    return tuple(found)


def reading(model: nn.Module) -> Tensor:
    """(T,), summing to 1: how much of each token of the last layer the head reads.

    The class token; of a distilled model, that and the distillation token by halves; of one that pools over its
    patches (by the mean, or by the maximum, whose choice differs by image), each patch alike. Raises RegardError for a
    model that `attention_stack` refuses.
    """
    last = attention_stack(model)[-1]
    assert isinstance(last, AttentionLayer)
    weights = torch.zeros(last.tokens)
    if last.prefix == 0:
        weights += 1 / last.tokens
    else:
        read = 2 if isinstance(model, DistilledDeiT) else 1
        weights[:read] = 1 / read
    return weights


def _blocks(name: str, model: Stacked) -> list[AttentionLayer]:
    """The blocks of a model over one set of tokens, `name` being its own in a larger one."""
    inner = [
        (child, module) for child, module in model.named_modules() if isinstance(module, MultiHeadAttention | Attention)
    ]
    return [AttentionLayer(_joined(name, child), model.grid, model.prefix, module.num_heads) for child, module in inner]


def _window_places(block: SwinBlock) -> Tensor:
    """(W, n): the tokens of a block's windows, after its shift and filling, as `SwinBlock.attend` cuts them."""
    height, width = block.grid
    places = torch.arange(height * width).reshape(1, height, width, 1)
    places = places.roll((-block.shift[0], -block.shift[1]), (1, 2))
    return to_windows(_filled(places, block.window), block.window)[0, :, :, 0]


def _filled_windows(grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """(W, n): the tokens of the windows, row after row, that a map is cut into."""
    places = torch.arange(grid[0] * grid[1]).reshape(1, *grid, 1)
    return to_windows(_filled(places, window), window)[0, :, :, 0]


def _filled(places: Tensor, window: tuple[int, int]) -> Tensor:
    """(1, h, w, 1) with EMPTY below and to the right, up to whole windows."""
    down, right = -places.shape[1] % window[0], -places.shape[2] % window[1]
    return nn.functional.pad(places, (0, 0, 0, right, 0, down), value=EMPTY)


def _joined(*names: str) -> str:
    return ".".join(name for name in names if name)
