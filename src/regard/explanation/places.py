"""The last place in a classifier where a position in the image still is a position.

That is the last output of a module which is a map, (B, C, h, w) or (B, h, w, C), or tokens of patches (B, T, C), and
whose patches the answer depends on: the map before pooling in a CNN; the last norm in a transformer that pools over its
patches (Swin); the first norm of the last block where the answer is read from a class token, because after that block
patches reach nothing any more (their gradient is zero).

Of a module that is not of the registry, tokens count as patches if their number, less a few that come first, covers the
image with squares: as many latent vectors would be taken for patches, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.asking import followed, logits_of, observed
from regard.models.attending import AttentionLayer, Stacked, attention_stack
from regard.models.clip import VisionTower
from regard.models.swin import Swin
from regard.taps import record

MOST_PREFIX = 8  # tokens before the patches, class, distillation and register tokens together
# A projection is a part of something (keys, values, hidden features); a flattened map has channels where tokens are.
# Adaptive pools, by whatever library, are left out too: they may also blow up a map (VGG on small images).
PARTS = (nn.Linear, nn.Flatten)
Layout = Literal["channels first", "channels last", "tokens"]


@dataclass(frozen=True)
class Place:
    """An output of a module that lies on a grid over the image.

    name: dotted, of the module; call: which of its calls in a pass. grid: (height, width). prefix: tokens before those
    of the patches.
    """

    name: str
    layout: Layout
    grid: tuple[int, int]
    prefix: int = 0
    call: int = 0

    def of(self, seen: Any) -> Tensor:
        """The output, of what `record` has seen under this name."""
        return seen[self.call] if isinstance(seen, list) else seen

    def cells(self, output: Tensor) -> Tensor:
        """The output, or its gradient, as (B, h*w, C), row after row."""
        if self.layout == "channels first":
            return output.flatten(2).transpose(1, 2)
        if self.layout == "channels last":
            return output.flatten(1, 2)
        return output[:, self.prefix :]

    def __str__(self) -> str:
        height, width = self.grid
        kind = "patches" if self.layout == "tokens" else "map"
        return f"{self.name} ({kind} {height}x{width})"


def last_place(model: nn.Module, images: Tensor) -> Place:
    """The last place that the answer to images (B, 3, H, W) depends on: known of the transformers of the registry,
    found in any other module by `find_place`.

    Raises RegardError where there is none, or the module is compiled.
    """
    if is_known(model):
        last = attention_stack(model)[-1]
        assert isinstance(last, AttentionLayer)
        name = f"{last.name.removesuffix('.attn')}.norm1" if last.prefix else "norm"
        return Place(name, "tokens", last.grid, last.prefix)
    return find_place(model, images)


def is_known(model: nn.Module) -> bool:
    """Whether `last_place` needs no pass for this model."""
    return isinstance(model, Stacked | Swin) and not isinstance(model, VisionTower)


def find_place(model: nn.Module, images: Tensor) -> Place:
    """The last place of a module of which nothing is known, by a pass of the first image there and back."""
    order = count()
    with observed(model), record(model, "**", keep=lambda output: (next(order), output)) as seen:
        # The image twice, so that what has no batch (positions, biases) is told from what has one.
        logits = logits_of(model, followed(images[:1].repeat(2, 1, 1, 1)))
        places = _places(model, seen, (images.shape[-2], images.shape[-1]))
        live = [(place, output) for place, output in places if output.requires_grad]
        if live and logits.requires_grad:
            # Back from a mixture of all classes: one alone may be cut off by a ReLU.
            mixture = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
            gradients = torch.autograd.grad(logits, [output for _, output in live], mixture, allow_unused=True)
            for (place, _), gradient in zip(live, gradients, strict=True):
                if gradient is not None and place.cells(gradient).any():
                    return place
    reason = (
        "no gradient reaches a map of it (is its head all zeros, or its body under torch.no_grad?)"
        if places
        else "none of its modules gives a map (B, C, h, w) or tokens of patches (B, T, C)"
    )
    raise RegardError(
        f"{type(model).__name__}: {reason}, so gradcam is not defined; integrated_gradients and occlusion need no map"
    )


def _places(model: nn.Module, seen: dict[str, Any], sides: tuple[int, int]) -> list[tuple[Place, Tensor]]:
    """What lies on a grid over an image of `sides`, with the output, the last first; seen: name -> (order, output)."""
    outputs = [
        (order, name, call, output)
        for name, calls in seen.items()
        for call, (order, output) in enumerate(calls if isinstance(calls, list) else [calls])
        if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == 2
    ]
    lengths = {output.shape[1] for *_, output in outputs if output.ndim == 3}
    places = []
    for _, name, call, output in sorted(outputs, key=lambda found: found[0], reverse=True):
        module = model.get_submodule(name)
        if isinstance(module, PARTS) or "adaptive" in type(module).__name__.lower():
            continue
        if place := _place(name, call, output, lengths, sides):
            places.append((place, output))
    return places


def _place(name: str, call: int, output: Tensor, lengths: set[int], sides: tuple[int, int]) -> Place | None:
    """What an output is to an image of `sides`; lengths: of all sequences of the model."""
    if output.ndim == 3:
        for prefix in range(min(MOST_PREFIX, output.shape[1] // 3) + 1):  # patches are two thirds of them at least
            if grid := token_grid(output.shape[1] - prefix, sides):
                return Place(name, "tokens", grid, prefix, call)
        return None
    layouts: tuple[tuple[Layout, tuple[int, int]], ...] = (
        ("channels first", (output.shape[2], output.shape[3])),
        ("channels last", (output.shape[1], output.shape[2])),
    )
    for layout, grid in layouts:
        # A side as long as a sequence is no side: these are patterns, or heads over tokens.
        if grid[0] * grid[1] > 1 and _alike(grid, sides) and not lengths & {*grid}:
            return Place(name, layout, grid, 0, call)
    return None


def token_grid(tokens: int, sides: tuple[int, int]) -> tuple[int, int] | None:
    """(height, width) of square patches that cover an image of `sides` with so many tokens, more than one."""
    for height in range(1, tokens + 1):
        width = tokens // height
        if tokens > 1 and height * width == tokens and _square_patches((height, width), sides):
            return height, width
    return None


def _square_patches(grid: tuple[int, int], sides: tuple[int, int]) -> bool:
    """Whether one patch side gives this grid, what is left over of the image being cut off, or filled up."""
    (h, w), (height, width) = grid, sides
    cut = height * w < width * (h + 1) and width * h < height * (w + 1)  # h = floor(height / p), w = floor(width / p)
    filled = height * (w - 1) < width * h and width * (h - 1) < height * w  # h = ceil(height / p), ...
    return cut or filled


def _alike(grid: tuple[int, int], sides: tuple[int, int]) -> bool:
    """Whether a map has the shape of the image, up to one row or column that strides and padding take or add."""
    (h, w), (height, width) = grid, sides
    return (h - 1) * width < (w + 1) * height and (w - 1) * height < (h + 1) * width
