"""The figure of `explain --score`: how a model's answer changes as images are removed, or revealed, by each map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.labels import label
from regard.reporting.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINES = 2  # the last rows: the random map and the centre map
GREY = "#767676"
CURVES = ("deletion", "insertion")


@dataclass(frozen=True)
class FaithfulnessPicture(Picture):
    """Mean curves over the images, and what each map scores above the random one.

    names: (M,) of the maps, the random and the centre map last; fills: (F,); shares: (P,) of the image removed or
    revealed; curves: (M, 2, F, P) mean log-odds of the class, deletion and insertion; bands: the same, half the width
    of the 95% interval of the difference to the random map; gains: (M, 3) score less the random map's, mean, low, high.
    """

    NAME: ClassVar[str] = "faithfulness"

    model: str
    images: int
    names: tuple[str, ...]
    fills: tuple[str, ...]
    shares: np.ndarray
    curves: np.ndarray
    bands: np.ndarray
    gains: np.ndarray

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        """Curves by fill on the left, scores on the right; names have the colours of their curves."""
        figure.set_size_inches(9.2, 4.6 + 0.16 * max(0, len(self.names) - 9))
        panels = figure.add_gridspec(2, len(self.fills) + 1, width_ratios=[1] * len(self.fills) + [1.15])
        for which, curve in enumerate(CURVES):
            first: Axes | None = None
            for fill, name in enumerate(self.fills):
                axes = figure.add_subplot(panels[which, fill], sharey=first)
                first = first or axes
                self._curves(axes, which, fill)
                axes.set_title(words["panel"].format(curve=words[curve], fill=words[name]))
                axes.set_xlabel(words["removed" if curve == "deletion" else "revealed"])
                axes.tick_params(labelleft=axes is first)
            if first is not None:
                first.set_ylabel(words["log_odds"])
        self._scores(figure.add_subplot(panels[:, -1]), words)

    def _looks(self) -> list[tuple[str, str, float]]:
        """Colour, dashes and width of each map's line."""
        colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
        methods = len(self.names) - BASELINES
        dashes = ["-", "--", "-.", ":"]
        looks = [(colours[n % len(colours)], dashes[n // len(colours) % len(dashes)], 1.4) for n in range(methods)]
        return [*looks, (GREY, "-", 1.0), (GREY, "--", 1.0)]

    def _curves(self, axes: Axes, which: int, fill: int) -> None:
        for number, (colour, dashes, width) in enumerate(self._looks()):
            mean, half = self.curves[number, which, fill], self.bands[number, which, fill]
            if number < len(self.names) - BASELINES:
                axes.fill_between(self.shares, mean - half, mean + half, color=colour, alpha=0.13, linewidth=0)
            axes.plot(self.shares, mean, color=colour, linestyle=dashes, linewidth=width)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])

    def _scores(self, axes: Axes, words: Mapping[str, str]) -> None:
        rows = np.arange(len(self.names))
        looks = self._looks()
        axes.axvline(0, color=GREY, linewidth=1)
        axes.axvline(self.gains[-1, 0], color=GREY, linewidth=1, linestyle="--")
        for row, (mean, low, high), (colour, dashes, _) in zip(rows, self.gains, looks, strict=True):
            axes.plot([low, high], [row, row], color=colour, linestyle=dashes)
            axes.plot(mean, row, "o", color=colour, markersize=4)
        *methods, random, centre = self.names
        axes.set_yticks(rows, [*map(label, methods), words[random], words[centre]])
        for name, (colour, *_) in zip(axes.get_yticklabels(), looks, strict=True):
            name.set_color(colour)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(self.names) - 0.5, -0.5)
        axes.set_title(f"{words['score']}\n{label(self.model)}")
        axes.set_xlabel(words["gain"].format(images=self.images))

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """One row for each point of each curve."""
        rows = (
            (name, curve, fill, f"{share:.6g}", f"{value:.6g}", f"{half:.6g}")
            for name, curves, bands in zip(self.names, self.curves, self.bands, strict=True)
            for curve, by_fill, bands_by_fill in zip(CURVES, curves, bands, strict=True)
            for fill, values, halves in zip(self.fills, by_fill, bands_by_fill, strict=True)
            for share, value, half in zip(self.shares, values, halves, strict=True)
        )
        return ("map", "curve", "fill", "share", "log_odds", "half_interval_of_difference_to_random"), rows
