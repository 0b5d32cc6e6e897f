"""A backend of matplotlib for SVG whose formulas are outlines; words are what `svg.fonttype` says, text.

As text, a formula is letters at fixed places that need matplotlib's own fonts, and its larger signs (roots) a font
that hardly any viewer has.
"""

from __future__ import annotations

import io
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG

POINTS = 72  # to an inch


class _Renderer(RendererSVG):
    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        with rc_context({"svg.fonttype": "path"} if ismath else None):
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)


class FigureCanvas(FigureCanvasSVG):
    """What `Figure.savefig(text, format="svg", backend="module://regard.reporting.pictures.svg")` draws on."""

    def print_svg(self, filename: Any, *, bbox_inches_restore: Any = None, metadata: Any = None, **others: Any) -> None:
        # To measure, matplotlib begins to draw on bytes, which nobody reads.
        text = filename if isinstance(filename, io.TextIOBase) else io.StringIO()
        figure, resolution = self.figure, self.figure.dpi
        figure.set_dpi(POINTS)
        width, height = figure.get_size_inches()
        page = _Renderer(POINTS * width, POINTS * height, text, image_dpi=round(resolution), metadata=metadata)
        mixed: Any = MixedModeRenderer(figure, width, height, resolution, page, bbox_inches_restore=bbox_inches_restore)
        figure.draw(mixed)
        mixed.finalize()
