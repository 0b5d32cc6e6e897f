"""On which labelled photos an 8-bit model is made and tried before `predict` may use it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.errors import RegardError
from regard.results import Predictions

if TYPE_CHECKING:
    from torch import Tensor

    from regard.data.sources import ImageSet
    from regard.inference.backends import Backend, Rehearsal
    from regard.inference.loaded import LoadedModel

CALIBRATED = 300  # photos that choose the ranges: NNCF's default
TRIED = 1000  # photos on which the loss is measured


def rehearse(model: Any, loaded: LoadedModel, calibrate: str | Path | None, batch_size: int) -> Rehearsal:
    """A run's own photos: training photos choose the ranges, validation photos tell the loss. With `calibrate`,
    labelled photos of the user: a third of them and the rest.

    Raises RegardError where there are none.
    """
    from regard.evaluation.problems import METRIC
    from regard.inference.backends import Rehearsal
    from regard.inference.features import fingerprint

    images, chosen, tried = _labelled(loaded, calibrate) if calibrate is not None else _of_run(model)
    scale = _scale(images, chosen)
    chosen, tried = _spread(chosen, CALIBRATED), _spread(tried, TRIED)

    def calibration() -> Iterator[Tensor]:
        from regard.data.decoding import ImageError

        for row in chosen:
            try:
                yield loaded.preprocess.pixels(images.sources[int(row)])
            except ImageError:  # one photo fewer to look at
                continue

    def drop(first: Backend, second: Backend) -> tuple[float, int]:
        lost = _scores(first, loaded, images, tried, batch_size, scale)
        lost = lost - _scores(second, loaded, images, tried, batch_size, scale)
        return float(np.nanmean(lost)), int(np.isfinite(lost).sum())

    prints = b"".join(fingerprint(images, int(row)) for row in chosen)
    return Rehearsal(calibration, hashlib.sha256(prints).hexdigest(), drop, METRIC[loaded.problem])


def _labelled(loaded: LoadedModel, data: str | Path) -> tuple[ImageSet, np.ndarray, np.ndarray]:
    from regard.data.sources import open_images

    images = open_images(data, classes=loaded.classes)
    rows = np.arange(len(images))
    if len(rows) < 3:
        raise RegardError(f"--calibrate {data}: {len(rows)} photos; expected some hundred")
    return images, rows[::3], rows[rows % 3 != 0]


def _of_run(model: Any) -> tuple[ImageSet, np.ndarray, np.ndarray]:
    from regard.runs import Run
    from regard.verbs.run_images import images_of_run

    if not isinstance(model, str | Path) or not Path(model).is_dir():
        raise RegardError(f"{model}: no run folder, so it has no photos to try int8 on; name some with --calibrate")
    try:
        images, split = images_of_run(Run.open(model))
    except RegardError as error:
        raise RegardError(f"{error}; name labelled photos to try int8 on with --calibrate") from None
    return images, split.train, split.val


def _scale(images: ImageSet, rows: np.ndarray) -> np.ndarray | None:
    from regard.evaluation.problems import label_scale

    return label_scale(images.labels[rows]) if images.problem == "regression" else None


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the rows, evenly spaced, so that every class has its share."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _scores(
    backend: Backend, loaded: LoadedModel, images: ImageSet, rows: np.ndarray, batch_size: int, scale: Any
) -> np.ndarray:
    """(N,) the score of each photo (top1, lrap, scaled error); NaN for one that cannot be read."""
    from regard.evaluation.problems import photo_scores
    from regard.inference.rows import output_batches

    logits = np.full((len(rows), len(loaded.classes)), np.nan, np.float32)
    sources = (images.sources[int(row)] for row in rows)
    start = 0
    for decoded, found in output_batches(backend.run, sources, loaded.preprocess, batch_size):
        if found is not None:
            logits[start + np.array(decoded.good)] = found
        start += len(decoded)
    predictions = Predictions(("",) * len(rows), logits, images.labels[rows], loaded.classes, loaded.problem)
    read = np.isfinite(logits).all(axis=1)
    return np.where(read, photo_scores(predictions, scale), np.nan)
