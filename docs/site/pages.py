"""Pages of the course: Markdown whose fenced python blocks are one program, run in order.

A page is made into three things: its outputs, for the site; a notebook with the solutions taken out; and a test, which
is that it runs. Within a block, the lines between `# solution` and `# end` are what a student writes in the notebook;
`check("NAME", function)` then judges it by the function NAME of docs/course/checkers.py.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COURSE = Path(__file__).parents[1] / "course"
NOTEBOOKS = COURSE / "notebooks"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
SOLUTION = re.compile(r"^( *)# solution\n.*?^ *# end\n", re.MULTILINE | re.DOTALL)
MARKERS = re.compile(r"^ *# (solution|end)\n", re.MULTILINE)
CHECK = re.compile(r"^check\(\"(\w+)\"", re.MULTILINE)
INK = "#0b0c0d"  # what the figures draw text and axes in; the site makes it the colour of the page's text
STYLE: dict[str, Any] = {
    "backend": "agg",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.constrained_layout.use": True,
    "figure.figsize": (7.0, 2.6),
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
    "svg.hashsalt": "regard",
    # Okabe and Ito's hues, of a lightness that stands on white and on black.
    "axes.prop_cycle": "cycler('color', ['#2f86d6', '#e0752a', '#1fa37a', '#c66aa6', '#c9971c', '#7d8590'])",
}


@dataclass(frozen=True)
class Text:
    """Prose between two blocks."""

    markdown: str


@dataclass(frozen=True)
class Code:
    """One python block as it is written, markers included; line: of the page, 0-based, where its first line stands."""

    source: str
    line: int

    @property
    def solved(self) -> str:
        """The block as a reader of the page sees it."""
        return MARKERS.sub("", self.source)

    @property
    def exercise(self) -> str:
        """The block as a student gets it."""
        return SOLUTION.sub(lambda found: f"{found[1]}...  # your turn\n", self.source)


@dataclass(frozen=True)
class Output:
    """What a block printed, and the SVG documents of the figures that it left open, in order."""

    text: str
    figures: tuple[str, ...]


def page_files() -> list[Path]:
    """The pages of the course, in their order."""
    return sorted(COURSE.glob("[0-9][0-9]_*.md"))


def parse(markdown: str) -> list[Text | Code]:
    """A page as prose and blocks, in order."""
    parts: list[Text | Code] = []
    end = 0
    for block in BLOCK.finditer(markdown):
        parts += [Text(markdown[end : block.start()]), Code(block[1], markdown.count("\n", 0, block.start(1)))]
        end = block.end()
    return [part for part in [*parts, Text(markdown[end:])] if isinstance(part, Code) or part.markdown.strip()]


def run(path: Path) -> tuple[dict[str, Any], list[Output]]:
    """Runs a page; (its namespace, what each of its blocks gave).

    A failed assertion, or an exercise whose solution its checker refuses, is raised; tracebacks name lines of the page.
    """
    import matplotlib
    import torch

    namespace: dict[str, Any] = {"__name__": "__main__", "check": _strict_check()}
    outputs = []
    with matplotlib.rc_context(STYLE), torch.random.fork_rng():
        torch.manual_seed(0)
        for part in parse(path.read_text("utf-8")):
            outputs += [_run_block(part, path, namespace)] if isinstance(part, Code) else []
    return namespace, outputs


def _run_block(part: Code, path: Path, namespace: dict[str, Any]) -> Output:
    import matplotlib.pyplot as plt

    tree = ast.parse("\n" * part.line + part.source, str(path))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, figures = io.StringIO(), []
    with redirect_stdout(printed):
        exec(compile(tree, str(path), "exec"), namespace)
        if isinstance(last, ast.Expr):  # as in a notebook: what can show itself is shown
            value = eval(compile(ast.Expression(last.value), str(path), "eval"), namespace)
            if hasattr(value, "_repr_svg_"):
                figures.append(value._repr_svg_())
    for number in plt.get_fignums():
        text = io.StringIO()
        plt.figure(number).savefig(text, format="svg", metadata={"Date": None})
        figures.append(text.getvalue())
    plt.close("all")
    return Output(printed.getvalue(), tuple(figures))


def checkers() -> Any:
    """The module docs/course/checkers.py."""
    if str(COURSE) not in sys.path:
        sys.path.insert(0, str(COURSE))
    import checkers

    return checkers


def _strict_check() -> Any:
    module = checkers()

    def check(name: str, function: Any) -> None:
        wrong = module.verdict(name, function)
        assert wrong is None, f"the checker of {name} refuses the page's own solution: {wrong}"
        module.check(name, function)

    return check


def notebook(path: Path) -> str:
    """The page as a notebook without outputs: JSON of nbformat 4.5, the same bytes for the same page."""
    parts = parse(path.read_text("utf-8"))
    names = [name for part in parts if isinstance(part, Code) for name in CHECK.findall(part.source)]
    cells = [_cell("markdown", _intro(path))]
    if names:
        cells.append(_cell("code", _checker_source(names), {"jupyter": {"source_hidden": True}}))
    for part in parts:
        if isinstance(part, Text):
            cells.append(_cell("markdown", re.sub(r"\]\((\d\d_\w+)\.md\)", r"](\1.ipynb)", part.markdown.strip("\n"))))
        else:
            body, check = _split_check(part.exercise)
            cells += [_cell("code", source) for source in (body, check) if source.strip()]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    content = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _intro(path: Path) -> str:
    return (
        f"*Notebook of the course page `{path.stem}` of regard (`pip install regard`). Where a cell says "
        "`# your turn`, write what is missing; the cell below it says whether it is right, and else what is wrong.*"
    )


def _split_check(source: str) -> tuple[str, str]:
    """(what comes before the first `check(...)`, the rest): the checker has a cell of its own."""
    found = CHECK.search(source)
    return (source, "") if found is None else (source[: found.start()].rstrip("\n") + "\n", source[found.start() :])


def _checker_source(names: list[str]) -> str:
    """What of checkers.py these exercises need: a notebook stands alone."""
    text = (COURSE / "checkers.py").read_text("utf-8")
    kept = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name.islower() and _is_checker(node) and node.name not in names:
            continue
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        kept.append("\n".join(text.splitlines()[start - 1 : node.end_lineno]))
    return "# The checkers of the exercises below: run this cell once.\n" + "\n\n".join(kept[1:]) + "\n"


def _is_checker(node: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "checker" for d in node.decorator_list)


def _cell(kind: str, source: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": "", "metadata": metadata or {}}
    cell["source"] = source.rstrip("\n").splitlines(keepends=True)
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


def write_notebooks() -> Iterator[Path]:
    """Writes the notebook of each page, and gives their files."""
    NOTEBOOKS.mkdir(exist_ok=True)
    for path in page_files():
        target = NOTEBOOKS / f"{path.stem}.ipynb"
        target.write_text(notebook(path), "utf-8")
        yield target


if __name__ == "__main__":
    for target in write_notebooks():
        print(target)
