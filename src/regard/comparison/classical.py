"""A row without a network: histograms of oriented gradients and a linear model, beside every comparison.

Features as in Dalal and Triggs (2005): 9 orientations of the strongest colour channel's gradient, blocks of 2 x 2
cells, L2-Hys. A photo is decoded and resized as for any model, to 128 pixels (32 where photos are at most 64 pixels),
and divided into 8 x 8 cells, so there are always 7 * 7 * 4 * 9 = 1,764 features. On them a linear SVM (squared hinge,
one against the rest; several labels: one for each), or ridge regression for numbers. The strength of the penalty is
chosen on the validation photos by the score of the verdict. Decision values become probabilities by the temperature
that is fitted on them, as for every model.

It is a reference and not a candidate: it is not tested against the others. Nothing is drawn: the seed only redraws the
training subset and the validation cut.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from regard.data.decoding import open_image
from regard.data.sources import ImageSet
from regard.data.splits import Split, write_split
from regard.data.transforms import Preprocess
from regard.evaluation.calibration import fit_temperature, unsure_threshold
from regard.evaluation.multilabel import fit_thresholds
from regard.evaluation.problems import label_scale, photo_scores, values
from regard.inference.rows import usable_cores
from regard.results import Cost, Predictions, Problem
from regard.runs.run import Run
from regard.training.environment import environment

METHOD = "classical"
NAMES: dict[Problem, str] = {"single_label": "hog_svm", "multi_label": "hog_svm", "regression": "hog_ridge"}
CELLS, ORIENTATIONS = 8, 9
FEATURES = (CELLS - 1) ** 2 * 4 * ORIENTATIONS
LARGE, SMALL, SMALL_PHOTO = 128, 32, 64  # pixels
SVM_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # C: what a misplaced photo costs; rising, so strongest penalty first
RIDGE_STRENGTHS = (1e3, 1e2, 1e1, 1.0, 1e-1)  # penalty on the squared weights
PROBED = 50  # photos whose size decides between the two sides


class Reference:
    """The row's features, computed once for all its runs, and what it does in each."""

    def __init__(
        self, images: ImageSet, balance: str = "none", on_event: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """balance: "none", or a recipe's other words: then classes weigh inversely to their frequency."""
        self.images = images
        self.weights = None if balance == "none" else "balanced"
        self.emit = on_event or (lambda event: None)
        self.seconds_per_image = 0.0

    @cached_property
    def preprocess(self) -> Preprocess:
        """How a photo becomes pixels; a box needs the whole photo, so it is squashed there."""
        rows = np.unique(np.linspace(0, len(self.images) - 1, PROBED).round().astype(int))
        opened = [open_image(self.images.sources[int(row)]) for row in rows]
        side = SMALL if np.median([min(one.height, one.width) for one in opened]) <= SMALL_PHOTO else LARGE
        resize = "squash" if self.images.boxes else "short"
        return Preprocess(side, crop_pct=1.0, resize=resize, interpolation="bilinear")

    @cached_property
    def features(self) -> np.ndarray:
        """(N, 1764) float32 of every image."""
        start, count = time.perf_counter(), len(self.images)
        found = np.empty((count, FEATURES), np.float32)
        with ThreadPoolExecutor(min(usable_cores(), 16)) as pool:
            for row, one in enumerate(pool.map(self.of_source, self.images.sources)):
                found[row] = one
                if (row + 1) % 100 == 0 or row + 1 == count:
                    self.emit({"event": "progress", "title": "gradients", "done": row + 1, "total": count})
        self.seconds_per_image = (time.perf_counter() - start) / max(count, 1)
        return found

    def of_source(self, source: Any) -> np.ndarray:
        """(1764,) of one image. Raises ImageError."""
        return gradients(self.preprocess.pixels(source).permute(1, 2, 0).numpy())

    def run(self, run: Run, split: Split, seed: int, fraction: float, fold: int | None) -> None:
        """Fit on the train rows, choose on the validation rows, answer the test rows, and write it all to `run`."""
        images, features = self.images, self.features
        start = time.perf_counter()
        answers, settings, grid = fit(
            features[split.train].astype(np.float64),
            images.labels[split.train],
            [features[split.val], features[split.test]],
            images.labels[split.val],
            images.problem,
            len(images.classes),
            self.weights,
        )
        val, test = (
            Predictions(
                tuple(images.ids[row] for row in rows), logits, images.labels[rows], images.classes, images.problem
            )
            for rows, logits in zip((split.val, split.test), answers, strict=True)
        )
        used = self.seconds_per_image * (len(split.train) + len(split.val))
        seconds = used + time.perf_counter() - start
        temperature = fit_temperature(val)
        name = NAMES[images.problem]
        write_split(run.split_path, images, split)
        run.write_classes(images.classes)
        run.write_environment(environment())
        run.truncate_metrics(-1)
        run.append_metrics(
            {"step": 1, "images": len(split.train), **{f"val/{name}": value for name, value in values(val).items()}}
        )
        run.write_config(
            {
                "model": name,
                "method": METHOD,
                "data": images.name,
                "source": {"data": images.origin, "model": name, "weights": None},
                "problem": images.problem,
                "boxes": images.boxes,
                "fraction": fraction,
                "train_images": len(split.train),
                "notes": list(split.notes),
                "hog": {"cells": CELLS, "orientations": ORIENTATIONS, "block": 2, "norm": "L2-Hys"},
                "class_weights": self.weights or "none",
                "preprocess": self.preprocess.to_config(),
            }
        )
        run.write_predictions({"val": val, "test": test}, seed, fraction)
        weights = (FEATURES + 1) * len(images.classes)
        run.write_result(
            {
                "model": name,
                "method": METHOD,
                "seed": seed,
                "fraction": fraction,
                "fold": fold,
                "problem": images.problem,
                "train_images": len(split.train),
                "images_seen": len(split.train),
                "temperature": temperature,
                "unsure_below": unsure_threshold(val, temperature),
                "thresholds": list(fit_thresholds(val, temperature)) if images.problem == "multi_label" else [],
                "pretraining": "none (no network)",
                "deterministic": True,
                "head": settings,
                "grid": grid,
            },
            Cost(parameters=weights, trainable_parameters=weights, train_seconds=seconds),
        )

    def seconds(self, train_rows: list[int]) -> float:
        """Expected for the features of all images and a fit to each number of training images: measured on a few."""
        rng = np.random.default_rng(0)
        rows = rng.integers(len(self.images), size=8)
        start = time.perf_counter()
        for row in rows:
            self.of_source(self.images.sources[int(row)])
        each = (time.perf_counter() - start) / len(rows)
        images, few = self.images, max(2, min(200, *train_rows))
        spread = np.argsort(images.strata, kind="stable")[np.linspace(0, len(images) - 1, few).astype(int)]
        sample, labels = rng.random((few, FEATURES)), images.labels[spread]  # of every class, as far as that goes
        start = time.perf_counter()
        fit(sample, labels, [sample], labels, images.problem, len(images.classes), self.weights)
        return each * len(images) + (time.perf_counter() - start) * sum(train_rows) / few


def gradients(pixels: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8, S a multiple of 8 -> (1764,) float32."""
    from skimage.feature import hog

    side = len(pixels) // CELLS
    found = hog(
        pixels,
        orientations=ORIENTATIONS,
        pixels_per_cell=(side, side),
        cells_per_block=(2, 2),
        block_norm="L2-Hys",
        channel_axis=-1,
    )
    return found.astype(np.float32)


def fit(
    train: np.ndarray,
    labels: np.ndarray,
    asked: list[np.ndarray],
    val_labels: np.ndarray,
    problem: Problem,
    classes: int,
    weights: str | None = None,
) -> tuple[list[np.ndarray], dict[str, Any], list[dict[str, Any]]]:
    """(answers to each of `asked`, the setting chosen, what each setting scored).

    train (N, D) float64 with labels as in `Predictions`; asked[0] are the validation rows, with val_labels. Of equal
    scores the strongest penalty. weights: "balanced" or None, of classes.
    """
    scale = label_scale(labels) if problem == "regression" else None
    best: tuple[float, list[np.ndarray], dict[str, Any]] | None = None
    grid = []
    for strength in RIDGE_STRENGTHS if problem == "regression" else SVM_STRENGTHS:
        if problem == "regression":
            setting, answers = {"alpha": strength}, _ridge(train, labels, asked, strength)
        elif problem == "multi_label":
            setting, answers = {"C": strength}, _one_for_each(train, labels, asked, strength, weights)
        else:
            setting, answers = {"C": strength}, _one_against_rest(train, labels, asked, strength, classes, weights)
        names = tuple(map(str, range(classes)))
        val = Predictions(tuple(map(str, range(len(val_labels)))), answers[0], val_labels, names, problem)
        score = float(np.nanmean(photo_scores(val, scale)))
        grid.append({**setting, "score": score})
        if best is None or score > best[0]:
            best = score, answers, setting
    assert best is not None
    return best[1], best[2], grid


def _svm(strength: float, weights: str | None) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=strength, dual="auto", class_weight=weights, random_state=0)


def _fitted(model: Any, train: np.ndarray, labels: np.ndarray) -> Any:
    """The fitted model; one that is still moving after all iterations is judged on validation like the others."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(train, labels)


def _one_against_rest(
    train: np.ndarray, labels: np.ndarray, asked: list[np.ndarray], strength: float, classes: int, weights: str | None
) -> list[np.ndarray]:
    """Decision values (M, K) float32; of a class without training images one below all others."""
    model = _fitted(_svm(strength, weights), train, labels)
    answers = []
    for features in asked:
        values = model.decision_function(features)
        values = np.stack([-values, values], axis=1) if values.ndim == 1 else values
        full = np.full((len(features), classes), values.min() - 1, np.float32)
        full[:, model.classes_] = values
        answers.append(full)
    return answers


def _one_for_each(
    train: np.ndarray, labels: np.ndarray, asked: list[np.ndarray], strength: float, weights: str | None
) -> list[np.ndarray]:
    """Decision values (M, K) float32; of a label that all or no training images have, -1 or 1."""
    answers = [np.empty((len(features), labels.shape[1]), np.float32) for features in asked]
    for number, column in enumerate(labels.T):
        known = ~np.isnan(column)
        truth = column[known] == 1
        constant = 1.0 if truth.all() and len(truth) else -1.0
        model = _fitted(_svm(strength, weights), train[known], truth) if truth.any() and not truth.all() else None
        for answer, features in zip(answers, asked, strict=True):
            answer[:, number] = model.decision_function(features) if model is not None else constant
    return answers


def _ridge(train: np.ndarray, labels: np.ndarray, asked: list[np.ndarray], strength: float) -> list[np.ndarray]:
    """Numbers (M, K) float32, each column from the images whose value is known; 0 where none is."""
    from sklearn.linear_model import Ridge

    answers = [np.zeros((len(features), labels.shape[1]), np.float32) for features in asked]
    for number, column in enumerate(labels.T):
        known = ~np.isnan(column)
        if not known.any():
            continue
        model = Ridge(alpha=strength).fit(train[known], column[known])
        for answer, features in zip(answers, asked, strict=True):
            answer[:, number] = model.predict(features)
    return answers
