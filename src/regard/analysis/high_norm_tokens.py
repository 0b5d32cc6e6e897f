"""Patch tokens that are much longer than the others of their image."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from regard.analysis.passes import depths, first_of, passes, patches_of, photo
from regard.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from regard.models.attending import AttentionLayer
from regard.reporting.pictures.high_norm_tokens import HighNormTokens

RGB = tuple[float, float, float]
USUAL = 0.9  # share of an image's patches
TIMES = 2.0


def high_norm_tokens(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    times: float = TIMES,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
) -> HighNormTokens:
    """Norms of the patch tokens by depth, and the warning of artefacts (Darcet et al. 2023, "Vision Transformers Need
    Registers", arXiv 2309.16588).

        artefact: |z_i| > 2 q,   q the norm below which 90% of the patches of the same image lie, at the same depth

    The paper cuts at a norm of 150 where nearly all tokens of DINOv2-g lie between 0 and 100; as a multiple of what is
    usual in the image itself, the cut needs no scale, which differs by model and depth. It finds few tokens that are
    far from all others, and no object or background whose norms differ by what they show, as long as it fills a tenth
    of the image; artefacts that are more than a tenth (the paper counts 2%) would pass for usual. Those at the last
    depth have dropped what they knew of their place and hold what the model keeps of the whole image, so maps and dense
    tasks that read them mislead there: from half a percent of the patches on, one in 196, the figure warns of them.
    Tokens without a patch are left out.

    times: the multiple. mean, std: by which the images were normalised, for the photo alone. Images are streamed; of
    each but the first three numbers per depth are kept. Raises RegardError for a model without a stack of blocks.
    """
    places = depths(model, "high_norm_tokens")
    first, batches = first_of(batches)
    keeps = {name: partial(norms, layer) for name, layer in places.items()}
    found: list[Tensor] = []
    of_first: list[Tensor] = []
    for _, seen in passes(model, keeps, batches):
        if not of_first:
            of_first = [seen[name][0] for name in places]
        found.append(torch.stack([_summary(seen[name], times) for name in places]))  # (depths, 3, B)
    each = torch.cat(found, -1)
    return HighNormTokens(
        depths=tuple(places),
        times=times,
        usual=each[:, 0].mean(-1).numpy(),
        largest=each[:, 1].mean(-1).numpy(),
        share=each[:, 2].mean(-1).numpy(),
        maps=tuple(one.unflatten(0, layer.grid).numpy() for one, layer in zip(of_first, places.values(), strict=True)),
        images=each.shape[-1],
        photo=photo(first[0], mean, std),
    )


def norms(layer: AttentionLayer, tokens: Tensor) -> Tensor:
    """(B, T, D) tokens -> (B, N) float64 on the CPU, of the patches."""
    return patches_of(layer, tokens).float().norm(dim=-1).cpu().double()


def _summary(each: Tensor, times: float) -> Tensor:
    """(B, N) norms -> (3, B): what is usual, the largest, the share of those above `times` what is usual."""
    usual = each.quantile(USUAL, dim=1)
    return torch.stack([usual, each.amax(1), (each > times * usual[:, None]).double().mean(1)])
