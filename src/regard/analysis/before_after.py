"""What a training has done to a model: to its features, its weights, its attention and its first filters.

CKA between a layer before and after;   |W_after - W_before| / |W_before| of the weights of each part
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor, nn

from regard.analysis.attention_distance import attention_distance
from regard.analysis.cka import FEWEST, cka
from regard.analysis.filters import filters
from regard.analysis.layers import is_tower
from regard.errors import RegardError
from regard.models.attending import attention_layers
from regard.reporting.pictures.before_after import BeforeAfter
from regard.reporting.pictures.filters import Filters


def before_after(
    model: nn.Module, before: nn.Module, batches: Iterable[Tensor] = (), *, layers: Sequence[str] = ()
) -> BeforeAfter:
    """A model beside itself with earlier weights.

    batches: (B, 3, H, W) normalised images, gone through several times (a list, no generator); without any, or with
    fewer than four in the first, the features are left out. layers: patterns of the layers compared, by default what
    leaves the blocks. Raises RegardError where the two are not the same architecture.
    """
    now, then = model.state_dict(), before.state_dict()
    if {name: value.shape for name, value in now.items()} != {name: value.shape for name, value in then.items()}:
        raise RegardError(
            f"before_after: {type(before).__name__} and {type(model).__name__} have different weights; "
            "give one model with two states of its training"
        )
    first = next(iter(batches), None)
    similar = distances = None
    if first is not None and len(first) >= FEWEST:
        similar = cka(model, batches, against=before, layers=layers, against_layers=layers)
    if first is not None and attention_layers(model):
        distances = attention_distance(before, batches), attention_distance(model, batches)
    parts, change = weight_change(model, before)
    return BeforeAfter(
        layers=similar.rows if similar else (),
        cka=np.diag(similar.values).copy() if similar else np.empty(0),
        images=similar.images if similar else 0,
        parts=parts,
        change=change,
        distances=distances,
        filters=_both_filters(model, before),
    )


def weight_change(model: nn.Module, before: nn.Module) -> tuple[tuple[str, ...], np.ndarray]:
    """Parts of a model, in order, and the relative change of the weights of each; NaN where they began at zero."""
    blocks = {name for name, module in model.named_modules() if _is_block(module)}
    squares: dict[str, list[float]] = {}
    for (name, now), then in zip(model.named_parameters(), before.parameters(), strict=True):
        sums = squares.setdefault(_part(name, blocks), [0.0, 0.0])
        sums[0] += float((now.detach().double() - then.detach().to(now.device).double()).square().sum())
        sums[1] += float(then.detach().double().square().sum())
    change = [np.sqrt(moved / size) if size else np.nan for moved, size in squares.values()]
    return tuple(squares), np.array(change)


def _is_block(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and not is_tower(module)


def _part(name: str, blocks: set[str]) -> str:
    """The outermost block that a parameter lies in, else the layer that has it, else itself."""
    pieces = name.split(".")
    above = [".".join(pieces[:count]) for count in range(1, len(pieces))]
    return next((path for path in above if path in blocks), above[-1] if above else name)


def _both_filters(model: nn.Module, before: nn.Module) -> tuple[Filters, Filters] | None:
    try:
        return filters(before), filters(model)
    except RegardError:  # no first convolution on colours
        return None
