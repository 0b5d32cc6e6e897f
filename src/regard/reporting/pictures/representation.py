"""Distances in pixels against distances in a model, and the neighbours that each gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from regard.reporting.pictures.labels import label
from regard.reporting.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

QUERIES = 5
SHOWN = 5  # neighbours drawn of a query
POINTS = 3000  # pairs drawn
STEP = 1.13  # from one photo to the next, in sides of a photo
SAME, OTHER = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Representation(Picture):
    """pixel, embedding: (N, N) distances; thumbs: (N, t, t, 3) uint8; labels: (N,) into `classes`, or None; neighbours:
    how many nearest images are looked at.
    """

    NAME: ClassVar[str] = "representation"

    ids: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    pixel: np.ndarray
    embedding: np.ndarray
    thumbs: np.ndarray
    neighbours: int

    def nearest(self, distances: np.ndarray) -> np.ndarray:
        """(N, neighbours): the places of each image's nearest others, the nearest first."""
        others = np.where(np.eye(len(distances), dtype=bool), np.inf, distances)
        return np.argsort(others, axis=1, kind="stable")[:, : self.neighbours]

    def precision(self, distances: np.ndarray) -> float | None:
        """The share of the nearest that are of the image's own class, mean over images; None without labels."""
        if self.labels is None:
            return None
        return float((self.labels[self.nearest(distances)] == self.labels[:, None]).mean())

    @property
    def chance(self) -> float | None:
        """The precision of neighbours drawn by lot."""
        if self.labels is None:
            return None
        counts = np.unique(self.labels, return_counts=True)[1]
        return float((counts * (counts - 1)).sum() / (len(self.ids) * (len(self.ids) - 1)))

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation of the two distances over all pairs."""
        from scipy.stats import spearmanr

        upper = np.triu_indices(len(self.ids), 1)
        return float(spearmanr(self.pixel[upper], self.embedding[upper]).statistic)  # pyright: ignore

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        queries = self._queries()
        figure.set_size_inches(8.2, 3.1 + 0.72 * len(queries))
        parts: Any = figure.subfigures(2, 1, height_ratios=[2.5, 0.3 + 0.72 * len(queries)])
        left, right = parts[0].subplots(1, 2, width_ratios=[2.2, 1] if self.labels is not None else [1, 0.001])
        self._scatter(left, words)
        right.set_axis_off() if self.labels is None else self._bars(right, words)
        self._rows(parts[1], queries, words)

    def _queries(self) -> list[int]:
        """Images evenly spread over the set, each of another class where there are some; not chosen by the outcome."""
        count = len(self.ids)
        if self.labels is None:
            return np.unique(np.linspace(0, count - 1, min(QUERIES, count)).round().astype(int)).tolist()
        first = np.sort(np.unique(self.labels, return_index=True)[1])
        return first[np.unique(np.linspace(0, len(first) - 1, min(QUERIES, len(first))).round().astype(int))].tolist()

    def _scatter(self, axes: Axes, words: Mapping[str, str]) -> None:
        rows, columns = np.triu_indices(len(self.ids), 1)
        drawn = slice(None, None, max(1, -(-len(rows) // POINTS)))
        rows, columns = rows[drawn], columns[drawn]
        style: dict[str, Any] = {"linewidths": 0, "alpha": 0.5}
        if self.labels is None:
            axes.scatter(self.pixel[rows, columns], self.embedding[rows, columns], color="#555555", s=5, **style)
        else:
            same = self.labels[rows] == self.labels[columns]
            for chosen, colour, marker, size, word in ((~same, OTHER, "o", 5, "other"), (same, SAME, "^", 9, "same")):
                x, y = self.pixel[rows, columns][chosen], self.embedding[rows, columns][chosen]
                axes.scatter(x, y, color=colour, marker=marker, s=size, label=words[word], **style)
            axes.legend(fontsize=7, markerscale=2, loc="best", handletextpad=0.1)
        axes.set_xlabel(words["pixel_distance"])
        axes.set_ylabel(words["embedding_distance"])
        pairs = len(self.ids) * (len(self.ids) - 1) // 2
        text = words["correlation"].format(value=f"{self.correlation:.2f}", pairs=pairs)
        axes.set_title(text, loc="left", color="#444444", fontsize=7.5)

    def _bars(self, axes: Axes, words: Mapping[str, str]) -> None:
        values = [self.precision(self.pixel), self.precision(self.embedding)]
        shares = [value or 0.0 for value in values]
        axes.bar([0, 1], shares, width=0.55, color=["#888888", "#000000"])
        for place, share in enumerate(shares):
            axes.text(place, share + 0.015, f"{100 * share:.0f}%", ha="center", fontsize=8)
        axes.axhline(self.chance or 0, color="#555555", linewidth=0.8, linestyle="--")
        axes.text(1.34, (self.chance or 0) + 0.012, words["chance"], fontsize=6.5, color="#555555")
        axes.set_xticks([0, 1], [words["pixels"], words["embedding"]])
        axes.set_xlim(-0.4, 1.95)
        axes.set_ylim(0, 1.08)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_title(words["precision"].format(k=self.neighbours), loc="left", color="#444444", fontsize=7.5)

    def _rows(self, figure: SubFigure, queries: Sequence[int], words: Mapping[str, str]) -> None:
        """A row for each query: itself, its nearest by pixels, its nearest in the model; a photo is 1 wide and high."""
        shown = min(SHOWN, self.neighbours)
        starts = {"query": 0.0, "by_pixels": 1.4, "by_embedding": 1.4 + STEP * shown + 0.3}
        axes = figure.subplots()
        for row, query in enumerate(queries):
            self._photo(axes, row, 0.0, query, None)
            for word, distances in (("by_pixels", self.pixel), ("by_embedding", self.embedding)):
                for column, place in enumerate(self.nearest(distances)[query, :shown]):
                    self._photo(axes, row, starts[word] + STEP * column, int(place), query)
        for word, start in starts.items():
            axes.text(start, -0.1, words[word], fontsize=7.5, color="#444444")
        axes.set_xlim(-0.8, 1.4 + 2 * STEP * shown + 0.3)
        axes.set_ylim(STEP * len(queries), -0.35)
        axes.set_aspect("equal")
        axes.set_axis_off()

    def _photo(self, axes: Axes, row: int, left: float, place: int, query: int | None) -> None:
        """One photo, its left edge at `left`; a neighbour is framed by whether its class is the query's."""
        from matplotlib.patches import Rectangle

        top = STEP * row
        axes.imshow(self.thumbs[place], extent=(left, left + 1, top + 1, top))
        if self.labels is None:
            return
        if query is None:
            if self.classes:
                name = label(self.classes[self.labels[place]], 16)
                axes.text(left - 0.08, top + 0.5, name, ha="right", va="center", fontsize=6)
            return
        same = self.labels[place] == self.labels[query]
        edge: dict[str, Any] = {"edgecolor": SAME, "linewidth": 2.2}
        if not same:
            edge = {"edgecolor": OTHER, "linewidth": 1.4, "linestyle": ":"}
        axes.add_patch(Rectangle((left, top), 1, 1, fill=False, clip_on=False, **edge))

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        header = (
            "image",
            "other",
            "pixel_distance",
            "embedding_distance",
            "pixel_rank",
            "embedding_rank",
            "same_class",
        )
        return header, self._pairs()

    def _pairs(self) -> Iterable[Sequence[object]]:
        count = len(self.ids)
        for row in range(count):
            ranks = []
            for distances in (self.pixel, self.embedding):
                order = np.argsort(np.where(np.arange(count) == row, -np.inf, distances[row]), kind="stable")
                ranks.append(np.argsort(order))  # 0 is the image itself
            for column in range(count):
                if column != row:
                    same = None if self.labels is None else int(self.labels[row] == self.labels[column])
                    distances = float(self.pixel[row, column]), float(self.embedding[row, column])
                    places = int(ranks[0][column]), int(ranks[1][column])
                    yield self.ids[row], self.ids[column], *distances, *places, same
