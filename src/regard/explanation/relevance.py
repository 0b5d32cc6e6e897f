"""Relevance by attention and its gradient: "Generic Attention-model Explainability for Interpreting Bi-Modal and
Encoder-Decoder Transformers" (Chefer, Gur and Wolf, ICCV 2021, arXiv 2103.15679), section 3.

    Abar_l = mean_h max(0, A_l,h * dy_c/dA_l,h);    R = I before the first layer,    R <- R + Abar_l R

y_c is the logit of the class; the map is the row of R that the head reads. No LRP (that is their CVPR 2021 paper), and
rows are not normalised. Of a model that pools over patches, I adds the same to each of them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from regard.explanation.flow import carry, map_by_gradients, positive_mean, refuse_classless
from regard.explanation.method import Method, Passes
from regard.models.attending import AttentionLayer


def relevance(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """How much each patch matters to the logit of a class: images (B, 3, H, W), classes (B,) -> (B, h, w), >= 0.

    Raises RegardError where the model has no stack of attention layers. That of an encoder-decoder Transformer is
    `sequence_relevance`.
    """
    return map_by_gradients(
        model, images, classes, lambda layer, pattern, gradient: positive_mean(pattern, gradient), _carry_and_keep
    )


def _carry_and_keep(rows: Tensor, layer: AttentionLayer, matrix: Tensor) -> Tensor:
    return rows + carry(rows, layer, matrix)


def passes(model: nn.Module, images: Tensor, **options: Any) -> Passes:
    return Passes(forward=1, backward=1)


METHOD = Method(name="relevance", explain=relevance, of_class=True, passes=passes, refusal=refuse_classless)
