"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), for CNN and transformer, without a layer to name.

    alpha_k = mean over space of dy_c/dA_k,    map = ReLU(sum_k alpha_k A_k)                  (1), (2)

y_c is the logit of the class, A_k channel k of the last place where positions count (`last_place`): a map, or the
tokens of the patches put on their grid, other tokens left out. Where the answer is a linear layer over the mean of A,
as in a ResNet or in Swin, the map is the share of each position in the logit, negatives cut off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard.explanation.asking import class_scores, followed, logits_of, observed, refuse_texts
from regard.explanation.flow import precise
from regard.explanation.method import Method, Passes
from regard.explanation.places import is_known, last_place
from regard.taps import record


def gradcam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """What speaks for a class, and where: images (B, 3, H, W), classes (B,) -> (B, h, w), >= 0.

    (h, w) is the grid of the last map, or of the patches. Raises RegardError where the model has none, is compiled, or
    does not answer with logits.
    """
    place = last_place(model, images)
    with observed(model), record(model, place.name) as seen:
        scores = class_scores(logits_of(model, followed(images)), classes)
        output = place.of(seen[place.name])
        (gradient,) = torch.autograd.grad(scores.sum(), output)
    cells, slopes = (place.cells(part.detach()).to(precise(part)) for part in (output, gradient))
    weights = slopes.mean(1, keepdim=True)  # (B, 1, C)
    return (cells * weights).sum(2).clamp(min=0).unflatten(1, place.grid).float()  # (B, h, w)


def passes(model: nn.Module, images: Tensor, **options: Any) -> Passes:
    """Of a model whose last place has to be found, two images more a batch."""
    found = 0 if is_known(model) else 2 / len(images)
    return Passes(forward=1 + found, backward=1 + found)


METHOD = Method(name="gradcam", explain=gradcam, of_class=True, passes=passes, refusal=refuse_texts)
