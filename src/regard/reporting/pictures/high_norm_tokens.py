"""Norms of patch tokens by depth, and where they stand out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import WIDTH, show, whole_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


USUAL = 0.9  # share of an image's patches
WORTH_SAYING = 0.005  # share of all patches


@dataclass(frozen=True)
class HighNormTokens(Picture):
    """usual, largest, share (depths,): of an image's patch norms, that below which 90% lie, the largest, and the share
    above `times` the usual, each the mean over `images`. maps: for each depth (height, width), the first image's norms;
    its photo is (H, W, 3) uint8.
    """

    NAME: ClassVar[str] = "high_norm_tokens"

    depths: tuple[str, ...]
    times: float
    usual: np.ndarray
    largest: np.ndarray
    share: np.ndarray
    maps: tuple[np.ndarray, ...]
    images: int
    photo: np.ndarray

    @property
    def found(self) -> float:
        """The share of patch tokens at the last depth that stand out."""
        return float(self.share[-1])

    @property
    def warns(self) -> bool:
        """Whether they are so many that it is said."""
        return self.found >= WORTH_SAYING

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        figure.set_size_inches(WIDTH, 5.8)
        panels = figure.subplot_mosaic([["photo", "map"], ["norms", "share"]], height_ratios=(1, 1))
        show(panels["photo"], self.photo, words["photo"])
        last = self.maps[-1]
        drawn = show(panels["map"], last, words["map"], cmap="viridis", vmin=0)
        figure.colorbar(drawn, ax=panels["map"], shrink=0.85, aspect=25)
        rows, columns = np.nonzero(last > self.times * np.quantile(last, USUAL))
        panels["map"].scatter(columns, rows, s=30, marker="s", facecolors="none", edgecolors="#D55E00", linewidths=1.2)
        blocks = np.arange(len(self.depths))
        axes = panels["norms"]
        axes.plot(blocks, self.largest, color="#D55E00", marker="o", ms=2.5, label=words["largest"])
        limit = words["limit"].format(times=f"{self.times:g}")
        axes.plot(blocks, self.times * self.usual, color="#444444", linestyle=(0, (4, 2)), linewidth=0.9, label=limit)
        axes.plot(blocks, self.usual, color="#0072B2", marker="s", ms=2.5, label=words["usual"])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(top=4 * max(self.times * self.usual.max(), self.largest.max()))  # room for the legend
        axes.set_ylabel(words["norm"])
        axes.legend(loc="upper left")
        axes = panels["share"]
        axes.bar(blocks, 100 * self.share, color="#D55E00", width=0.7)
        axes.set_ylim(0, max(1.0, 115 * self.share.max()))
        axes.set_ylabel(words["share"])
        axes.set_title(words["warning" if self.warns else "quiet"].format(share=f"{100 * self.found:.2g}"))
        for name in ("norms", "share"):
            panels[name].set_xlabel(words["x"].format(images=self.images))
            whole_numbers(panels[name])

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        columns = (self.depths, self.usual.tolist(), self.largest.tolist(), self.share.tolist())
        rows = ((blocks, *row, self.images) for blocks, row in enumerate(zip(*columns, strict=True)))
        return ("blocks", "tap", "usual", "largest", "share_high", "images"), rows
