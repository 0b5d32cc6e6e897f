"""Attention between the tokens of sequences: alignments of a translator, what a pronoun refers to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from regard.reporting.pictures.labels import label
from regard.reporting.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3  # grids beside each other
CELL = 0.27  # inches
WRITTEN = 9  # tokens up to which cells bear their weight
LETTERS = 14  # of a token


@dataclass(frozen=True)
class Alignment:
    """weights (rows, columns): how much each token of `rows`, which reads, attends to each of `columns`, which is read.

    kind: self-attention of the encoder or of the decoder, or cross-attention; where: layer and head, in words.
    """

    kind: Literal["encoder", "decoder", "cross"]
    where: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    weights: np.ndarray

    def __post_init__(self) -> None:
        if self.weights.shape != (len(self.rows), len(self.columns)):
            raise ValueError(
                f"weights {self.weights.shape}: expected {len(self.rows)} rows, {len(self.columns)} columns"
            )


@dataclass(frozen=True)
class SequenceAttention(Picture):
    """alignments: one grid of tokens by tokens each."""

    NAME: ClassVar[str] = "sequence_attention"

    alignments: tuple[Alignment, ...]

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        across = min(COLUMNS, len(self.alignments))
        down = math.ceil(len(self.alignments) / across)
        wide = max(len(one.columns) for one in self.alignments)
        tall = max(len(one.rows) for one in self.alignments)
        figure.set_size_inches(max(6.6, across * (1.15 + CELL * wide)), 1.5 + down * (1.35 + CELL * tall))
        places = figure.subplots(down, across, squeeze=False).ravel()
        for axes in places[len(self.alignments) :]:
            axes.set_axis_off()
        for axes, one in zip(places, self.alignments, strict=False):
            _grid(axes, one, words)

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        header = ("kind", "where", "row", "reading", "column", "read", "weight")
        return header, (
            (one.kind, one.where, row, one.rows[row], column, one.columns[column], float(weight))
            for one in self.alignments
            for (row, column), weight in np.ndenumerate(one.weights)
        )


def _grid(axes: Axes, one: Alignment, words: Mapping[str, str]) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(one.weights, cmap="Blues", vmin=0, vmax=1)
    for row, column in enumerate(one.weights.argmax(1)):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.2, zorder=3))
    if max(one.weights.shape) <= WRITTEN:
        for (row, column), weight in np.ndenumerate(one.weights):
            if weight >= 0.005:
                colour = "white" if weight > 0.6 else "black"
                axes.text(column, row, f"{100 * weight:.0f}", ha="center", va="center", fontsize=5.5, color=colour)
    axes.set_xticks(range(len(one.columns)), [label(word, LETTERS) for word in one.columns], rotation=90)
    axes.set_yticks(range(len(one.rows)), [label(word, LETTERS) for word in one.rows])
    axes.tick_params(length=0, labelsize=7)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(one.columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(one.rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e6e6e6", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel(f"{words[one.kind]}\n{label(one.where)}", fontsize=7, color="#444444")
