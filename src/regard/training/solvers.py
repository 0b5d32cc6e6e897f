"""What a head on fixed features can be, setting by setting: logistic regression, ridge, support vectors, neighbours.

Each function yields candidates, the simplest first: answers to the validation features, and a way to build the layer.
All of them are solved, not trained; which one is taken is decided in `heads`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.inference.neighbours import Neighbours
from regard.results import Problem
from regard.training.logistic import Logistic, Multinomial, OneVsRest, standardisation_of
from regard.training.recipe import Balance, Head
from regard.training.tasks import class_weights

STRENGTHS = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)  # of logistic regression's penalty
RIDGE = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)
MARGINS = (1e-5, 1e-4, 1e-3, 0.01, 0.1)  # C of the support vector machines
NEIGHBOURS = (200, 100, 50, 20, 10, 5, 1)
TEMPERATURES = (0.2, 0.07, 0.03)  # DINO takes 0.07
EPSILON = 0.1  # standard deviations that an answer may be off without cost, for support vector regression


@dataclass(frozen=True)
class Fitting:
    """What a solver is given. Features (N, D) and (V, D) float32; labels as in `Predictions`; classes: their number."""

    train: Tensor
    labels: np.ndarray
    val: Tensor
    classes: int
    problem: Problem
    balance: Balance = "none"

    @property
    def weights(self) -> Tensor | None:
        """Weights of classes or labels (`class_weights`), None where all count the same."""
        if self.balance == "none":
            return None
        return torch.from_numpy(class_weights(self.labels, self.classes)).float()


@dataclass(frozen=True)
class Candidate:
    """One setting: its numbers by name, its answers (V, K) to the validation features, the layer that gives them.

    settled: False where a solver stopped before its end.
    """

    settings: dict[str, float]
    logits: Tensor
    build: Callable[[], nn.Linear | Neighbours]
    settled: bool = True


def candidates(head: Head, fitting: Fitting, strengths: Sequence[float] | None = None) -> Iterator[Candidate]:
    """Those of one kind of head; strengths: of the penalty of `linear`, in place of its own."""
    if head == "knn":
        return neighbours(fitting)
    if head == "svm":
        return support_vectors(fitting)
    if fitting.problem == "regression":
        return ridge(fitting, RIDGE if strengths is None else strengths)
    return logistic(fitting, STRENGTHS if strengths is None else strengths)


def logistic(fitting: Fitting, strengths: Sequence[float] = STRENGTHS) -> Iterator[Candidate]:
    """Logistic regression, from the strongest penalty to the weakest."""
    labels = torch.from_numpy(fitting.labels)
    problem: Logistic
    if fitting.problem == "multi_label":
        problem = OneVsRest(fitting.train, labels, fitting.weights)
    else:
        problem = Multinomial(fitting.train, labels, fitting.classes, fitting.weights)
    for strength in sorted(strengths, reverse=True):
        problem.solve(strength)
        yield _linear({"strength": strength}, fitting, *problem.linear())


def ridge(fitting: Fitting, strengths: Sequence[float] = RIDGE) -> Iterator[Candidate]:
    """Least squares with strength * |w|^2 beside the mean square, on standardised features and numbers."""
    from sklearn.linear_model import Ridge

    columns = list(_columns(fitting))
    for strength in sorted(strengths, reverse=True):
        fits = [Ridge(alpha=strength * len(column.labels)).fit(column.features, column.labels) for column in columns]
        yield _folded({"strength": strength}, fitting, columns, [(fit.coef_, fit.intercept_) for fit in fits])


def support_vectors(fitting: Fitting) -> Iterator[Candidate]:
    """Linear support vector machines, one against the rest, squared hinge (liblinear), or regression for numbers."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC, LinearSVR

    columns = list(_columns(fitting))
    weight = "balanced" if fitting.balance == "loss" else None
    for margin in MARGINS:
        planes: list[tuple[np.ndarray, float]] = []
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ConvergenceWarning)
            for column in columns:
                if fitting.problem == "regression":
                    machine = LinearSVR(
                        C=margin, epsilon=EPSILON, loss="squared_epsilon_insensitive", dual="auto", max_iter=10_000
                    )
                elif len(np.unique(column.labels)) == 1:  # always or never there: a plane at infinity
                    planes.append((np.zeros(column.features.shape[1]), 2 * float(column.labels[0]) - 1))
                    continue
                else:
                    machine = LinearSVC(C=margin, class_weight=weight, max_iter=10_000, random_state=0)
                machine.fit(column.features, column.labels)
                planes.append((np.ravel(machine.coef_), float(np.ravel(machine.intercept_)[0])))
        settled = not any(issubclass(one.category, ConvergenceWarning) for one in said)
        yield _folded({"C": margin}, fitting, columns, planes, settled)


@dataclass(frozen=True)
class Column:
    """One output's problem: standardised features (n, D) of the images where it is known, 0/1 labels or numbers (n,).

    Features are (x - mean) / spread; numbers are (y - middle) / scale.
    """

    features: np.ndarray
    labels: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    middle: float = 0.0
    scale: float = 1.0


def _columns(fitting: Fitting) -> Iterator[Column]:
    """The problem of each output; of classes, each against the rest."""
    mean, spread = (part.numpy() for part in standardisation_of(fitting.train))
    standard = ((fitting.train.numpy() - mean) / spread).astype(np.float64)
    if fitting.problem == "single_label":
        for number in range(fitting.classes):
            yield Column(standard, (fitting.labels == number).astype(np.int64), mean, spread)
        return
    for labels in fitting.labels.T.astype(np.float64):
        known = ~np.isnan(labels)
        features, own = (standard, labels) if known.all() else (standard[known], labels[known])
        if fitting.problem == "multi_label":
            yield Column(features, own.astype(np.int64), mean, spread)
        else:
            middle, scale = float(own.mean()), float(own.std()) or 1.0
            yield Column(features, (own - middle) / scale, mean, spread, middle, scale)


def _folded(
    settings: dict[str, float],
    fitting: Fitting,
    columns: Sequence[Column],
    planes: Sequence[tuple[np.ndarray, float]],
    settled: bool = True,
) -> Candidate:
    """A linear candidate for features and labels as they are; planes: (weight (D,), offset) between standard ones."""
    weights, biases = [], []
    for column, (plane, offset) in zip(columns, planes, strict=True):
        weight = column.scale * plane / column.spread
        weights.append(weight)
        biases.append(column.scale * offset + column.middle - weight @ column.mean)
    weight, bias = torch.from_numpy(np.stack(weights)).float(), torch.from_numpy(np.array(biases)).float()
    return _linear(settings, fitting, weight, bias, settled)


def _linear(
    settings: dict[str, float], fitting: Fitting, weight: Tensor, bias: Tensor, settled: bool = True
) -> Candidate:
    def build() -> nn.Linear:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        return linear

    return Candidate(settings, F.linear(fitting.val, weight, bias), build, settled)


def neighbours(fitting: Fitting) -> Iterator[Candidate]:
    """Nearest neighbours, from many and alike votes to few."""
    labels = torch.from_numpy(fitting.labels)

    def layer(k: int, temperature: float) -> Neighbours:
        return Neighbours(fitting.train, labels, fitting.classes, fitting.problem, k, temperature)

    counts = sorted({min(k, len(fitting.train)) for k in NEIGHBOURS}, reverse=True)
    known = layer(counts[0], TEMPERATURES[0])
    cosines, places = known.nearest(fitting.val, counts[0])
    for k in counts:
        for temperature in TEMPERATURES:
            logits = known.vote(cosines[:, :k], places[:, :k], temperature)
            yield Candidate(
                {"k": float(k), "temperature": temperature},
                logits,
                lambda k=k, temperature=temperature: layer(k, temperature),
            )
