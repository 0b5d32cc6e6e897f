"""Attention of one query to the patches of an image, in every layer and head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import WIDTH, layer_label, mosaic, paint, parts, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE, GAP = 56, 4  # pixels of a small map, and between them
COLOUR = 0.7  # share of the map's colour in a small map, the rest being the photo


@dataclass(frozen=True)
class ClassAttention(Picture):
    """maps: for each layer (heads, height, width), what a query gives to the patches of the photo (H, W, 3) uint8.

    queries: of each layer "class", "mean" (over all queries) or "patch", then at `place` (down, right), shares of the
    image's sides, where patch (row, column) of the last layer is.
    """

    NAME: ClassVar[str] = "class_attention"

    layers: tuple[str, ...]
    queries: tuple[str, ...]
    patch: tuple[int, int] | None
    place: tuple[float, float] | None
    photo: np.ndarray
    maps: tuple[np.ndarray, ...]

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        layers, heads = len(self.layers), max(map(len, self.maps))
        lying = layers >= 2 * heads  # the layers side by side
        rows, columns = (heads, layers) if lying else (layers, heads)
        inches = min(0.8, 6.2 / columns)
        figure.set_size_inches(WIDTH, 2.9 + inches * rows)
        above, below = parts(figure, 1.7, inches * rows + 0.4)
        first = above.add_subplot()
        show(first, self.photo, self._title(words))
        if self.place is not None:
            height, width = self.photo.shape[:2]
            across, down = self.place[1] * width - 0.5, self.place[0] * height - 0.5
            first.plot(across, down, "o", ms=7, mfc="none", mec="#D55E00", mew=1.5)
        grey = _resized(self.photo, TILE).mean(-1) / 255
        tiles = np.full((layers, heads, TILE, TILE, 4), np.nan)
        for layer, maps in enumerate(self.maps):
            for head, one in enumerate(maps):
                tiles[layer, head] = _over(grey, one)
        if lying:
            tiles = tiles.swapaxes(0, 1)
        axes = below.add_subplot()
        axes.imshow(np.nan_to_num(mosaic(tiles.reshape(-1, TILE, TILE, 4), columns, GAP)))
        places = (TILE + GAP) * np.arange(max(rows, columns)) + TILE / 2
        labels = [layer_label(layer) for layer in self.layers], [str(head) for head in range(heads)]
        down, across = reversed(labels) if lying else labels
        axes.set_xticks(places[:columns], across)
        axes.set_yticks(places[:rows], down)
        axes.tick_params(length=0, labelsize=7)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(words["layer" if lying else "head"])
        axes.set_ylabel(words["head" if lying else "layer"])

    def _title(self, words: Mapping[str, str]) -> str:
        if self.patch is not None:
            return words["patch"].format(row=self.patch[0], column=self.patch[1])
        kinds = dict.fromkeys(self.queries)
        if len(kinds) == 1:
            return words[next(iter(kinds))]
        without = ", ".join(
            layer_label(name) for name, kind in zip(self.layers, self.queries, strict=True) if kind == "mean"
        )
        return words["mixed"].format(layers=without)

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        rows = (
            (layer, query, head, row, column, value)
            for layer, query, maps in zip(self.layers, self.queries, self.maps, strict=True)
            for head, image in enumerate(maps.tolist())
            for row, line in enumerate(image)
            for column, value in enumerate(line)
        )
        return ("layer", "query", "head", "row", "column", "attention"), rows


def _over(grey: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """A grey photo (TILE, TILE) in [0, 1] in the colours of a map (h, w), of which 0 is dark: (TILE, TILE, 4)."""
    colours = paint(_resized(attention / (attention.max() or 1.0), TILE), "inferno", 0, 1)
    colours[..., :3] = COLOUR * colours[..., :3] + (1 - COLOUR) * grey[..., None]
    return colours


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, ...) -> (side, side, ...): the mean of what falls into a pixel, the nearest value of a smaller image."""
    for axis in (0, 1):
        cuts = np.arange(side + 1) * image.shape[axis] // side
        means = [np.take(image, range(a, max(a + 1, b)), axis).mean(axis) for a, b in pairwise(cuts)]
        image = np.stack(means, axis)
    return image
