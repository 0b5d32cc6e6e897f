"""What every figure can do: draw itself with its formula and how to read it, and give its numbers.

A figure is a frozen dataclass of NumPy arrays, made by the function of `regard.analysis` that measures it. Its words
are in captions/NAME.yaml, by language: `title`, `formula` (between dollars, or words), `read` (how to read it), and
what the drawing writes at axes and legends. All languages have the same keys.
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Language = Literal["en", "fr", "ro"]
LANGUAGES: tuple[str, ...] = get_args(Language)
CAPTIONS = Path(__file__).parent / "captions"
BACKEND = "module://regard.reporting.pictures.svg"
INCH = 2.54  # centimetres
CAPTION_SIZE = 7.5  # points
CAPTION_WIDTH = 0.148  # of a letter of the caption, in centimetres
STYLE: Any = {  # keys are matplotlib's rcParams
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "image.interpolation": "none",  # pixels go into the SVG as they are, and stay sharp
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "regard",  # the same figure is the same file
    # Okabe and Ito's colours, which colour-blind readers tell apart; black first.
    "axes.prop_cycle": "cycler('color', ['#000000', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'])",
}


class Picture(ABC):
    """One measurement as a figure, a table and words. In a notebook it shows itself.

    NAME: of its files and of its captions.
    """

    NAME: ClassVar[str]

    @abstractmethod
    def draw(self, figure: Figure, words: Mapping[str, str]) -> None:
        """Draw into an empty figure, whose size in inches may be set; words: of the language, as in captions/."""

    @abstractmethod
    def table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Names of the columns, and the rows, of the numbers that are drawn."""

    def figure(self, lang: Language = "en", captioned: bool = True) -> Figure:
        """A matplotlib figure with the title above and, below, the formula and how to read it; or bare of these."""
        import matplotlib
        from matplotlib.figure import Figure

        words = captions(self.NAME, lang)
        with matplotlib.rc_context(STYLE):
            figure = Figure(layout="constrained")
            self.draw(figure, words)
            if not captioned:
                return figure
            figure.suptitle(words["title"], fontsize=10, fontweight="bold")
            width = round(figure.get_size_inches()[0] * INCH / CAPTION_WIDTH)
            below = "\n".join([words["formula"], *_lines(words["read"], width)])
            figure.supxlabel(below, fontsize=CAPTION_SIZE, x=0.01, ha="left", color="#444444", linespacing=1.35)
        return figure

    def svg(self, lang: Language = "en", captioned: bool = True) -> str:
        """The figure as an SVG document, the same bytes for the same numbers."""
        import matplotlib

        with matplotlib.rc_context(STYLE):
            text = io.StringIO()
            cut = None if captioned else "tight"  # where nothing stands around it, it needs no room
            figure = self.figure(lang, captioned)
            figure.savefig(text, format="svg", backend=BACKEND, metadata={"Date": None}, bbox_inches=cut)
        return text.getvalue()

    def csv(self) -> str:
        """The table as CSV, numbers to six digits; a name that a spreadsheet would run as a formula begins with an
        apostrophe.
        """
        text = io.StringIO()
        header, rows = self.table()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(map(_inert, row) for row in rows)
        return text.getvalue()

    def _repr_svg_(self) -> str:
        return self.svg()


@cache
def captions(name: str, lang: str) -> Mapping[str, str]:
    """The words of a figure in a language."""
    import yaml

    return yaml.safe_load((CAPTIONS / f"{name}.yaml").read_text("utf-8"))[lang]


def _inert(cell: object) -> object:
    """A cell of a table; undecodable bytes of file names are written out."""
    if isinstance(cell, float):  # what is measured in float32 has no more digits, and a large matrix half the bytes
        return f"{cell:.6g}"
    if not isinstance(cell, str):
        return cell
    text = cell.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _lines(text: str, width: int) -> list[str]:
    """Text in lines of at most `width` letters."""
    import textwrap

    return textwrap.wrap(" ".join(text.split()), width)
