"""How alike the tokens of one image become with depth."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.analysis.passes import depths, first_of, passes, patches_of
from regard.models.attending import AttentionLayer
from regard.reporting.pictures.token_similarity import TokenSimilarity


def token_similarity(model: nn.Module, batches: Iterable[Tensor]) -> TokenSimilarity:
    """Mean cosine similarity between the patch tokens of an image, after the embedding and after each block (Gong et
    al. 2021, "Vision Transformers with Patch Diversification", arXiv 2104.12753).

        s = 1 / (N (N - 1)) sum over i != j of z_i . z_j / (|z_i| |z_j|) = (|sum_i u_i|^2 - N) / (N (N - 1))

    with u_i = z_i / |z_i|. Near 1 all patches say the same (over-smoothing). Tokens without a patch are left out.

    Images are streamed; mean and standard deviation over the images are kept. Raises RegardError for a model without a
    stack of blocks over tokens.
    """
    places = depths(model, "token_similarity")
    _, batches = first_of(batches)
    keeps = {name: partial(mean_similarity, layer) for name, layer in places.items()}
    found = [torch.stack([seen[name] for name in places]) for _, seen in passes(model, keeps, batches)]
    each = torch.cat(found, 1)  # (depths, images)
    return TokenSimilarity(
        depths=tuple(places),
        similarity=each.mean(1).numpy(),
        spread=each.std(1, correction=0).numpy(),
        images=each.shape[1],
    )


def mean_similarity(layer: AttentionLayer, tokens: Tensor) -> Tensor:
    """(B, T, D) tokens -> (B,), float64 on the CPU."""
    unit = F.normalize(patches_of(layer, tokens).float(), dim=-1)  # (B, N, D)
    count = unit.shape[1]
    together = unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))
    return together.cpu().double() / (count * (count - 1))
