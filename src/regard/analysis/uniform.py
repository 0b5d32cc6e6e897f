"""Attention that is alike everywhere: what measured attention is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.models.attending import AttentionLayer


def uniform_pattern(model: nn.Module, layer: AttentionLayer) -> Tensor:
    """The pattern, as the layer's tap would give it for one image and head, of equal scores: (1, 1, T, T).

    In windows (W, 1, n, n), alike among those that may see each other; what fills a window up takes its share.
    """
    if layer.windows is None:
        return torch.full((1, 1, layer.tokens, layer.tokens), 1 / layer.tokens)
    mask = getattr(model.get_submodule(layer.name), "mask", None)
    places = layer.windows.shape[1]
    scores = torch.zeros(len(layer.windows), places, places) if mask is None else mask.cpu().float()
    return scores.softmax(-1)[:, None]
