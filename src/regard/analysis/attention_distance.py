"""How far attention looks, in pixels."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from regard.analysis.passes import at_once, first_of, layers_with_attention, passes
from regard.analysis.uniform import uniform_pattern
from regard.models.attending import AttentionLayer
from regard.reporting.pictures.attention_distance import AttentionDistance


def attention_distance(model: nn.Module, batches: Iterable[Tensor]) -> AttentionDistance:
    """Mean attention distance per layer and head, in pixels (ViT, arXiv 2010.11929, appendix D.7).

        d = mean_i sum_j a_ij |x_i - x_j|,   a_ij = A_ij / sum_j A_ij over the patches j

    with x_i the centre of patch i, a patch being image size / grid pixels high and wide. Rows and columns of tokens
    without a patch are dropped and the rows brought to 1 again; the pair of a patch with itself counts, with 0. The
    value of attention that is alike everywhere is what the same formula gives where A_ij is the same for all that
    layer may see: 116.49 for 14 x 14 patches of 16 pixels, less in windows.

    Images are streamed; what is kept is a number per image, layer and head, added up. Raises RegardError for a model
    without attention.
    """
    layers = layers_with_attention(model, "attention_distance")
    first, batches = first_of(batches)
    sides = {layer: tuple(a / b for a, b in zip(first.shape[-2:], layer.grid, strict=True)) for layer in layers}
    apart = {layer.grid: distances(layer.grid, sides[layer]) for layer in layers}
    keeps = {f"{layer.name}.pattern": partial(mean_distance, layer, apart[layer.grid]) for layer in layers}
    count, sums = 0, [torch.zeros(layer.num_heads, dtype=torch.float64) for layer in layers]
    for images, seen in passes(model, keeps, batches, at_once(layers)):
        count += len(images)
        for total, layer in zip(sums, layers, strict=True):
            total += seen[f"{layer.name}.pattern"].sum(0)
    uniform = [mean_distance(layer, apart[layer.grid], uniform_pattern(model, layer)).item() for layer in layers]
    return AttentionDistance(
        layers=tuple(layer.name for layer in layers),
        pixels=tuple((total / count).numpy() for total in sums),
        uniform=tuple(uniform),
        images=count,
    )


def distances(grid: tuple[int, int], sides: tuple[float, ...]) -> Tensor:
    """(N, N) float64: pixels between the centres of patches that are sides[0] pixels high and sides[1] wide."""
    rows, columns = (torch.arange(count).double() * side for count, side in zip(grid, sides, strict=True))
    centres = torch.cartesian_prod(rows, columns)  # (N, 2)
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")


def mean_distance(layer: AttentionLayer, apart: Tensor, pattern: Tensor) -> Tensor:
    """A layer's pattern as its tap gives it -> (B, H) pixels, float64 on the CPU.

    A row that gives nothing at all to the patches has no distance, and is left out of the mean.
    """
    patches = layer.whole(pattern)[:, :, layer.prefix :, layer.prefix :].float()  # (B, H, N, N)
    rows = torch.einsum("bhij,ij->bhi", patches, apart.to(patches)) / patches.sum(-1)
    return rows.nanmean(-1).cpu().double()
