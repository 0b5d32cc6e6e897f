"""Does a confidence mean what it says? Temperature, reliability, and what an `unsure` threshold buys.

What is chosen (temperature, threshold) is chosen on validation predictions and applied to test predictions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from regard.errors import RegardError
from regard.evaluation.intervals import Metric, proportion, wilson
from regard.results import Predictions

BINS = 15
TEMPERATURES = (0.05, 20.0)


class ReliabilityBin(NamedTuple):
    """Images of similar confidence: what the model claimed and what came true (with Wilson's interval)."""

    images: int
    confidence: float
    accuracy: float
    low: float
    high: float


class RiskCoverage(NamedTuple):
    """Answer only above a confidence: row t accepts every image with confidence >= threshold[t]."""

    threshold: np.ndarray  # (T,) falling
    coverage: np.ndarray  # (T,) share of images accepted, rising to 1
    risk: np.ndarray  # (T,) share of errors among the accepted


class Accepted(NamedTuple):
    """What an `unsure` threshold does to a set: the share answered, and the error among the answers."""

    coverage: float
    error: Metric


def has_label(predictions: Predictions) -> np.ndarray:
    """(N,) bool: the class, at least one label, or at least one number is known."""
    if predictions.problem == "single_label":
        return predictions.labels >= 0
    return np.asarray((~np.isnan(predictions.labels)).any(axis=1))


def labelled(predictions: Predictions) -> Predictions:
    """Only the images with a known label; RegardError where there are none or an answer is not a number."""
    known = has_label(predictions)
    if not known.any():
        raise RegardError("predictions: no image has a known label; metrics need labelled images")
    if not np.isfinite(predictions.logits[known]).all():
        raise RegardError("predictions: logits hold NaN or infinity; the model diverged or its file is damaged")
    if known.all():
        return predictions
    ids = tuple(id_ for id_, keep in zip(predictions.ids, known, strict=True) if keep)
    return replace(predictions, ids=ids, logits=predictions.logits[known], labels=predictions.labels[known])


def log_losses(predictions: Predictions, temperature: float = 1.0) -> np.ndarray:
    """(N,) -log p(label) in nats, exact also where p underflows."""
    scaled = predictions.logits.astype(np.float64) / temperature
    return logsumexp(scaled, axis=1) - scaled[np.arange(len(scaled)), predictions.labels]


def binary_log_losses(predictions: Predictions, temperature: float = 1.0) -> np.ndarray:
    """(N, K) -log p(label as it is) in nats of several labels per photo, 0 where unknown."""
    signed = (1 - 2 * predictions.labels.astype(np.float64)) * predictions.logits / temperature
    return np.where(np.isnan(signed), 0.0, np.logaddexp(0.0, np.nan_to_num(signed)))


def fit_temperature(predictions: Predictions) -> float:
    """Temperature of least NLL on validation predictions (Guo et al. 2017, section 4.2), 0.05 to 20.

    A standard normal prior on log T keeps it sane where the images alone do not (without a mistake the NLL
    falls as T -> 0); with some hundred images and some mistakes it moves T by about a per cent. Without
    images, and for numbers: 1.
    """
    if predictions.problem == "regression" or not has_label(predictions).any():
        return 1.0
    known = labelled(predictions)
    losses = binary_log_losses if known.problem == "multi_label" else log_losses

    def cost(log_temperature: float) -> float:
        return float(losses(known, np.exp(log_temperature)).sum() + log_temperature**2 / 2)

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))


def confidences(predictions: Predictions, temperature: float = 1.0) -> np.ndarray:
    """(N,) largest probability of each image."""
    return predictions.probabilities(temperature).max(axis=1)


def unsure_threshold(predictions: Predictions, temperature: float = 1.0, share: float = 0.05) -> float:
    """Confidence below which `share` of the (validation) images fall.

    0 (never unsure) for an empty set, for several labels and for numbers: they have no one answer to be sure of.
    """
    if len(predictions) == 0 or predictions.problem != "single_label":
        return 0.0
    return float(np.quantile(confidences(predictions, temperature), share))


def risk_coverage(predictions: Predictions, temperature: float = 1.0) -> RiskCoverage:
    """Error among the accepted against the share accepted, one row per distinct confidence."""
    known = labelled(predictions)
    confidence = confidences(known, temperature)
    order = np.argsort(-confidence, kind="stable")
    threshold = confidence[order]
    errors = np.cumsum(~known.correct[order])
    last = np.append(threshold[1:] != threshold[:-1], True)  # a threshold cannot part images of equal confidence
    accepted = np.flatnonzero(last) + 1
    return RiskCoverage(threshold[last], accepted / len(known), errors[last] / accepted)


def accepted_error(predictions: Predictions, temperature: float, unsure_below: float) -> Accepted:
    """Share of images with confidence >= unsure_below, and the error among them (NaN where none is left)."""
    known = labelled(predictions)
    accepted = confidences(known, temperature) >= unsure_below
    if not accepted.any():
        return Accepted(0.0, Metric(float("nan")))
    wrong = int((accepted & ~known.correct).sum())
    return Accepted(float(accepted.mean()), proportion(wrong, int(accepted.sum())))


def equal_mass_bins(confidence: np.ndarray, bins: int = BINS) -> list[np.ndarray]:
    """Row numbers of at most `bins` bins of equal size (to one image), by rising confidence."""
    order = np.argsort(confidence, kind="stable")
    return np.array_split(order, min(bins, len(order)))


def reliability(predictions: Predictions, temperature: float = 1.0, bins: int = BINS) -> list[ReliabilityBin]:
    """Equal-mass bins of the top confidence, by rising confidence."""
    known = labelled(predictions)
    confidence = confidences(known, temperature)
    rows = []
    for members in equal_mass_bins(confidence, bins):
        right, images = int(known.correct[members].sum()), len(members)
        low, high = wilson(right, images)
        rows.append(ReliabilityBin(images, float(confidence[members].mean()), right / images, float(low), float(high)))
    return rows


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """ECE with equal-mass bins (Nixon et al. 2019): confidence (N,), correct (..., N) -> (...)."""
    gaps = correct - confidence
    parts = [np.abs(gaps[..., members].sum(axis=-1)) for members in equal_mass_bins(confidence, bins)]
    return np.sum(parts, axis=0) / len(confidence)


def ece_if_calibrated(confidence: np.ndarray, bins: int = BINS, draws: int = 200, seed: int = 0) -> float:
    """Mean ECE of a perfectly calibrated model with these confidences: what few images alone cause."""
    rng = np.random.default_rng(seed)
    step = max(1, 4_000_000 // len(confidence))
    values = []
    for start in range(0, draws, step):
        correct = rng.random((min(step, draws - start), len(confidence))) < confidence
        values.append(expected_calibration_error(confidence, correct, bins))
    return float(np.concatenate(values).mean())
