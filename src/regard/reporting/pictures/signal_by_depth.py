"""Gradient norm and activation amplitude by depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regard.reporting.pictures.labels import COLOURS, label
from regard.reporting.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Signal:
    """Of one model: gradient and amplitude (L,) of its layers, from the image to the head."""

    model: str
    layers: tuple[str, ...]
    gradient: np.ndarray
    amplitude: np.ndarray


@dataclass(frozen=True)
class SignalByDepth(Picture):
    """signals: of one model, or of several to be compared."""

    NAME: ClassVar[str] = "signal_by_depth"

    signals: tuple[Signal, ...]

    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        figure.set_size_inches(8.2, 3.6)
        left, right = figure.subplots(1, 2)
        for number, signal in enumerate(self.signals):
            depth = np.arange(1, len(signal.layers) + 1)
            for axes, values in ((left, signal.gradient), (right, signal.amplitude)):
                axes.plot(
                    depth,
                    values,
                    color=COLOURS[number % 4],
                    marker=MARKERS[number % 4],
                    ms=3,
                    label=label(signal.model, 30),
                )
        for axes, word in ((left, "gradient"), (right, "amplitude")):
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            if high < 10 * low:  # less than a decade: room around it, so that small changes look small
                middle = (low * high) ** 0.5
                axes.set_ylim(middle / 10**0.6, middle * 10**0.6)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_title(words[word], loc="left")
            axes.set_xlabel(words["layer"])
            axes.xaxis.get_major_locator().set_params(integer=True)
        left.legend(fontsize=7)

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        return ("model", "number", "layer", "gradient_norm", "activation_amplitude"), (
            (signal.model, number + 1, name, float(signal.gradient[number]), float(signal.amplitude[number]))
            for signal in self.signals
            for number, name in enumerate(signal.layers)
        )
