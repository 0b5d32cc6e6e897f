"""P P^T of position codes by formula."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PositionProducts(Picture):
    """products (T, T): p_t . p_s of T positions of `dim` numbers."""

    NAME: ClassVar[str] = "position_products"

    dim: int
    products: np.ndarray

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        figure.set_size_inches(WIDTH, 4.6)
        count = len(self.products)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        drawn = left.imshow(self.products, cmap="viridis")
        left.set_title(words["matrix"].format(count=count, dim=self.dim))
        left.set_xlabel(words["s"])
        left.set_ylabel(words["t"])
        figure.colorbar(drawn, ax=left, shrink=0.75, aspect=30)
        middle = count // 2
        for place, colour in ((0, "#0072B2"), (middle, "#000000"), (count - 1, "#D55E00")):
            right.plot(self.products[place], color=colour, label=f"$t = {place}$")
        right.set_title(words["rows"])
        right.set_xlabel(words["s"])
        right.set_ylabel(words["product"])
        right.set_box_aspect(1)
        right.legend(loc="lower center", ncols=3, fontsize=7, handlelength=1.2, columnspacing=1)
        right.set_ylim(bottom=self.products.min() - 0.18 * np.ptp(self.products))

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        rows = ((place, *line) for place, line in enumerate(self.products.tolist()))
        return ("position", *(f"with_{place}" for place in range(len(self.products)))), rows
