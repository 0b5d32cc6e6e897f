"""Integrated gradients (Sundararajan, Taly and Yan 2017, arXiv 1703.01365), computed by Captum.

    IG_i = (x_i - x'_i) * integral over a from 0 to 1 of dy_c/dx_i at x' + a (x - x')                      (1)

y_c is the logit of the class. The baseline x' is 0 after normalisation: an image all of the mean colour that the
model's preprocessing states. What has the baseline's colour counts for nothing, so black, the usual one, would leave
out what is black; the mean colour is seldom met. The integral is a Gauss-Legendre sum; IG is summed over the colours.
The sum over all pixels is y_c(x) - y_c(x') (completeness, Proposition 1), but for the error of the integral:
`completeness_gap`.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.asking import PASS, captum, observed, refuse_without_captum, scores_of
from regard.explanation.method import Method, Passes

STEPS = 32


def integrated_gradients(model: nn.Module, images: Tensor, classes: Tensor, *, steps: int = STEPS) -> Tensor:
    """What each pixel adds to the logit of a class: images (B, 3, H, W), classes (B,) -> (B, H, W), of either sign.

    steps: points at which the gradient is taken; memory is that of a batch of 16 in training, whatever B and steps.
    Raises RegardError where Captum is not installed or the model does not answer with logits.
    """
    if steps < 1:
        raise RegardError(f"steps={steps}: expected 1 or more")
    method = captum().IntegratedGradients(scores_of(model))
    maps = []
    with observed(model):
        for some, asked in zip(images.split(PASS), classes.to(images.device).split(PASS), strict=True):
            values = method.attribute(
                some.clone(), 0, additional_forward_args=asked, n_steps=steps, internal_batch_size=PASS
            )
            maps.append(values.detach().sum(1).float())
    return torch.cat(maps)


def completeness_gap(model: nn.Module, images: Tensor, classes: Tensor, maps: Tensor) -> Tensor:
    """(B,): the sum of each map of `integrated_gradients` less what it should be, y_c(x) - y_c(0).

    Captum calls it the convergence delta. Where it is not small beside y_c(x) - y_c(0), take more steps.
    """
    scores = scores_of(model)
    with observed(model), torch.no_grad():
        ends = [scores(points, classes) for points in (images, torch.zeros_like(images))]
    return maps.flatten(1).sum(1) - (ends[0] - ends[1])


def passes(model: nn.Module, images: Tensor, steps: int = STEPS) -> Passes:
    return Passes(forward=steps, backward=steps)


METHOD = Method(
    name="integrated_gradients",
    explain=integrated_gradients,
    of_class=True,
    passes=passes,
    refusal=refuse_without_captum,
    options=MappingProxyType({"steps": STEPS}),
)
