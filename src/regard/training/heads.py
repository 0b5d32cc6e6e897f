"""The head on a frozen model, solved and not trained: every setting on features computed once.

`linear`: logistic regression (multinomial, or one-vs-rest for several labels) or ridge regression; `svm`: support
vectors; `knn`: nearest neighbours. The validation images choose the setting. What is linear is folded into one
`nn.Linear`, so that the model is an ordinary one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.data.loader import mirrored_boxes
from regard.data.sources import ImageSet
from regard.data.splits import Split
from regard.errors import RegardError
from regard.evaluation.problems import HEADLINE, LOWER_IS_BETTER, values
from regard.inference.features import VIEWS, FeatureCache, extract_features, feature_precision
from regard.inference.loaded import LoadedModel
from regard.inference.pooling import set_head_module
from regard.inference.precision import Precision, Wanted
from regard.results import Predictions, Problem
from regard.training.recipe import Balance, Head
from regard.training.solvers import Candidate, Fitting, candidates
from regard.training.trainee import labelled

# A setting is chosen by the headline of its problem; of equals by this; of equals in both it is the simpler one.
SECOND: dict[Problem, str] = {"single_label": "nll", "multi_label": "nll", "regression": "rmse"}


@dataclass(frozen=True)
class GridPoint:
    """One setting and what its head scores on the validation images (view 0), headline first."""

    settings: dict[str, float]
    metrics: dict[str, float]


@dataclass(frozen=True)
class HeadFit:
    """What `fit_head` did; the head itself is in the model."""

    best: GridPoint
    grid: tuple[GridPoint, ...]  # simplest first
    views: tuple[int, ...]
    precision: Precision
    feature_dim: int
    train_images: int
    val: Predictions
    feature_seconds: float
    solve_seconds: float
    cache: FeatureCache | None


def fit_head(
    loaded: LoadedModel,
    images: ImageSet,
    split: Split,
    cache_dir: str | Path | None = None,
    views: Sequence[int] = VIEWS,
    strengths: Sequence[float] | None = None,
    batch_size: int = 32,
    precision: Wanted = "auto",
    on_event: Callable[[dict[str, Any]], None] | None = None,
    *,
    head: Head = "linear",
    balance: Balance = "none",
) -> HeadFit:
    """Fit a new head on the train rows of `split` and install it: `loaded` then answers `images.classes`.

    All `views` train; the choice of the setting reads view 0 of the `val` rows. strengths: of the penalty of
    `linear`; balance "loss": rare classes count as much as frequent ones. Raises RegardError where there is
    nothing to train on or to choose by.
    """
    for part, rows in (("train", split.train), ("val", split.val)):
        if not len(rows):
            raise RegardError(f"{images.name}: no {part} images in the split; the head needs some to {_PURPOSE[part]}")
    start = time.perf_counter()
    cache = FeatureCache(cache_dir, loaded) if cache_dir is not None else None
    chosen = feature_precision(loaded, len(split.train) * len(views) + len(split.val), precision, cache)

    def features(rows: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
        return extract_features(loaded, images, rows, wanted, cache, batch_size, chosen, on_event)

    train, val = features(split.train, views), torch.from_numpy(features(split.val, (0,))[0])
    extracted = time.perf_counter()
    fitting = Fitting(
        train=torch.from_numpy(train.reshape(-1, train.shape[-1])),
        labels=np.concatenate([_labels(images, split.train, view) for view in views]),
        val=val,
        classes=len(images.classes),
        problem=images.problem,
        balance=balance,
    )
    best, point, grid = choose(candidates(head, fitting, strengths), images.labels[split.val], images)
    if not best.settled and on_event:
        on_event({"event": "warning", "text": f"the {head} head of {_words(best.settings)} is not solved to the end"})
    set_head_module(loaded, best.build())
    loaded.classes, loaded.problem, loaded.boxes = images.classes, images.problem, images.boxes
    loaded.temperature, loaded.unsure_below, loaded.thresholds = 1.0, 0.0, ()
    return HeadFit(
        best=point,
        grid=grid,
        views=tuple(views),
        precision=chosen,
        feature_dim=train.shape[-1],
        train_images=len(split.train),
        val=labelled(images, split.val, best.logits.numpy()),
        feature_seconds=extracted - start,
        solve_seconds=time.perf_counter() - extracted,
        cache=cache,
    )


_PURPOSE = {"train": "learn from", "val": "choose its strength by"}


def _labels(images: ImageSet, rows: np.ndarray, view: int) -> np.ndarray:
    """Labels as they are in a view: a mirrored image has mirrored boxes."""
    labels = images.labels[rows]
    if view == 1 and images.boxes:
        return mirrored_boxes(torch.from_numpy(labels)).numpy()
    return labels


def head_predictions(
    loaded: LoadedModel,
    images: ImageSet,
    rows: Sequence[int] | np.ndarray,
    cache_dir: str | Path | FeatureCache | None = None,
    batch_size: int = 32,
    precision: Wanted = "auto",
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> Predictions:
    """What the installed head says about `rows` (view 0), from cached features where there are some."""
    rows = np.asarray(rows, dtype=np.int64)
    features = extract_features(loaded, images, rows, (0,), cache_dir, batch_size, precision, on_event)[0]
    head = loaded.model.get_submodule(loaded.head)
    with torch.inference_mode():
        logits = head.cpu()(torch.from_numpy(features)) if len(rows) else torch.empty(0, len(images.classes))
    return labelled(images, rows, logits.numpy())


def choose(
    found: Iterable[Candidate], answers: np.ndarray, images: ImageSet
) -> tuple[Candidate, GridPoint, tuple[GridPoint, ...]]:
    """(the best candidate, its grid point, all grid points) by the validation labels `answers`."""
    first, second = HEADLINE[images.problem], SECOND[images.problem]
    grid: list[GridPoint] = []
    best: tuple[tuple[float, float], Candidate, GridPoint] | None = None
    for candidate in found:
        metrics = _scores(candidate.logits, answers, images)
        point = GridPoint(candidate.settings, metrics)
        grid.append(point)
        sign = -1 if first in LOWER_IS_BETTER else 1
        key = sign * metrics[first], -metrics[second]
        if best is None or key > best[0]:
            best = key, candidate, point
    if best is None:
        raise RegardError("strengths: none given; expected at least one number above 0")
    return best[1], best[2], tuple(grid)


def _scores(logits: Tensor, labels: np.ndarray, images: ImageSet) -> dict[str, float]:
    if images.problem == "single_label":  # a grid on many images, so the two figures alone
        answers = torch.from_numpy(labels)
        top1 = (logits.argmax(dim=1) == answers).double().mean().item()
        return {"top1": top1, "nll": F.cross_entropy(logits.double(), answers).item()}
    ids = tuple(map(str, range(len(labels))))
    found = values(Predictions(ids, logits.numpy(), labels, images.classes, images.problem))
    return {name: found[name] for name in (HEADLINE[images.problem], SECOND[images.problem])}


def _words(settings: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())
