"""Gradient rollout: attention weighted by its gradient (Gildenblat, "Exploring Explainability for Vision
Transformers", 2020).

    Abar_l = max(0, mean_h A_l * dy_c/dA_l);    a_l = 0.5 Abar_l + 0.5 I, rows made to sum to 1;    R_l = a_l R_(l-1)

y_c is the logit of the class, A_l the pattern after the softmax, the gradient that of the same layer. A share of the
lowest entries of each Abar_l is set to 0 (his 0.9 unless asked else), that of the class token to itself not excepted.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from regard.explanation.flow import carry_with_residual, discard_lowest, map_by_gradients, precise, refuse_classless
from regard.explanation.method import Method, Passes
from regard.explanation.rollout import check_discard
from regard.models.attending import AttentionLayer

DISCARD = 0.9


def gradient_rollout(model: nn.Module, images: Tensor, classes: Tensor, *, discard: float = DISCARD) -> Tensor:
    """How much of each patch reaches the logit of a class: images (B, 3, H, W), classes (B,) -> (B, h, w), >= 0.

    discard: as of `rollout`. Raises RegardError where the model has no stack of attention layers.
    """
    check_discard(discard)

    def fuse(layer: AttentionLayer, pattern: Tensor, gradient: Tensor) -> Tensor:
        fused = (pattern * gradient).mean(-3, dtype=precise(pattern)).clamp(min=0)
        return discard_lowest(fused, layer, discard, keep_class=False)

    return map_by_gradients(model, images, classes, fuse, carry_with_residual)


def passes(model: nn.Module, images: Tensor, **options: Any) -> Passes:
    return Passes(forward=1, backward=1)


METHOD = Method(
    name="gradient_rollout",
    explain=gradient_rollout,
    of_class=True,
    passes=passes,
    refusal=refuse_classless,
    options=MappingProxyType({"discard": DISCARD}),
)
