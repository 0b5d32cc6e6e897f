"""The first layer's filters on RGB as small colour images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import WIDTH, mosaic, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Filters(Picture):
    """tiles (F, k, k, 3): principal components with their `share` (F,) of the variance, or, where that is None, the
    filters themselves. layer: whose they are; count: how many filters it has.
    """

    NAME: ClassVar[str] = "filters"

    layer: str
    count: int
    tiles: np.ndarray
    share: np.ndarray | None

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        shown, side = self.tiles.shape[:2]
        columns = 7 if shown <= 28 else 8 if shown <= 64 else 16
        rows = -(-shown // columns)
        figure.set_size_inches(WIDTH, min(6.0, 0.62 * rows) + 1.3)
        largest = np.abs(self.tiles).max(axis=(1, 2, 3), keepdims=True)
        colours = 0.5 + 0.5 * self.tiles / np.where(largest == 0, 1, largest)
        whole = mosaic(colours, columns, max(1, side // 8))
        alpha = np.isfinite(whole).all(-1, keepdims=True)
        axes = figure.add_subplot()
        show(axes, np.concatenate([np.nan_to_num(whole), alpha], -1))
        axes.axis("off")
        if self.share is None:
            title = words["filters"].format(count=self.count, layer=self.layer, side=side)
        else:
            share = f"{100 * self.share.sum():.0f}"
            title = words["components"].format(count=self.count, layer=self.layer, side=side, shown=shown, share=share)
        axes.set_title(title)

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        shares = [None] * len(self.tiles) if self.share is None else self.share.tolist()
        rows = (
            (tile, share, row, column, *values)
            for tile, share in enumerate(shares)
            for row, line in enumerate(self.tiles[tile].tolist())
            for column, values in enumerate(line)
        )
        return ("tile", "share_of_variance", "row", "column", "red", "green", "blue"), rows
