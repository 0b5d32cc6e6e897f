"""The attention of one layer, plain: where the tokens that the head reads look.

Of a layer with a class token that is the class token's row of the pattern (of a distilled model, the mean of its and
the distillation token's row); of a layer without, the mean over all queries: how much each place is looked at.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.asking import observed
from regard.explanation.flow import MEAN, as_map, carry, chosen_heads, precise, split_images
from regard.explanation.method import Method, Passes
from regard.models.attending import AttentionLayer, attention_layers, reading
from regard.models.registry import features_of
from regard.taps import record


def attention(
    model: nn.Module, images: Tensor, classes: Tensor | None = None, *, layer: int = -1, head: str | int = MEAN
) -> Tensor:
    """How much each patch is looked at: images (B, 3, H, W) -> (B, h, w) on the layer's grid, in [0, 1].

    layer: a number among the model's attention layers (`attention_layers`), from the last where negative. head: a
    number, or "mean" of all. The answer is the same for every class. Raises RegardError where the model has no
    attention, no such layer or no such head.
    """
    chosen = _layer(model, layer)
    heads = chosen_heads(head, chosen.num_heads, chosen.name)
    weights = reading(model) if chosen.prefix else torch.full((chosen.tokens,), 1 / chosen.tokens)

    def read(pattern: Tensor) -> Tensor:
        matrix = pattern[:, heads].mean(1, dtype=precise(pattern))
        count = len(matrix) if chosen.windows is None else len(matrix) // len(chosen.windows)
        return carry(weights.to(matrix).expand(count, 1, -1), chosen, matrix)

    with observed(model), torch.no_grad(), record(model, f"{chosen.name}.pattern", keep=read) as seen:
        parts = split_images(images, [chosen], gradients=False)
        for part in parts:
            features_of(model, part)
    rows = seen[f"{chosen.name}.pattern"]
    return as_map(rows if len(parts) == 1 else torch.cat(rows), chosen)


def _layer(model: nn.Module, number: int) -> AttentionLayer:
    if refused := refusal(model):
        raise RegardError(refused)
    layers = attention_layers(model)
    if not -len(layers) <= number < len(layers):
        raise RegardError(
            f"layer={number}: no such layer; {type(model).__name__} has 0 ({layers[0].name}) to {len(layers) - 1} "
            f"({layers[-1].name}), -1 being the last"
        )
    return layers[number]


def passes(model: nn.Module, images: Tensor, **options: Any) -> Passes:
    return Passes(forward=1)


def refusal(model: nn.Module) -> str | None:
    if attention_layers(model):
        return None
    return (
        f"{type(model).__name__}: has no layer in which all tokens attend to each other, so attention is not defined; "
        "gradcam, integrated_gradients and occlusion are"
    )


METHOD = Method(
    name="attention",
    explain=attention,
    of_class=False,
    passes=passes,
    refusal=refusal,
    options=MappingProxyType({"layer": -1, "head": MEAN}),
)
