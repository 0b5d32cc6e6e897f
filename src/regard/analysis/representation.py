"""Which images a model takes for alike, beside which are alike in their pixels.

    pixels:     d(x, y) = sqrt(mean (x - y)^2)           grey levels, over all pixels and colours
    embedding:  d(x, y) = 1 - f(x).f(y) / (|f(x)| |f(y)|)      f: what the model's head reads

The deck's example is that of two dogs and a boat: by the mean squared error of the pixels a dog may be nearer to a boat
than to another dog; by a learned representation it should not be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.analysis.passes import evaluating
from regard.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from regard.errors import RegardError
from regard.inference.precision import device_of
from regard.models.registry import features_of
from regard.reporting.pictures.representation import Representation

FEWEST = 3
THUMB = 48  # pixels a side of the images drawn
RGB = tuple[float, float, float]


def representation(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    embed: Callable[[Tensor], Tensor] | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    neighbours: int = 5,
    ids: Sequence[str] = (),
    classes: Sequence[str] = (),
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
) -> Representation:
    """Distances between all pairs of images, in pixels and in the model, and each image's nearest neighbours in both.

    batches: (B, 3, H, W) normalised by mean and std, N images in all; their pixels are kept as bytes and the distances
    as N x N numbers. embed: (B, 3, H, W) -> (B, D) for a module that is none of the registry's. labels: (N,) class of
    each, by which the precision of retrieval is counted: the share of the `neighbours` nearest that are of the same
    class. ids, classes: names of the images and classes. Raises RegardError for fewer than three images.
    """
    if neighbours < 1:
        raise RegardError(f"neighbours={neighbours}: expected at least 1")
    pixels, vectors = [], []
    device = device_of(model)
    scale, shift = (torch.tensor(values)[:, None, None] for values in (std, mean))
    with evaluating(model):
        for images in batches:
            on_device = images.to(device)
            vectors.append((embed(on_device) if embed else features_of(model, on_device).pooled).double().cpu())
            pixels.append((255 * (images.cpu().float() * scale + shift)).round().clamp(0, 255).byte())
    count = sum(map(len, pixels))
    if count < FEWEST:
        raise RegardError(f"representation: {count} images; it needs {FEWEST} or more")
    if labels is not None and len(labels) != count:
        raise RegardError(f"representation: {len(labels)} labels for {count} images; give one for each")
    every = torch.cat(pixels)
    unit = F.normalize(torch.cat(vectors), dim=1)
    return Representation(
        ids=tuple(ids) or tuple(f"image/{number}" for number in range(count)),
        labels=None if labels is None else np.asarray(labels),
        classes=tuple(classes),
        pixel=pixel_distances(every),
        embedding=(1 - unit @ unit.T).clamp_min(0).fill_diagonal_(0).numpy(),
        thumbs=F.interpolate(every.float(), THUMB, mode="area").round().byte().permute(0, 2, 3, 1).numpy(),
        neighbours=min(neighbours, count - 1),
    )


def pixel_distances(pixels: Tensor) -> np.ndarray:
    """(N, N) float64: the root of the mean squared difference of (N, 3, H, W) uint8."""
    flat = pixels.flatten(1)
    squared = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for number, one in enumerate(flat[:-1]):
        # Differences of bytes are at most 255, their squares exact in float32; float64 sums them.
        apart = (flat[number + 1 :].float() - one.float()).square().mean(1, dtype=torch.float64)
        squared[number, number + 1 :] = squared[number + 1 :, number] = apart
    return squared.sqrt().numpy()
