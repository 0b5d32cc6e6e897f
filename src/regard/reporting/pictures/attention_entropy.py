"""Entropy of attention by layer and head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import WIDTH, heads_by_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AttentionEntropy(Picture):
    """bits: for each layer (heads,), the mean over `images`; uniform: for each layer, the most that is possible."""

    NAME: ClassVar[str] = "attention_entropy"

    layers: tuple[str, ...]
    bits: tuple[np.ndarray, ...]
    uniform: tuple[float, ...]
    images: int

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        figure.set_size_inches(WIDTH, 4.6)
        words = {**words, "x": words["x"].format(images=self.images)}
        heads_by_layer(figure.add_subplot(), self.layers, self.bits, self.uniform, words)

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        rows = (
            (layer, head, value, uniform, self.images)
            for layer, heads, uniform in zip(self.layers, self.bits, self.uniform, strict=True)
            for head, value in enumerate(heads.tolist())
        )
        return ("layer", "head", "bits", "uniform_bits", "images"), rows
