"""Logistic regression with an L2 penalty, solved: multinomial for classes, one-vs-rest for several labels.

For a strength of the penalty the convex problem

    min over W, b of  mean_i loss(W x_i + b, y_i)  +  strength / 2 * |W|^2

(x: standardised features; loss: cross-entropy, or the sum of binary cross-entropies) is solved by L-BFGS, each
strength from where the last one ended. Nothing is drawn: the result depends on the features alone.

L-BFGS works in coordinates in which the problem is nearly round: principal axes, each scaled by
1/sqrt(c * variance + strength). Boehning 1992 ("Multinomial logistic regression algorithm") bounds the
Hessian by 1/2 (I - 11'/K) x X'X/N; c puts the curvature at the start of each strength in the place of the
1/2. This costs one eigendecomposition and saves most of the iterations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

RANK = 1e-7  # axes with less than this share of the largest variance are rounding and carry no weight


def standardisation_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, spread) of each feature, (D,) float64; features (N, D) float32.

    A constant feature says nothing: it keeps its scale instead of being blown up to rounding noise.
    """
    mean = features.mean(dim=0, dtype=torch.float64)
    spread = features.double().std(dim=0, correction=0) if len(features) < 4096 else features.std(dim=0, correction=0)
    spread = spread.double()
    return mean, torch.where(spread > 1e-6 * spread.max().clamp_min(1e-30), spread, torch.ones_like(spread))


class Logistic(ABC):
    """The convex problem in its round coordinates; `solve` starts where the last call ended."""

    def __init__(self, features: Tensor, outputs: int):
        """features (N, D) float32; outputs: K."""
        self.mean, self.spread = standardisation_of(features)
        standard = (features - self.mean.float()) / self.spread.float()
        variances, axes = torch.linalg.eigh((standard.T @ standard).double() / len(standard))
        kept = variances > RANK * variances[-1].clamp_min(1e-30)
        self.axes, self.variances = axes[:, kept], variances[kept]  # (D, R), (R,)
        self.rotated = standard @ self.axes.float()  # (N, R)
        self.weight = torch.zeros(outputs, self.rotated.shape[1])  # in rotated coordinates
        self.bias = torch.zeros(outputs)

    def solve(self, strength: float, max_iterations: int = 300, tolerance: float = 1e-5) -> int:
        """Minimise for one strength of the penalty, from the last solution on; returns the iterations."""
        curvature = max(self.curvature(), 1e-4)
        scale = (curvature * self.variances + strength).rsqrt().float()  # (R,)
        bias_scale = curvature**-0.5
        variables = torch.cat([self.weight / scale, self.bias[:, None] / bias_scale], dim=1).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [variables],
            max_iter=max_iterations,
            history_size=20,
            tolerance_grad=tolerance,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            with torch.no_grad():
                weight, bias = variables[:, :-1] * scale, variables[:, -1] * bias_scale
                loss, weight_gradient, bias_gradient = self.loss_and_gradients(weight, bias, strength)
                variables.grad = torch.cat([weight_gradient * scale, bias_gradient[:, None] * bias_scale], dim=1)
            return loss

        optimiser.step(closure)
        solution = variables.detach()
        self.weight, self.bias = solution[:, :-1] * scale, solution[:, -1] * bias_scale
        return optimiser.state[variables]["n_iter"]

    @abstractmethod
    def curvature(self) -> float:
        """Mean over images and outputs of the loss's second derivative at the last solution."""

    @abstractmethod
    def loss_and_gradients(self, weight: Tensor, bias: Tensor, strength: float) -> tuple[float, Tensor, Tensor]:
        """(penalised mean loss, its gradients in weight (K, R) and bias (K,)) in rotated coordinates."""

    def linear(self) -> tuple[Tensor, Tensor]:
        """(weight (K, D), bias (K,)) float32 for features as they are: axes and standardisation folded in."""
        weight = (self.weight.double() @ self.axes.T) / self.spread
        bias = self.bias.double() - weight @ self.mean
        return weight.float(), bias.float()


class Multinomial(Logistic):
    """One class per image. weights: (K,) by which an image of each class counts, with mean 1 over the images."""

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, weights: Tensor | None = None):
        """features (N, D) float32, labels (N,) int64."""
        super().__init__(features, num_classes)
        self.labels = labels
        self.share = torch.ones(len(labels)) if weights is None else weights.float()[labels]  # (N,)
        self.target_sums = torch.zeros(num_classes, self.rotated.shape[1])  # (K, R) features summed per class
        self.target_sums.index_add_(0, labels, self.rotated * self.share[:, None])
        self.counts = torch.zeros(num_classes).index_add_(0, labels, self.share)

    def curvature(self) -> float:
        """Mean of p (1 - p): 1/K (1 - 1/K) at first, then less."""
        p = F.softmax(torch.addmm(self.bias, self.rotated, self.weight.T), dim=1)
        return ((p - p.square()).mean(dim=1) * self.share).mean().item()

    def loss_and_gradients(self, weight: Tensor, bias: Tensor, strength: float) -> tuple[float, Tensor, Tensor]:
        count = len(self.rotated)
        log_p = F.log_softmax(torch.addmm(bias, self.rotated, weight.T), dim=1)  # (N, K)
        nll = -(log_p.gather(1, self.labels[:, None])[:, 0].double() * self.share).mean()
        penalty = strength / 2 * weight.double().square().sum()
        p = log_p.exp_().mul_(self.share[:, None])
        weight_gradient = (p.T @ self.rotated - self.target_sums) / count + strength * weight
        return (nll + penalty).item(), weight_gradient, (p.sum(dim=0) - self.counts) / count


class OneVsRest(Logistic):
    """Several labels per image, each a problem of its own over the images where it is known.

    weights: (2, K) by which an image counts where a label is absent and where it is present.
    """

    def __init__(self, features: Tensor, targets: Tensor, weights: Tensor | None = None):
        """features (N, D) float32, targets (N, K) float32 of 0 and 1, NaN where unknown."""
        super().__init__(features, targets.shape[1])
        known = ~targets.isnan()
        self.targets = targets.nan_to_num()
        self.share = known * (len(targets) / known.sum(dim=0).clamp_min(1))  # (N, K), mean 1 per label
        if weights is not None:
            self.share = self.share * torch.where(self.targets > 0.5, weights[1], weights[0])

    def curvature(self) -> float:
        """Mean of p (1 - p): 1/4 at first, then less."""
        p = torch.addmm(self.bias, self.rotated, self.weight.T).sigmoid()
        return ((p - p.square()) * self.share).mean().item()

    def loss_and_gradients(self, weight: Tensor, bias: Tensor, strength: float) -> tuple[float, Tensor, Tensor]:
        count = len(self.rotated)
        scores = torch.addmm(bias, self.rotated, weight.T)  # (N, K)
        losses = ((F.softplus(scores) - self.targets * scores) * self.share).sum(dim=1, dtype=torch.float64)
        penalty = strength / 2 * weight.double().square().sum()
        wrong = (scores.sigmoid_() - self.targets) * self.share
        weight_gradient = wrong.T @ self.rotated / count + strength * weight
        return (losses.mean() + penalty).item(), weight_gradient, wrong.sum(dim=0) / count
