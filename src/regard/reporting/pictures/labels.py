"""Names from outside, of layers, classes and files, as a drawing can bear them."""

from __future__ import annotations

from regard.reporting.words import clip

LENGTH = 40  # letters of a name
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's, of models side by side


def label(text: object, length: int = LENGTH) -> str:
    """Plain text for matplotlib, in which a dollar begins no formula; shortened in the middle where it is long."""
    return clip(str(text), length).replace("$", r"\$")


def ticks(count: int, most: int) -> range:
    """Evenly spaced places of `count`, the first among them, no more than `most`."""
    return range(0, count, max(1, -(-count // most)))
