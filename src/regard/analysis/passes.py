"""What the measures share: images passed through a model that is left as it was, and what is kept on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.inference.precision import device_of
from regard.models.attending import AttentionLayer, Merge, attention_layers, attention_stack
from regard.models.registry import features_of
from regard.taps import record

Keep = Callable[[Tensor], Any]
PATTERN_BYTES = 256_000_000  # of the layer with the most, patterns of the images that pass at once
WITH_ATTENTION = "ViT, DeiT, DINOv2, hybrids, T2T-ViT, Swin, CLIP, SAM and BoTNet"
WITH_TOKENS = "ViT, DeiT, DINOv2, hybrids, T2T-ViT, Swin and CLIP"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; after it each module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def first_of(batches: Iterable[Tensor]) -> tuple[Tensor, Iterator[Tensor]]:
    """The first batch, and all of them. Raises RegardError where there is none."""
    rest = iter(batches)
    for first in rest:
        return first, chain([first], rest)
    raise RegardError("images: none were given; give at least one batch (B, 3, H, W)")


def passes(
    model: nn.Module, keeps: Mapping[str, Keep], batches: Iterable[Tensor], most: int | None = None
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Images, at most `most` at a time, and what `keeps` keeps of each tap: name of the tap -> what of its output.

    The model is left as it was between two steps and after the last.
    """
    device = device_of(model)
    for batch in batches:
        for images in batch.split(most or len(batch)):
            with evaluating(model), ExitStack() as stack:
                seen = {name: stack.enter_context(record(model, name, keep=keep)) for name, keep in keeps.items()}
                features_of(model, images.to(device))
            yield images, {name: one[name] for name, one in seen.items()}


def layers_with_attention(model: nn.Module, what: str) -> tuple[AttentionLayer, ...]:
    """All of `attention_layers`. Raises RegardError, in the name of the figure `what`, where there are none."""
    layers = attention_layers(model)
    if not layers:
        raise RegardError(
            f"{what}: {type(model).__name__} has no attention among the tokens of an image; "
            f"the figure is defined for {WITH_ATTENTION}"
        )
    return layers


def at_once(layers: Iterable[AttentionLayer]) -> int:
    """How many images may pass together, so that one layer's patterns, put back in their places, fit into memory."""
    return max(1, PATTERN_BYTES // max(4 * layer.num_heads * layer.tokens**2 for layer in layers))


def depths(model: nn.Module, what: str) -> dict[str, AttentionLayer]:
    """Where one image's tokens can be read, from the embedded patches to the last block: tap -> grid and prefix there.

    Raises RegardError, in the name of the figure `what`, for a model without such a stack.
    """
    try:
        stack = [part for part in attention_stack(model) if not isinstance(part, Merge)]
    except RegardError:
        raise RegardError(
            f"{what}: {type(model).__name__} has no tokens that pass from block to block; "
            f"the figure is defined for {WITH_TOKENS}"
        ) from None
    tower = "visual." if stack[0].name.startswith("visual.") else ""
    blocks = {f"{layer.name.rpartition('.')[0]}.tokens": layer for layer in stack}
    return {f"{tower}embedded": stack[0]} | blocks


def patches_of(layer: AttentionLayer, tokens: Tensor) -> Tensor:
    """(B, T, D) tokens of a layer -> (B, N, D), those of the patches."""
    return tokens[:, layer.prefix :]


def photo(image: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """A normalised image (3, H, W) as it was: (H, W, 3) uint8."""
    scale, shift = torch.tensor(std)[:, None, None], torch.tensor(mean)[:, None, None]
    pixels = (image.detach().cpu().float() * scale + shift).clamp(0, 1)
    return (255 * pixels).round().byte().permute(1, 2, 0).numpy()


def chosen(count: int, number: int, what: str) -> int:
    """`number` of `count` things, counted from the end where negative. Raises RegardError where there is none such."""
    if not -count <= number < count:
        raise RegardError(f"{what}={number}: expected one of 0 to {count - 1}, or -1 for the last")
    return number % count
