"""The same metrics for each part of the photos: by camera, hospital, season, whatever a column of the table says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from regard.evaluation.calibration import has_label
from regard.evaluation.intervals import Metric
from regard.evaluation.problems import HEADLINE, summarise
from regard.results import Predictions


class SliceRow(NamedTuple):
    """The photos with one value of the column: the metric that a table shows first, and all of them."""

    value: str
    images: int
    headline: Metric
    metrics: dict[str, Metric]


def per_slice(
    predictions: Predictions,
    cells: Mapping[str, str],
    temperature: float = 1.0,
    groups: Sequence[Sequence[str]] = (),
    thresholds: Sequence[float] = (),
) -> list[SliceRow]:
    """One row per value, by value; `cells`: id -> value, "" where it has none.

    Photos without a known label count nowhere, and a value that only they have gets no row.
    """
    owned = np.array([cells.get(id_, "") for id_ in predictions.ids], dtype=object)
    known = has_label(predictions)
    rows = []
    for value in sorted(set(owned[known])):
        members = np.flatnonzero(known & (owned == value))
        part = take(predictions, members)
        found = summarise(part, temperature, groups, thresholds)
        rows.append(SliceRow(value, len(members), found[HEADLINE[predictions.problem]], found))
    return rows


def take(predictions: Predictions, rows: np.ndarray) -> Predictions:
    """The predictions of some rows, in the order given."""
    return replace(
        predictions,
        ids=tuple(predictions.ids[row] for row in rows),
        logits=predictions.logits[rows],
        labels=predictions.labels[rows],
    )
