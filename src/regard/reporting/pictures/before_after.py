"""A model before and after its training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from regard.reporting.pictures.attention_distance import AttentionDistance
from regard.reporting.pictures.filters import Filters
from regard.reporting.pictures.labels import label, ticks
from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import layer_label, layer_ticks, mosaic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER = "#888888", "#0072B2"
TILES = 28  # filters drawn of each
NAMES = 24  # parts named along an axis
LOG_FROM = 20  # times by which one part has moved more than another, from which the axis is logarithmic


@dataclass(frozen=True)
class BeforeAfter(Picture):
    """cka (L,): of each layer with itself before, on `images`, none where there were none; change (P,): of the weights
    of each part, relative to those before, NaN where these were zero; distances, filters: before and after, or None.
    """

    NAME: ClassVar[str] = "before_after"

    layers: tuple[str, ...]
    cka: np.ndarray
    images: int
    parts: tuple[str, ...]
    change: np.ndarray
    distances: tuple[AttentionDistance, AttentionDistance] | None
    filters: tuple[Filters, Filters] | None

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        panels = [(self._cka, "a")] if len(self.layers) else []
        panels += [(self._distances, "b")] if self.distances else []
        names = [name for _, name in panels]
        below = ["c"] * max(1, len(names))
        layout = [names, below] if len(names) == 2 else [[*names, "c"]]
        tall, low = 2.9 * len(layout), 2.3 if self.filters else 0.0
        figure.set_size_inches(8.2, tall + low)
        parts: Any = figure.subfigures(2, 1, height_ratios=[tall, low]) if self.filters else [figure]
        axes = parts[0].subplot_mosaic(layout)
        for panel, name in (*panels, (self._changes, "c")):
            panel(axes[name], words)
        if self.filters:
            self._filters(parts[1], words)

    def _cka(self, axes: Axes, words: Mapping[str, str]) -> None:
        places = np.arange(len(self.layers))
        axes.plot(places, self.cka, marker="o", ms=3, color=AFTER)
        axes.set_ylim(min(0, float(np.nanmin(self.cka, initial=0.0))) - 0.03, 1.03)
        _names(axes, [name.removesuffix(".tokens") for name in self.layers])
        axes.set_title(words["cka"].format(images=self.images), loc="left")

    def _changes(self, axes: Axes, words: Mapping[str, str]) -> None:
        places = np.arange(len(self.parts))
        axes.bar(places, np.nan_to_num(self.change), color=AFTER, width=0.7)
        moved = self.change[self.change > 0]
        if len(moved) and moved.max() > LOG_FROM * moved.min():
            axes.set_yscale("log")
            axes.set_ylim(moved.min() / 2, moved.max() * 2)
        for place in np.flatnonzero(np.isnan(self.change)):
            low = {"transform": axes.get_xaxis_transform(), "rotation": 90, "ha": "center", "va": "bottom"}
            axes.text(float(place), 0, words["zero"], fontsize=5.5, color="#555555", **low)
        _names(axes, self.parts)
        axes.set_title(words["change"], loc="left")

    def _distances(self, axes: Axes, words: Mapping[str, str]) -> None:
        assert self.distances is not None
        for measured, colour, marker, shift, word in zip(
            self.distances, (BEFORE, AFTER), ("o", "^"), (-0.12, 0.12), ("before", "after"), strict=True
        ):
            for layer, heads in enumerate(measured.pixels):
                axes.scatter(
                    np.full(len(heads), layer + shift), heads, s=9, color=colour, marker=marker, linewidths=0, alpha=0.8
                )
            means = [float(heads.mean()) for heads in measured.pixels]
            axes.plot(
                np.arange(len(means)) + shift, means, color=colour, linewidth=1, label=words[word], marker=marker, ms=4
            )
        axes.set_ylim(0, 1.12 * max(heads.max() for measured in self.distances for heads in measured.pixels))
        layer_ticks(axes, [layer_label(name) for name in self.distances[0].layers])
        axes.set_xlabel(words["layer"])
        axes.set_title(words["distance"], loc="left")
        axes.legend(fontsize=7)

    def _filters(self, figure, words: Mapping[str, str]) -> None:
        assert self.filters is not None
        for axes, one, word in zip(figure.subplots(1, 2), self.filters, ("before", "after"), strict=True):
            tiles = one.tiles[:TILES]
            largest = np.abs(tiles).max(axis=(1, 2, 3), keepdims=True)
            whole = mosaic(0.5 + 0.5 * tiles / np.where(largest == 0, 1, largest), 7, max(1, tiles.shape[1] // 8))
            axes.imshow(np.where(np.isnan(whole), 1, whole))
            axes.set_axis_off()
            kind = words["components"] if one.share is not None else words["filters"]
            axes.set_title(f"{kind}, {words[word]}", loc="left")

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        rows: list[Sequence[object]] = [
            ("cka", layer, None, "undefined" if np.isnan(value) else float(value))
            for layer, value in zip(self.layers, self.cka, strict=True)
        ]
        rows += [
            ("relative_weight_change", part, None, "undefined" if np.isnan(value) else float(value))
            for part, value in zip(self.parts, self.change, strict=True)
        ]
        for measured, when in zip(self.distances or (), ("before", "after"), strict=False):
            rows += [
                (f"attention_distance_{when}", layer, head, value)
                for layer, heads in zip(measured.layers, measured.pixels, strict=True)
                for head, value in enumerate(heads.tolist())
            ]
        return ("measure", "where", "head", "value"), rows


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Names of layers or parts below an axis, as many as are legible."""
    shown = list(ticks(len(names), NAMES))
    axes.set_xticks(shown, [label(names[place], 22) for place in shown], rotation=60, ha="right", fontsize=6)
