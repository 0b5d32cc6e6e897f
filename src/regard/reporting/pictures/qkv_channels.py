"""Queries, keys and values of one head, channel by channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import WIDTH, mosaic, parts, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8  # channels side by side


@dataclass(frozen=True)
class QkvChannels(Picture):
    """q, k, v (channels, height, width) of a head of a layer, for the photo (H, W, 3) uint8."""

    NAME: ClassVar[str] = "qkv_channels"

    layer: str
    head: int
    photo: np.ndarray
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        channels, height, width = self.q.shape
        rows = -(-channels // COLUMNS)
        tall = 1.9 * rows * height / (COLUMNS * width)  # inches of a panel
        figure.set_size_inches(WIDTH, 3.9 + tall)
        above, below = parts(figure, 1.9, tall + 1.0)
        show(above.add_subplot(), self.photo, words["photo"].format(layer=self.layer, head=self.head))
        panels = below.subplots(1, 3)
        for axes, values, name in zip(panels, (self.q, self.k, self.v), "QKV", strict=True):
            whole = mosaic(1 / (1 + np.exp(-values)), COLUMNS, max(1, width // 10))
            axes.imshow(np.ma.masked_invalid(whole), cmap="cividis", vmin=0, vmax=1)
            axes.set_title(f"{name}: {words[name.lower()]}")
            down, right = (whole.shape[0] + 1) / rows, (whole.shape[1] + 1) / COLUMNS
            axes.set_xticks([right * (i + 0.45) for i in range(COLUMNS)], map(str, range(COLUMNS)))
            axes.set_yticks([down * (i + 0.45) for i in range(rows)], [f"{COLUMNS * i}+" for i in range(rows)])
            axes.tick_params(length=0, labelsize=6)
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel(words["channel"])
        below.colorbar(panels[0].images[0], ax=panels, location="bottom", shrink=0.4, aspect=40, label=words["sigmoid"])

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        rows = (
            (which, channel, row, column, value)
            for which, values in (("q", self.q), ("k", self.k), ("v", self.v))
            for channel, image in enumerate(values.tolist())
            for row, line in enumerate(image)
            for column, value in enumerate(line)
        )
        return ("which", "channel", "row", "column", "value"), rows
