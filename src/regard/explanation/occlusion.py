"""Occlusion (Zeiler and Fergus 2013, arXiv 1311.2901, section 4.1), computed by Captum.

A window slides over the image; what it covers is replaced. The map is the drop of the logit of the class,
y_c(x) - y_c(x covered), spread over the window's pixels; where windows overlap, the mean of those that cover a pixel.
It is the logit and not, as in the paper, the probability: that changes with the other classes too, and hardly where the
model is sure. What is left of an object beside a small window may be enough for the model, for a transformer above all:
then its map is weak, and a larger window says more.
"""

from __future__ import annotations

from math import ceil
from types import MappingProxyType

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.asking import PASS, captum, observed, refuse_without_captum, scores_of
from regard.explanation.faithfulness import FILLS, filled
from regard.explanation.flow import first_layer
from regard.explanation.method import Method, Passes
from regard.explanation.places import is_known
from regard.models.attending import attention_stack

ACROSS = 14  # windows along the shorter side where no size is given


def occlusion(
    model: nn.Module, images: Tensor, classes: Tensor, *, size: int = 0, stride: int = 0, fill: str = FILLS[0]
) -> Tensor:
    """How much the logit of a class drops without each pixel: images (B, 3, H, W), classes (B,) -> (B, H, W).

    size: side of the window in pixels; 0 is 1/14 of the shorter side, rounded to whole patches in a transformer.
    stride: pixels from one window to the next, at most the size; 0 is the size: no overlap. A last window that sticks
    out is cut. fill: `mean`, the image's mean colour, or `blur`, the image blurred (as in `faithfulness`). Negative
    where the class gains. Raises RegardError for a window that does not fit, or where Captum is not installed.
    """
    if fill not in FILLS:
        raise RegardError(f"fill={fill}: expected one of {', '.join(FILLS)}")
    size, stride = window(model, images, size, stride)
    method = captum().Occlusion(scores_of(model))
    maps = []
    with observed(model), torch.no_grad():
        for some, asked in zip(images.split(PASS), classes.to(images.device).split(PASS), strict=True):
            drops = method.attribute(
                some,
                (some.shape[1], size, size),
                (some.shape[1], stride, stride),
                torch.stack([filled(image)[FILLS.index(fill)] for image in some]),
                additional_forward_args=asked,
                perturbations_per_eval=max(1, PASS // len(some)),
            )
            maps.append(drops[:, 0].float())  # a window covers all colours, so all have the same drop
    return torch.cat(maps)


def window(model: nn.Module, images: Tensor, size: int, stride: int) -> tuple[int, int]:
    """(size, stride) in pixels, chosen where 0. Raises RegardError for what does not fit."""
    shorter = min(images.shape[-2:])
    if size == 0:
        patch = _patch(model, images)
        size = min(shorter, max(1, round(shorter / ACROSS / patch)) * patch)
    if not 1 <= size <= shorter:
        raise RegardError(f"size={size}: expected 1 to {shorter} pixels, the shorter side of the images; 0 chooses")
    stride = stride or size
    if not 1 <= stride <= size:
        raise RegardError(f"stride={stride}: expected 1 to {size} pixels, the size, so that no pixel is left out")
    return size, stride


def _patch(model: nn.Module, images: Tensor) -> int:
    """Pixels on a side of the patches of a transformer of the registry; 1 for what has none."""
    if not is_known(model):
        return 1
    return images.shape[-2] // first_layer(attention_stack(model)).grid[0]


def passes(model: nn.Module, images: Tensor, size: int = 0, stride: int = 0, fill: str = FILLS[0]) -> Passes:
    """One for each window, and one of the whole image."""
    size, stride = window(model, images, size, stride)
    down, across = (ceil((side - size) / stride) + 1 for side in images.shape[-2:])
    return Passes(forward=1 + down * across)


METHOD = Method(
    name="occlusion",
    explain=occlusion,
    of_class=True,
    passes=passes,
    refusal=refuse_without_captum,
    options=MappingProxyType({"size": 0, "stride": 0, "fill": FILLS[0]}),
    choices=MappingProxyType({"fill": FILLS}),
)
