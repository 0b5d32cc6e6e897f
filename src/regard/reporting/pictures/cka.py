"""Similarity of layers as a grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.labels import label, ticks
from regard.reporting.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 26  # names along a side
IN_CELLS = 14  # layers a side up to which each cell bears its value


@dataclass(frozen=True)
class Cka(Picture):
    """values: (rows, columns), NaN where undefined; names: the models of rows and columns; feature: what of a layer;
    batch, images: images in a batch, and of all batches.
    """

    NAME: ClassVar[str] = "cka"

    values: np.ndarray
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    names: tuple[str, str]
    feature: str
    batch: int
    images: int

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        height, width = self.values.shape
        cell = 0.21 if max(height, width) > IN_CELLS else 0.34
        figure.set_size_inches(max(6.4, 2.6 + cell * width), 2.5 + cell * height)
        figure.set_layout_engine("compressed")  # the square grid and its bar stay together, in the middle
        axes = figure.subplots()
        axes.set_facecolor("#dddddd")
        lowest = min(0.0, float(np.nanmin(self.values, initial=0.0)))
        shown = axes.imshow(np.ma.masked_invalid(self.values), cmap="viridis", vmin=lowest, vmax=1, aspect="equal")
        _hatch(axes, np.isnan(self.values))
        if max(height, width) <= IN_CELLS:
            _write(axes, self.values)
        for axis, names, which in ((axes.yaxis, self.rows, 0), (axes.xaxis, self.columns, 1)):
            places = list(ticks(len(names), MOST))
            axis.set_ticks(places, [label(names[place], 28) for place in places])
            axis.set_label_text(label(self.names[which]))
        axes.tick_params(length=0, labelsize=6)
        axes.tick_params(axis="x", rotation=90)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(shown, ax=axes, shrink=0.7, pad=0.02)
        bar.solids.set(edgecolor="face", rasterized=False)  # pyright: ignore[reportOptionalMemberAccess]
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        bar.set_label("CKA")
        undefined = f"  ·  {words['undefined']}" if np.isnan(self.values).any() else ""
        size = words["size"].format(images=self.images, batch=self.batch)
        axes.set_title(f"{words[self.feature]}  ·  {size}{undefined}", fontsize=7, color="#444444", loc="left")

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        header = ("model", "layer", "against", "against_layer", "feature", "batch", "images", "cka")
        return header, (
            (*pair, self.feature, self.batch, self.images, "undefined" if np.isnan(value) else float(value))
            for row, values in zip(self.rows, self.values, strict=True)
            for pair, value in (
                ((self.names[0], row, self.names[1], column), value)
                for column, value in zip(self.columns, values, strict=True)
            )
        )


def _hatch(axes, undefined: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for y, x in np.argwhere(undefined):
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="////", linewidth=0, edgecolor="#888888"))


def _write(axes, values: np.ndarray) -> None:
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            axes.text(
                x, y, f"{value:.2f}", ha="center", va="center", fontsize=5, color="white" if value < 0.6 else "black"
            )
