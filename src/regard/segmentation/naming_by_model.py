"""Names for masks by a classifier of the user's; what it is not sure of, or does not know, stays unknown.

It sees each mask in its context through its own preprocessing: photos are what it knows, not cut-outs. From which
probability on it is sure was found on whole photos, which says little of crops; `fit_threshold` finds it again by the
same rule on crops of photos whose class is known, and higher where names would be wrong more often than is allowed. A
threshold chosen on known classes alone does not tell what is none of them; where the classifier was shown unknown
photos in training, its score of those (`inference.unknown`) counts too, its threshold found on the same crops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard.data.decoding import ImageError, ImageSource, decode
from regard.errors import RegardError
from regard.inference.backends.contract import Answers
from regard.inference.rows import run_batch
from regard.inference.unknown import UnknownScore
from regard.masks import Mask
from regard.segmentation.crops import context_crop
from regard.segmentation.naming import BATCH, UNKNOWN, batches

if TYPE_CHECKING:
    from regard.inference.loaded import LoadedModel

CROPS = 2  # of each photo
SMALLEST = 0.5  # side of a crop, as a share of the photo's shorter side
UNSURE = 0.05  # share of the crops that get no name, as of whole photos (`evaluation.calibration.unsure_threshold`)
NEVER = 1.01  # a threshold that no probability reaches


@dataclass(frozen=True)
class Threshold:
    """From which probability on a crop's class is its name.

    crops: looked at; named: share of them that is named; wrong: share of the named that is wrong. unknown: the
    classifier's score of what it does not know, with a threshold of its own; the shares are without it.
    """

    value: float
    crops: int
    named: float
    wrong: float
    unknown: UnknownScore | None = None


def name_by_model(
    loaded: LoadedModel,
    image: ImageSource,
    masks: Sequence[Mask],
    threshold: float | None = None,
    unknown: UnknownScore | None = None,
) -> tuple[Mask, ...]:
    """Masks of an image, in their order, each with its class and probability; `UNKNOWN` below the threshold.

    threshold, unknown: what `fit_threshold` found; without a threshold, that from which the model is sure of whole
    photos; without a score, what is none of the classes is told by its probability alone. Raises RegardError for a
    model that does not give one class, and ImageError.
    """
    refuse_others(loaded)
    pixels = decode(image)
    least = loaded.unsure_below if threshold is None else threshold
    named = [replace(mask, name=UNKNOWN, score=None) for mask in masks]
    for some in batches([number for number, mask in enumerate(masks) if mask.area]):
        crops = torch.stack([context_crop(pixels, masks[number].runs, loaded.preprocess) for number in some])
        shares, scores = _answers(loaded, crops, unknown)
        for number, row, score in zip(some, shares, scores, strict=True):
            best = int(row.argmax())
            if row[best] >= least and (unknown is None or score >= unknown.threshold):
                named[number] = replace(masks[number], name=loaded.classes[best], score=float(row[best]))
    return tuple(named)


def refuse_others(loaded: LoadedModel) -> None:
    """Raises RegardError for a model whose answer is not one class."""
    if loaded.problem != "single_label":
        what = "several labels" if loaded.problem == "multi_label" else "numbers"
        raise RegardError(f"{loaded.name}: answers with {what}; masks are named by a model of one class for each photo")


def fit_threshold(
    loaded: LoadedModel,
    photos: Sequence[ImageSource],
    labels: np.ndarray,
    allowed: float,
    unknown: UnknownScore | None = None,
) -> Threshold | None:
    """The threshold below which `UNSURE` of the crops fall, or the lowest at which `allowed` of the named are wrong.

    The higher of the two. Crops are squares about the middle of photos, half as long as their shorter side or longer;
    labels: (N,) int64, the class of each photo; unknown: the model's score, which comes back with the threshold that
    all but `UNSURE` of the crops reach. Photos that cannot be read are passed over. None where there is nothing to fit
    on.
    """
    refuse_others(loaded)
    confidence, right, scores = [], [], []
    for crops, truths in _crops(loaded, photos, labels):
        shares, of_batch = _answers(loaded, crops, unknown)
        confidence.append(shares.max(axis=1))
        right.append(shares.argmax(axis=1) == truths)
        scores.append(of_batch)
    if not right:
        return None
    found = threshold_of(np.concatenate(confidence), np.concatenate(right), allowed)
    if unknown is None:
        return found
    least = float(np.quantile(np.concatenate(scores), UNSURE, method="lower"))
    return replace(found, unknown=replace(unknown, threshold=least))


def threshold_of(confidence: np.ndarray, right: np.ndarray, allowed: float) -> Threshold:
    """Of (N,) confidences and whether the answers were right; `NEVER` where no threshold will do."""
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    wrong = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    last = np.append(falling[1:] != falling[:-1], True)  # a threshold cannot part crops of equal confidence
    possible = falling[last & (wrong <= allowed)]
    possible = possible[possible >= np.quantile(confidence, UNSURE)]
    value = float(possible.min()) if len(possible) else NEVER
    named = confidence >= value
    return Threshold(value, len(confidence), float(named.mean()), float((~right[named]).mean()) if named.any() else 0.0)


def _crops(
    loaded: LoadedModel, photos: Sequence[ImageSource], labels: np.ndarray
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Batches of crops (B, 3, S, S) uint8 with their classes (B,); the same for the same photos."""
    crops: list[Tensor] = []
    truths: list[int] = []
    for number, (photo, label) in enumerate(zip(photos, labels.tolist(), strict=True)):
        try:
            pixels = decode(photo)
        except ImageError:
            continue
        draw = np.random.default_rng(number)
        for _ in range(CROPS):
            crops.append(loaded.preprocess.pixels(_square(pixels, draw)))
            truths.append(label)
        if len(crops) >= BATCH:
            yield torch.stack(crops), np.array(truths)
            crops, truths = [], []
    if crops:
        yield torch.stack(crops), np.array(truths)


def _square(pixels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A square of the photo with its middle in the square's middle third."""
    height, width = pixels.shape[:2]
    side = max(1, round(min(height, width) * draw.uniform(SMALLEST, 1)))
    first = []
    for most in (height, width):
        off = draw.uniform(-1, 1) * side / 6
        first.append(min(max(round((most - side) / 2 + off), 0), most - side))
    top, left = first
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _answers(loaded: LoadedModel, crops: Tensor, unknown: UnknownScore | None) -> tuple[np.ndarray, np.ndarray]:
    """Of crops (B, 3, S, S) uint8: (B, K) float64 probabilities, and (B,) their scores, 0 without one to ask."""
    found = run_batch(loaded, Answers(loaded, features=unknown is not None).eval(), crops, "fp32")
    count = len(loaded.classes)
    logits = found[:, :count].astype(np.float64) / loaded.temperature
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares, np.zeros(len(shares)) if unknown is None else unknown.score(found[:, count:], shares)
