"""Similarity of an image's tokens by depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import WIDTH, whole_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TokenSimilarity(Picture):
    """similarity, spread (depths,): mean and standard deviation over `images`, after the embedding and each block."""

    NAME: ClassVar[str] = "token_similarity"

    depths: tuple[str, ...]
    similarity: np.ndarray
    spread: np.ndarray
    images: int

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        figure.set_size_inches(WIDTH, 4.4)
        axes = figure.add_subplot()
        blocks = np.arange(len(self.depths))
        low, high = self.similarity - self.spread, self.similarity + self.spread
        if self.images > 1:
            axes.fill_between(blocks, low, high, color="#0072B2", alpha=0.2, linewidth=0, label=words["spread"])
        label = words["similarity"].format(images=self.images)
        axes.plot(blocks, self.similarity, color="#0072B2", marker="o", ms=3.5, label=label)
        axes.set_ylim(min(0.0, low.min() - 0.05), 1.02)
        axes.axhline(1, color="#444444", linewidth=0.6, linestyle=(0, (4, 2)))
        axes.set_xlabel(words["x"])
        axes.set_ylabel(words["y"])
        whole_numbers(axes)
        axes.legend(loc="best")

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        columns = (self.depths, self.similarity.tolist(), self.spread.tolist())
        rows = ((blocks, *row, self.images) for blocks, row in enumerate(zip(*columns, strict=True)))
        return ("blocks", "tap", "similarity", "standard_deviation", "images"), rows
