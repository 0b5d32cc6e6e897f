"""Fields of view: what a central unit sees at each depth, as maps and as radii."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.labels import COLOURS, label
from regard.reporting.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = 7  # shown of a model
SHARES = (0.68, 0.95)  # of the energy, whose radii are given


@dataclass(frozen=True)
class Field:
    """Of one layer of a model. energy: (H, W) mean squared gradient."""

    model: str
    layer: str
    energy: np.ndarray

    @property
    def centre(self) -> tuple[float, float]:
        """(row, column) in pixels of the energy's centre of gravity, which strides and their padding may move."""
        rows, columns = np.indices(self.energy.shape)
        share = self.energy / self.energy.sum()
        return float((rows * share).sum()), float((columns * share).sum())

    def radius(self, share: float) -> float:
        """Pixels around the centre within which so much of the energy lies; NaN where there is none."""
        if not self.energy.any():
            return float("nan")
        rows, columns = np.indices(self.energy.shape)
        distance = np.hypot(rows - self.centre[0], columns - self.centre[1]).ravel()
        order = np.argsort(distance, kind="stable")
        held = np.cumsum(self.energy.ravel()[order])
        return float(distance[order[np.searchsorted(held, share * held[-1] * (1 - 1e-12))]])

    @property
    def support(self) -> tuple[int, int]:
        """(height, width) in pixels of the smallest rectangle outside which the gradient is zero."""
        rows, columns = np.nonzero(self.energy)
        return (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1) if len(rows) else (0, 0)


@dataclass(frozen=True)
class FieldOfView(Picture):
    """fields: of each layer, from the image to the head, of one model or of several, one after the other."""

    NAME: ClassVar[str] = "field_of_view"

    fields: tuple[Field, ...]

    @property
    def models(self) -> dict[str, list[Field]]:
        """Name of a model -> its layers."""
        found: dict[str, list[Field]] = {}
        for field in self.fields:
            found.setdefault(field.model, []).append(field)
        return found

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        models = self.models
        figure.set_size_inches(8.2, 2.9 + 1.62 * len(models))
        grid = figure.add_gridspec(len(models) + 1, MAPS, height_ratios=[*[1] * len(models), 1.75])
        for row, (name, fields) in enumerate(models.items()):
            places = np.unique(np.linspace(0, len(fields) - 1, MAPS).round().astype(int))
            for column, place in enumerate(places):
                axes = figure.add_subplot(grid[row, column])
                _map(axes, fields[place])
                if column == 0:
                    axes.set_ylabel(label(name, 24), fontsize=8)
        axes = figure.add_subplot(grid[len(models), :])
        for number, (name, fields) in enumerate(models.items()):
            depth = np.arange(len(fields)) / max(1, len(fields) - 1)
            for share, line in zip(SHARES, ("-", "--"), strict=True):
                radii = [field.radius(share) for field in fields]
                text = words["radius"].format(model=label(name, 24), share=f"{100 * share:.0f}")
                axes.plot(depth, radii, line, color=COLOURS[number % 4], marker="o", markersize=2.5, label=text)
        axes.set_xlabel(words["depth"])
        axes.set_ylabel(words["pixels"])
        axes.set_ylim(0)
        axes.legend(ncols=len(models), fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), handlelength=3)

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        header = (
            "model",
            "layer",
            *(f"radius_{100 * share:.0f}" for share in SHARES),
            "support_height",
            "support_width",
        )
        return header, (
            (field.model, field.layer, *(round(field.radius(share), 3) for share in SHARES), *field.support)
            for field in self.fields
        )


def _map(axes, field: Field) -> None:
    amplitude = np.sqrt(field.energy)
    axes.imshow(amplitude / max(amplitude.max(), 1e-300), cmap="magma", vmin=0, vmax=1)
    from matplotlib.patches import Circle

    radius = field.radius(SHARES[0])
    if np.isfinite(radius):
        axes.add_patch(
            Circle((field.centre[1], field.centre[0]), radius + 0.5, fill=False, color="#56B4E9", linewidth=0.9)
        )
    axes.set_xlim(-0.5, field.energy.shape[1] - 0.5)
    axes.set_ylim(field.energy.shape[0] - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(label(field.layer, 20), fontsize=6)
