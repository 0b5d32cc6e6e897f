"""From a finished run and a folder of photos that belong to none of its classes to a score that tells them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.data.sources import ImageSet, list_photos
from regard.data.splits import Split
from regard.errors import RegardError
from regard.evaluation.intervals import Metric
from regard.evaluation.unknown import KEPT, auroc, fpr95
from regard.inference.features import extract_features
from regard.inference.loaded import LoadedModel
from regard.inference.rows import outputs
from regard.inference.unknown import Kind, UnknownScore, likelihood, nearness, unit
from regard.results import Predictions
from regard.runs.run import Run

BANK = 20_000  # training photos that are kept, drawn at random; the paper finds a hundredth of ImageNet to suffice
FEWEST = 4  # unknown photos: two to choose the score, two to judge it
BINS = 20


def fit_unknown(
    run_folder: str | Path,
    loaded: LoadedModel,
    images: ImageSet,
    split: Split,
    unknown_folder: str | Path,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    batch_size: int = 32,
) -> UnknownScore:
    """Choose and judge the score of a finished run, and write unknown.safetensors and unknown.json beside it.

    loaded: the trained model; unknown_folder: photos of other things. The validation photos set the threshold, which
    95% of them pass. A random half of the unknown photos chooses between the two scores, by AUROC against the
    validation photos; the test photos and the other half give the figures that are reported. Photos that cannot be
    read are left out by name. Raises RegardError for fewer than four unknown photos, or for a run of numbers whose
    model has no last layer to read features from.
    """
    run, emit = Run.open(run_folder), on_event or (lambda event: None)
    ids, sources = list_photos([Path(unknown_folder)])
    pooled, logits = _answers(loaded, ids, sources, batch_size, emit)
    if len(pooled) < FEWEST:
        raise RegardError(
            f"{unknown_folder}: {len(pooled)} readable photos; --unknown needs {FEWEST} or more, some to choose by and "
            "some to report on"
        )
    rng = np.random.default_rng(0)
    train = np.sort(rng.permutation(split.train)[:BANK])
    bank = unit(_features(loaded, images, train, batch_size, emit))
    order = rng.permutation(len(pooled))
    choosing, judging = order[: len(order) // 2], order[len(order) // 2 :]

    scores: dict[Kind, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # of validation, test and unknown photos
    val, test = (_features(loaded, images, rows, batch_size, emit) for rows in (split.val, split.test))
    scores["distance"] = nearness(bank, val), nearness(bank, test), nearness(bank, pooled)
    if images.problem != "regression":
        strange = Predictions(("",) * len(logits), logits, np.full(len(logits), -1), loaded.classes, loaded.problem)
        answered = (run.predictions("val"), run.predictions("test"), strange)
        likelihoods = [likelihood(one.probabilities(loaded.temperature)) for one in answered]
        scores["probability"] = likelihoods[0], likelihoods[1], likelihoods[2]

    judged = {
        kind: (auroc(test_scores, other[judging]), fpr95(test_scores, other[judging]))
        for kind, (_, test_scores, other) in scores.items()
    }
    chosen = max(scores, key=lambda kind: auroc(scores[kind][0], scores[kind][2][choosing]).value)
    known_scores, other = scores[chosen][1], scores[chosen][2][judging]
    threshold = float(np.quantile(scores[chosen][0], 1 - KEPT, method="lower"))
    found = UnknownScore(chosen, threshold, bank)
    facts = {
        "auroc": _numbers(judged[chosen][0]),
        "fpr95": _numbers(judged[chosen][1]),
        "known": len(known_scores),
        "unknown": len(other),
        "known_rejected": float((known_scores < threshold).mean()),
        "unknown_rejected": float((other < threshold).mean()),
        "histogram": _histogram(known_scores, other),
        "scores": {kind: {"auroc": _numbers(a), "fpr95": _numbers(f)} for kind, (a, f) in judged.items()},
    }
    found.save(run.folder, facts)
    value = judged[chosen][0]
    emit(
        {
            "event": "note",
            "text": f"unknown photos: told by {chosen}, AUROC {value.value:.3f} on {len(known_scores)} known and "
            f"{len(other)} unknown photos that did not choose it",
        }
    )
    return found


def _features(
    loaded: LoadedModel, images: ImageSet, rows: np.ndarray, batch_size: int, emit: Callable[[dict[str, Any]], None]
) -> np.ndarray:
    return extract_features(loaded, images, rows, (0,), None, batch_size, "fp32", emit)[0]


def _answers(
    loaded: LoadedModel, ids: tuple[str, ...], sources: tuple[Path, ...], batch_size: int, emit: Callable[[dict], None]
) -> tuple[np.ndarray, np.ndarray]:
    """(features (N, D), logits (N, K)) of the photos that can be read."""

    def both(pixels: Tensor) -> Tensor:
        return torch.cat([loaded.pooled(pixels).float(), loaded.model(pixels).float()], dim=1)  # (B, D + K)

    found = []
    for done, (id_, output, error) in enumerate(outputs(loaded, both, ids, sources, batch_size), start=1):
        if output is None:
            emit({"event": "note", "text": f"left out of the unknown photos: {id_}: {error}"})
        else:
            found.append(output)
        if done % batch_size == 0 or done == len(ids):
            emit({"event": "progress", "title": "unknown photos", "done": done, "total": len(ids)})
    size = len(loaded.classes)
    stacked = np.stack(found) if found else np.empty((0, size + 1), np.float32)
    return stacked[:, :-size], stacked[:, -size:]


def _numbers(metric: Metric) -> list[float | None]:
    return [metric.value, metric.low, metric.high]


def _histogram(known: np.ndarray, unknown: np.ndarray) -> dict[str, list[float]]:
    """Counts of both in equal bins over the range of all scores."""
    edges = np.histogram_bin_edges(np.concatenate([known, unknown]), BINS)
    return {
        "edges": edges.tolist(),
        "known": np.histogram(known, edges)[0].tolist(),
        "unknown": np.histogram(unknown, edges)[0].tolist(),
    }
