"""What is taken for what: counts of labels against answers, for one class per photo and for several labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from regard.reporting.answers import Answers
from regard.reporting.records import ModelDetail, ReportData

FULL_TABLE = 30  # classes up to which the matrix is a table with numbers
MOST_CELLS = 4000  # squares of a drawing; the most frequent
MOST_PAIRS = 12


@dataclass(frozen=True)
class Cell:
    """One cell of a matrix; `heat` 0..8 is the share of the row, for the colour."""

    row: int
    column: int
    photos: int
    heat: int


class Pair(NamedTuple):
    """One kind of mistake in words: 'coat' 'taken for' 'bag'."""

    cell: Cell
    what: str
    how: str
    other: str


@dataclass(frozen=True)
class Confusion:
    """Counts of the photos shown: rows are labels, columns what the model said.

    With several labels per photo: row = label missed, column = label added in the same photo; a photo with several
    errors stands in several cells. The last row and column are "nothing missed" and "nothing added"; the diagonal holds
    the photos whose label was found.
    """

    model: int  # position in ReportData.models
    name: str
    shown: str  # "seed 0"
    rows_named: tuple[str, ...]
    columns_named: tuple[str, ...]
    cells: tuple[Cell, ...]  # those that hold photos
    pairs: tuple[Pair, ...]  # mistakes, most frequent first
    several: bool = False

    @property
    def small(self) -> bool:
        """True where a table with numbers is readable."""
        return len(self.rows_named) <= FULL_TABLE

    @property
    def rows(self) -> list[list[Cell]]:
        """Every cell, row by row."""
        held = {(cell.row, cell.column): cell for cell in self.cells}
        size = range(len(self.rows_named))
        return [[held.get((row, column), Cell(row, column, 0, 0)) for column in size] for row in size]


def confusion(data: ReportData, index: int) -> Confusion | None:
    """The matrix of model number `index`; None where no test photo has a label, and for numbers."""
    if data.problem == "regression":
        return None
    detail, given = data.models[index], data.shown[index]
    several = data.problem == "multi_label"
    counts = missed_and_added(given) if several else confusion_counts(given)
    if not counts.sum():
        return None
    totals = np.nansum(given.labels == 1, axis=0) if several else counts.sum(axis=1)
    totals = np.append(totals, max(1, counts[-1].max())) if several else totals
    shares = counts / np.maximum(totals, 1)[:, None]
    heat = np.where(counts > 0, np.clip(np.ceil(shares * 8), 1, 8), 0).astype(int)
    size = len(counts)
    held = sorted(np.argwhere(counts).tolist(), key=lambda at: (-counts[*at], *at))  # most frequent first
    cells = [Cell(row, column, int(counts[row, column]), int(heat[row, column])) for row, column in held]
    names = data.classes
    return Confusion(
        model=index,
        name=detail.name,
        shown=shown_words(data, detail),
        rows_named=(*names, "nothing missed") if several else names,
        columns_named=(*names, "nothing added") if several else names,
        cells=tuple(cells[:MOST_CELLS]) if size > FULL_TABLE else tuple(cells),
        pairs=tuple(
            Pair(cell, *pair_words(names, cell.row, cell.column, several)) for cell in cells if cell.row != cell.column
        )[:MOST_PAIRS],
        several=several,
    )


def shown_words(data: ReportData, detail: ModelDetail) -> str:
    """Which run's photos are shown: 'seed 0', or 'all folds' of one repeat."""
    seed = data.shown_runs(detail)[0].seed
    if data.folds:
        return f"all folds, repeat {seed}" if data.repeats > 1 else "all folds"
    return f"seed {seed}"


def pair_words(names: tuple[str, ...], row: int, column: int, several: bool) -> tuple[str, str, str]:
    """('coat', 'taken for', 'bag'); of several labels ('coat', 'missed,', 'bag added'), either part alone too."""
    if not several:
        return names[row], "taken for", names[column]
    if row == len(names):
        return names[column], "added", ""
    if column == len(names):
        return names[row], "missed", ""
    return names[row], "missed, added:", names[column]


def confusion_counts(given: Answers) -> np.ndarray:
    """(K, K) int64: labelled photos by label (row) and most probable class (column)."""
    size = len(given.classes)
    cells = given.labels[given.labelled] * size + given.said[given.labelled]
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def missed_and_added(given: Answers) -> np.ndarray:
    """(K + 1, K + 1) int64: photos by label missed (row) and label added (column), as `Confusion` says."""
    missed, added = given.missed.astype(np.int64), given.added.astype(np.int64)
    missed = np.concatenate([missed, ~missed.any(axis=1, keepdims=True)], axis=1)
    added = np.concatenate([added, ~added.any(axis=1, keepdims=True)], axis=1)
    counts = missed.T @ added
    found = ((given.labels == 1) & given.given).sum(axis=0)
    counts[np.arange(len(found)), np.arange(len(found))] = found
    counts[-1, -1] = 0  # photos without an error are no cell: each label found is on the diagonal
    return counts
