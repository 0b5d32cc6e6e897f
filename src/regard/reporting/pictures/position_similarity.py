"""Cosine similarity of position codes, a tile for each patch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import WIDTH, mosaic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TILES = 16  # along a side at most; of more, every second or third is drawn


@dataclass(frozen=True)
class PositionSimilarity(Picture):
    """similarity (N, N) of the N = height * width patches, row after row of `grid`; NaN where a code is zero."""

    NAME: ClassVar[str] = "position_similarity"

    grid: tuple[int, int]
    similarity: np.ndarray

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        height, width = self.grid
        step = -(-max(self.grid) // TILES)
        tiles = self.similarity.reshape(height, width, height, width)[::step, ::step]
        rows, columns = tiles.shape[:2]
        figure.set_size_inches(WIDTH, 5.2 * min(1.4, height / width) + 1.3)
        axes = figure.add_subplot()
        gap = 1 + max(self.grid) // 24
        whole = mosaic(tiles.reshape(-1, height, width), columns, gap)
        drawn = axes.imshow(whole, cmap="viridis", vmin=-1, vmax=1)
        places = np.arange(max(rows, columns))
        axes.set_xticks((width + gap) * places[:columns] + (width - 1) / 2, map(str, step * places[:columns]))
        axes.set_yticks((height + gap) * places[:rows] + (height - 1) / 2, map(str, step * places[:rows]))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(words["column"])
        axes.set_ylabel(words["row"])
        figure.colorbar(drawn, ax=axes, shrink=0.6, aspect=30, label=words["similarity"])

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        places = [(row, column) for row in range(self.grid[0]) for column in range(self.grid[1])]
        rows = ((*place, *line) for place, line in zip(places, self.similarity.tolist(), strict=True))
        return ("row", "column", *(f"to_{row}_{column}" for row, column in places)), rows
