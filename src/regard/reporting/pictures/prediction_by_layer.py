"""What the final norm and head make of the tokens of each depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.labels import label
from regard.reporting.pictures.picture import Picture
from regard.reporting.pictures.tiles import WIDTH, show, whole_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LETTERS = 26  # of the name of a class
LINES = ("-", "--", "-.", ":", (0, (1, 3)))


@dataclass(frozen=True)
class PredictionByLayer(Picture):
    """probabilities (depths, classes) of the first image, whose photo (H, W, 3) is uint8; agreement (depths,): the
    share of `images` whose most probable class is the final one. skipped: depths before, which the head cannot read.
    """

    NAME: ClassVar[str] = "prediction_by_layer"

    depths: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    agreement: np.ndarray
    images: int
    photo: np.ndarray
    skipped: int

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        several = self.images > 1
        figure.set_size_inches(WIDTH, 5.4)
        panels = figure.subplot_mosaic(
            [["photo", "classes"], ["names", "agreement" if several else "classes"]],
            width_ratios=(1, 2.4),
            height_ratios=(1.6, 1),
        )
        show(panels["photo"], self.photo, words["photo"])
        panels["photo"].set_anchor("N")
        blocks = self.skipped + np.arange(len(self.depths))
        axes = panels["classes"]
        for number, values in enumerate(self.probabilities.T):
            axes.plot(blocks, values, linestyle=LINES[number % len(LINES)], marker="o", ms=2.5)
        names = [label(name, LETTERS) for name in self.classes]
        most = min(1.0, 1.1 * self.probabilities.max())
        axes.set_ylim(-0.02 * most, 1.02 * most)
        axes.set_ylabel(words["probability"])
        panels["names"].set_axis_off()
        panels["names"].legend(axes.get_lines(), names, loc="upper left", borderaxespad=0)
        if several:
            axes = panels["agreement"]
            axes.plot(blocks, 100 * self.agreement, color="#000000", marker="o", ms=2.5)
            axes.set_ylim(-2, 104)
            axes.set_ylabel(words["agreement"].format(images=self.images))
        axes.set_xlabel(words["skipped"].format(skipped=self.skipped) if self.skipped else words["x"])
        for axes in (panels["classes"], panels["agreement"]) if several else (panels["classes"],):
            axes.set_xlim(blocks[0] - 0.3, blocks[-1] + 0.3)
            whole_numbers(axes)

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        rows = (
            (self.skipped + place, tap, self.agreement[place].item(), *self.probabilities[place].tolist())
            for place, tap in enumerate(self.depths)
        )
        return ("blocks", "tap", "share_of_images_agreeing", *self.classes), rows
