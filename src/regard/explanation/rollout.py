"""Attention rollout: "Quantifying Attention Flow in Transformers" (Abnar and Zuidema 2020, arXiv 2005.00928).

    a_l = 0.5 mean_h A_l,h + 0.5 I, rows made to sum to 1;    R_1 = a_1,    R_l = a_l R_(l-1)

Row i of R_L is how much of each input token reaches token i; the map is the row that the head reads. Two options are
of Gildenblat's "Exploring Explainability for Vision Transformers" (2020): max or min over heads in place of the mean,
and a share of the lowest entries of each fused matrix set to 0, but for the attention of the class token to itself.

Here only the row goes through the layers, from the last to the first, and of each layer only the fused matrix is kept,
made while the model runs. Of Swin, windows are matrices with 0 between tokens of different windows, and merged tokens
are equal shares of their members; a share is discarded of the entries within windows.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.asking import observed
from regard.explanation.flow import (
    as_map,
    carry_with_residual,
    descend,
    discard_lowest,
    first_layer,
    precise,
    refuse_stackless,
    split_images,
    stack_of,
)
from regard.explanation.method import Method, Passes
from regard.models.attending import AttentionLayer, Merge, reading
from regard.models.registry import features_of
from regard.taps import Seen, record

FUSIONS = {  # (..., H, n, n) -> (..., n, n)
    "mean": lambda pattern: pattern.mean(-3),
    "max": lambda pattern: pattern.amax(-3),
    "min": lambda pattern: pattern.amin(-3),
}


def rollout(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    fusion: str = "mean",
    discard: float = 0.0,
    first: int = 0,
) -> Tensor:
    """How much of each patch reaches what the head reads: images (B, 3, H, W) -> (B, h, w), >= 0.

    fusion: mean, max or min over heads. discard: the share of lowest entries of a fused matrix that is set to 0, in
    [0, 1). first: the number of the layer that the rollout starts at, 0 being the first; of Swin the map has its grid.
    The answer is the same for every class. Raises RegardError where the model has no stack of attention layers.
    """
    stack = starting_at(stack_of(model), first)
    rows = rollout_rows(model, images, reading(model)[None], fusion=fusion, discard=discard, first=first)
    return as_map(rows, first_layer(stack))


def rollout_rows(
    model: nn.Module, images: Tensor, rows: Tensor, *, fusion: str = "mean", discard: float = 0.0, first: int = 0
) -> Tensor:
    """rows (R, T) times R_L -> (B, R, T'): what of the input tokens reaches each mixture of last tokens.

    A row with a 1 at one token asks for that token. Options as of `rollout`; T' are the tokens of layer `first`.
    """
    if fusion not in FUSIONS:
        raise RegardError(f"fusion={fusion!r}: expected one of {', '.join(FUSIONS)}")
    check_discard(discard)
    stack = starting_at(stack_of(model), first)
    layers = [part for part in stack if isinstance(part, AttentionLayer)]
    if rows.ndim != 2 or rows.shape[1] != layers[-1].tokens:
        raise RegardError(f"rows: have shape {tuple(rows.shape)}; expected (R, {layers[-1].tokens}), weights of tokens")
    names = [f"{layer.name}.pattern" for layer in layers]
    found = []
    for part in split_images(images, stack, gradients=False):
        with observed(model), torch.no_grad(), record(model, *names, keep=FUSIONS[fusion]) as seen:
            features_of(model, part)

        def matrix(layer: AttentionLayer, seen: Seen = seen) -> Tensor:
            fused = seen[f"{layer.name}.pattern"]  # kept as exact as the pattern was, multiplied in float32 or better
            return discard_lowest(fused.to(precise(fused)), layer, discard, keep_class=True)

        begin = rows.to(images.device, precise(seen[names[-1]])).expand(len(part), *rows.shape)
        found.append(descend(begin, stack, matrix, carry_with_residual))
    return torch.cat(found)


def check_discard(discard: float) -> None:
    """Raises RegardError where `discard` is no share."""
    if not 0 <= discard < 1:
        raise RegardError(f"discard={discard}: expected the share of attention to leave out, at least 0 and below 1")


def starting_at(stack: tuple[AttentionLayer | Merge, ...], first: int) -> tuple[AttentionLayer | Merge, ...]:
    """The stack from its attention layer number `first` on. Raises RegardError where it has no such layer."""
    places = [place for place, part in enumerate(stack) if isinstance(part, AttentionLayer)]
    if not 0 <= first < len(places):
        raise RegardError(f"first={first}: no such layer; the model has layers 0 to {len(places) - 1}")
    return stack[places[first] :]


def passes(model: nn.Module, images: Tensor, **options: Any) -> Passes:
    return Passes(forward=1)


METHOD = Method(
    name="rollout",
    explain=rollout,
    of_class=False,
    passes=passes,
    refusal=refuse_stackless,
    options=MappingProxyType({"fusion": "mean", "discard": 0.0, "first": 0}),
    choices=MappingProxyType({"fusion": tuple(FUSIONS)}),
)
