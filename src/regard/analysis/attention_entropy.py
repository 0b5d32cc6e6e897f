"""How widely attention is spread, in bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from regard.analysis.passes import at_once, first_of, layers_with_attention, passes
from regard.analysis.uniform import uniform_pattern
from regard.models.attending import AttentionLayer
from regard.reporting.pictures.attention_entropy import AttentionEntropy


def attention_entropy(model: nn.Module, batches: Iterable[Tensor]) -> AttentionEntropy:
    """Entropy of attention per layer and head, the mean over all queries and images, in bits (Shannon 1948).

        H = mean_i sum_j -A_ij log2 A_ij,   0 for a query that looks at one token, log2 T for one that looks at all T

    All tokens count, with those that have no patch. Where zeros fill up a window (Swin), they are left out and the row
    is brought to 1 again; in windows the most that is possible is log2 of the tokens that a query may see.

    Images are streamed; what is kept is a number per image, layer and head, added up. Raises RegardError for a model
    without attention.
    """
    layers = layers_with_attention(model, "attention_entropy")
    _, batches = first_of(batches)
    keeps = {f"{layer.name}.pattern": partial(mean_entropy, layer) for layer in layers}
    count, sums = 0, [torch.zeros(layer.num_heads, dtype=torch.float64) for layer in layers]
    for images, seen in passes(model, keeps, batches, at_once(layers)):
        count += len(images)
        for total, layer in zip(sums, layers, strict=True):
            total += seen[f"{layer.name}.pattern"].sum(0)
    return AttentionEntropy(
        layers=tuple(layer.name for layer in layers),
        bits=tuple((total / count).numpy() for total in sums),
        uniform=tuple(mean_entropy(layer, uniform_pattern(model, layer)).item() for layer in layers),
        images=count,
    )


def mean_entropy(layer: AttentionLayer, pattern: Tensor) -> Tensor:
    """A layer's pattern as its tap gives it -> (B, H) bits, float64 on the CPU."""
    whole = layer.whole(pattern).float()  # (B, H, T, T)
    rows = torch.special.entr(whole / whole.sum(-1, keepdim=True)).sum(-1) / math.log(2)
    return rows.mean(-1).cpu().double()
