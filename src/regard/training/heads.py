"""The head on a frozen model, solved and not trained: logistic regression on features computed once.

For every strength of the L2 penalty the convex problem

    min over W, b of  mean_i -log softmax(W x_i + b)[y_i]  +  strength / 2 * |W|^2

(x: standardised features) is solved by L-BFGS, from the strongest penalty to the weakest, each start where
the last one ended. Validation accuracy chooses the strength. Nothing is drawn: the result depends on the
features alone.

L-BFGS works in coordinates in which the problem is nearly round: principal axes, each scaled by
1/sqrt(c * variance + strength). Boehning 1992 ("Multinomial logistic regression algorithm") bounds the
Hessian by 1/2 (I - 11'/K) x X'X/N; c puts the curvature at the start of each strength in the place of the
1/2. This costs one eigendecomposition and saves most of the iterations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.data.sources import ImageSet
from regard.data.splits import Split
from regard.errors import RegardError
from regard.inference.features import VIEWS, FeatureCache, extract_features, feature_precision
from regard.inference.loaded import LoadedModel
from regard.inference.pooling import set_head
from regard.inference.precision import Precision, Wanted
from regard.results import Predictions

STRENGTHS = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
RANK = 1e-7  # axes with less than this share of the largest variance are rounding and carry no weight


@dataclass(frozen=True)
class GridPoint:
    """One strength and what its head scores on the validation images (view 0)."""

    strength: float
    top1: float
    nll: float
    iterations: int


@dataclass(frozen=True)
class HeadFit:
    """What `fit_head` did; the head itself is in the model."""

    strength: float
    grid: tuple[GridPoint, ...]  # strongest penalty first
    views: tuple[int, ...]
    precision: Precision
    feature_dim: int
    train_images: int
    val: Predictions
    feature_seconds: float
    solve_seconds: float


def fit_head(
    loaded: LoadedModel,
    images: ImageSet,
    split: Split,
    cache_dir: str | Path | None = None,
    views: Sequence[int] = VIEWS,
    strengths: Sequence[float] = STRENGTHS,
    batch_size: int = 32,
    precision: Wanted = "auto",
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> HeadFit:
    """Fit a new head on the train rows of `split` and install it: `loaded` then answers `images.classes`.

    All `views` train; the choice of the strength reads view 0 of the `val` rows. The standardisation is
    folded into the layer, so the model is an ordinary one. Raises RegardError where there is nothing to
    train on or to choose by.
    """
    for part, rows in (("train", split.train), ("val", split.val)):
        if not len(rows):
            raise RegardError(f"{images.name}: no {part} images in the split; the head needs some to {_PURPOSE[part]}")
    start = time.perf_counter()
    cache = FeatureCache(cache_dir, loaded) if cache_dir is not None else None
    chosen = feature_precision(loaded, len(split.train) * len(views) + len(split.val), precision, cache)

    def features(rows: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
        return extract_features(loaded, images, rows, wanted, cache_dir, batch_size, chosen, on_event)

    train, val = features(split.train, views), features(split.val, (0,))[0]
    extracted = time.perf_counter()
    weight, bias, best, grid = solve_grid(
        train.reshape(-1, train.shape[-1]),
        np.tile(images.labels[split.train], len(views)),
        val,
        images.labels[split.val],
        len(images.classes),
        strengths,
    )
    set_head(loaded, weight, bias)
    loaded.classes, loaded.temperature, loaded.unsure_below = images.classes, 1.0, 0.0
    return HeadFit(
        strength=best.strength,
        grid=grid,
        views=tuple(views),
        precision=chosen,
        feature_dim=train.shape[-1],
        train_images=len(split.train),
        val=_predictions(images, split.val, val, weight, bias),
        feature_seconds=extracted - start,
        solve_seconds=time.perf_counter() - extracted,
    )


_PURPOSE = {"train": "learn from", "val": "choose its strength by"}


def head_predictions(
    loaded: LoadedModel,
    images: ImageSet,
    rows: Sequence[int] | np.ndarray,
    cache_dir: str | Path | None = None,
    batch_size: int = 32,
    precision: Wanted = "auto",
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> Predictions:
    """What the installed head says about `rows` (view 0), from cached features where there are some."""
    rows = np.asarray(rows, dtype=np.int64)
    features = extract_features(loaded, images, rows, (0,), cache_dir, batch_size, precision, on_event)[0]
    linear = loaded.model.get_submodule(loaded.head)
    assert isinstance(linear, nn.Linear)
    bias = linear.bias if linear.bias is not None else torch.zeros(linear.out_features)
    return _predictions(images, rows, features, linear.weight.detach().cpu(), bias.detach().cpu())


def _predictions(images: ImageSet, rows: np.ndarray, features: np.ndarray, weight: Tensor, bias: Tensor) -> Predictions:
    features = features.reshape(len(rows), weight.shape[1])
    logits = F.linear(torch.from_numpy(features), weight, bias)
    return Predictions(tuple(images.ids[int(row)] for row in rows), logits.numpy(), images.labels[rows], images.classes)


def solve_grid(
    train: np.ndarray,
    train_labels: np.ndarray,
    val: np.ndarray,
    val_labels: np.ndarray,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[Tensor, Tensor, GridPoint, tuple[GridPoint, ...]]:
    """(weight (K, D) float32, bias (K,), its grid point, all grid points) of the strength best on `val`.

    Features (N, D) float32 as they are; labels in 0..K-1. Best: highest validation accuracy, of equals the
    lowest NLL, of equals the strongest penalty.
    """
    problem = Problem(torch.from_numpy(train), torch.from_numpy(train_labels), num_classes)
    val_features, answers = torch.from_numpy(val), torch.from_numpy(val_labels)
    grid: list[GridPoint] = []
    best: tuple[tuple[float, float], GridPoint, Tensor, Tensor] | None = None
    for strength in sorted(strengths, reverse=True):
        iterations = problem.solve(strength)
        weight, bias = problem.linear()
        logits = F.linear(val_features, weight, bias)
        top1 = (logits.argmax(dim=1) == answers).double().mean().item()
        nll = F.cross_entropy(logits.double(), answers).item()
        point = GridPoint(strength, top1, nll, iterations)
        grid.append(point)
        if best is None or (top1, -nll) > best[0]:
            best = (top1, -nll), point, weight, bias
    if best is None:
        raise RegardError("strengths: none given; expected at least one number above 0")
    return best[2], best[3], best[1], tuple(grid)


class Problem:
    """The convex problem in its round coordinates; `solve` starts where the last call ended."""

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int):
        """features (N, D) float32, labels (N,) int64."""
        self.mean = features.mean(dim=0, dtype=torch.float64)
        spread = (
            features.double().std(dim=0, correction=0) if len(features) < 4096 else features.std(dim=0, correction=0)
        )
        spread = spread.double()
        # A constant feature says nothing: it keeps its scale instead of being blown up to rounding noise.
        self.spread = torch.where(spread > 1e-6 * spread.max().clamp_min(1e-30), spread, torch.ones_like(spread))
        standard = (features - self.mean.float()) / self.spread.float()
        variances, axes = torch.linalg.eigh((standard.T @ standard).double() / len(standard))
        kept = variances > RANK * variances[-1].clamp_min(1e-30)
        self.axes, self.variances = axes[:, kept], variances[kept]  # (D, R), (R,)
        self.rotated = standard @ self.axes.float()  # (N, R)
        self.labels = labels
        self.target_sums = torch.zeros(num_classes, self.rotated.shape[1])  # (K, R) features summed per class
        self.target_sums.index_add_(0, labels, self.rotated)
        self.counts = torch.bincount(labels, minlength=num_classes).float()
        self.weight = torch.zeros(num_classes, self.rotated.shape[1])  # in rotated coordinates
        self.bias = torch.zeros(num_classes)

    def solve(self, strength: float, max_iterations: int = 300, tolerance: float = 1e-5) -> int:
        """Minimise for one strength of the penalty, from the last solution on; returns the iterations."""
        curvature = self.curvature()
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

    def curvature(self) -> float:
        """Mean over images and classes of p (1 - p): 1/K (1 - 1/K) at first, then less."""
        p = F.softmax(torch.addmm(self.bias, self.rotated, self.weight.T), dim=1)
        return max((p - p.square()).mean().item(), 1e-4)

    def loss_and_gradients(self, weight: Tensor, bias: Tensor, strength: float) -> tuple[float, Tensor, Tensor]:
        """(penalised mean NLL, its gradients in weight (K, R) and bias (K,)) in rotated coordinates."""
        count = len(self.rotated)
        log_p = F.log_softmax(torch.addmm(bias, self.rotated, weight.T), dim=1)  # (N, K)
        nll = -log_p.gather(1, self.labels[:, None]).double().mean()
        penalty = strength / 2 * weight.double().square().sum()
        p = log_p.exp_()
        weight_gradient = (p.T @ self.rotated - self.target_sums) / count + strength * weight
        return (nll + penalty).item(), weight_gradient, (p.sum(dim=0) - self.counts) / count

    def linear(self) -> tuple[Tensor, Tensor]:
        """(weight (K, D), bias (K,)) float32 for features as they are: axes and standardisation folded in."""
        weight = (self.weight.double() @ self.axes.T) / self.spread
        bias = self.bias.double() - weight @ self.mean
        return weight.float(), bias.float()
