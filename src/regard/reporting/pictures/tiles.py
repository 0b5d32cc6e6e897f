"""What figures of many small images, and of many layers, share."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WIDTH = 7.0  # inches of a figure
TICKS = 16  # labels along an axis at most


def mosaic(tiles: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """(N, h, w, ...) tiles, row after row of `columns` -> one image (H, W, ...) with NaN between and after them."""
    count, height, width, *rest = tiles.shape
    rows = math.ceil(count / columns)
    filled = np.full((rows * columns, height + gap, width + gap, *rest), np.nan)
    filled[:count, :height, :width] = tiles
    whole = filled.reshape(rows, columns, height + gap, width + gap, *rest).swapaxes(1, 2)
    return whole.reshape(rows * (height + gap), columns * (width + gap), *rest)[:-gap, :-gap]


def paint(values: np.ndarray, colours: str, low: float, high: float) -> np.ndarray:
    """(H, W) numbers as (H, W, 4) colours of a colour map from `low` to `high`; NaN is transparent."""
    import matplotlib

    return matplotlib.colormaps[colours].with_extremes(bad=(0, 0, 0, 0))(
        np.ma.masked_invalid((values - low) / ((high - low) or 1.0))
    )


def layer_label(layer: str) -> str:
    """What is written for a layer: the numbers of its name, blocks.3.attn "3", layers.2.blocks.0.attn "2.0"; where
    these are in words, with the first letter of the name, tokens_to_token.attention1.attn "t1".
    """
    numbers = [part for part in layer.split(".") if part.isdigit()]
    return ".".join(numbers) or layer[0] + "".join(re.findall(r"\d+", layer))


def layer_ticks(axes: Axes, labels: Sequence[str]) -> None:
    """Labels at 0, 1, 2, ... of the horizontal axis, as many as are legible."""
    step = math.ceil(len(labels) * max(1.0, max(map(len, labels)) / 4) / TICKS)
    axes.set_xticks(range(0, len(labels), step), labels[::step])


def show(axes: Axes, image: np.ndarray, title: str = "", **options: Any) -> Any:
    """An image without axes."""
    shown = axes.imshow(image, **options)
    axes.set_title(title)
    axes.set_axis_off()
    return shown


def heads_by_layer(
    axes: Axes,
    layers: Sequence[str],
    values: Sequence[np.ndarray],
    uniform: Sequence[float],
    words: Mapping[str, str],
) -> None:
    """A dot for each head, a line through the means of the layers and steps for attention that is alike everywhere."""
    for place, heads in enumerate(values):
        axes.scatter([place] * len(heads), heads, s=14, color="#0072B2", alpha=0.55, linewidths=0, zorder=3)
    axes.scatter([], [], s=14, color="#0072B2", alpha=0.55, linewidths=0, label=words["head"])
    axes.plot(range(len(layers)), [heads.mean() for heads in values], color="#000000", label=words["layer_mean"])
    alike = words["uniform"] if np.ptp(uniform) else f"{words['uniform']} ({uniform[0]:.2f})"
    edges = np.arange(len(layers) + 1) - 0.5
    axes.stairs(uniform, edges, baseline=None, color="#D55E00", linestyle=(0, (4, 2)), label=alike, zorder=4)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(0, 1.08 * max(*uniform, *(heads.max() for heads in values)))
    layer_ticks(axes, [layer_label(layer) for layer in layers])
    axes.set_xlabel(words["x"])
    axes.set_ylabel(words["y"])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3)


def whole_numbers(axes: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=TICKS, integer=True))


def parts(figure: Figure, *heights: float) -> list[SubFigure]:
    """The figure in strips of these heights, one below the other."""
    return list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
