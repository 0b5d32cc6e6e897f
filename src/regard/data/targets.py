"""What the label columns of a table mean: one class per image, several labels, numbers, or a box.

Read as the user says, or decided from the cells ("auto"); a decision that the cells do not force is put in a note
with the flag that overrides it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from regard.data.boxes import BOX, box_columns
from regard.data.tables import COLUMNS, Table, as_text, some
from regard.errors import RegardError
from regard.results import Problem, ProblemChoice

MOST_CLASSES = 20  # different integers that are classes; more of them are numbers
SEVERAL = 0.05  # share of images in rows of different labels from which these are several labels, not mistakes
BETWEEN_LABELS = re.compile(r"[|;]")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
CODE = re.compile(r"[-+]?0[0-9].*")  # 007 is a name
FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


class Targets(NamedTuple):
    """The labels of every row of a table; `labels` and `columns` as in `Listing`."""

    problem: Problem
    labels: list[Any]
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    boxes: bool = False  # four numbers each, as they stand in the table
    sizes: bool = False  # of a box: the last two are width and height


def read_targets(
    table: Table, ids: Sequence[str], target: Sequence[str], problem: ProblemChoice, classes: Sequence[str] | None
) -> Targets:
    """The labels of a table's rows.

    ids: of the image of each row. target: names of label columns; none given: the columns of a trained run's
    numbers (`classes`), a column that is called label, four columns of a box, or the 0/1 columns of a trained run.
    Raises RegardError for columns that are not there and cells that do not fit, naming the row.
    """
    names = _chosen(table, target, problem, classes)
    box = box_columns(names) if len(names) == 4 else None
    if box:
        if problem not in ("auto", "regression"):
            raise RegardError(f"{table.path}: --problem {problem} for a box ({some(names)}); boxes are numbers")
        labels = _numbers(table, box.names, "the box")
        return Targets("regression", labels, BOX, (f"labels: boxes, from columns {some(box.names)}",), True, box.sizes)
    if len(names) == 1:
        return _column(table, names[0], ids, problem)
    return _columns(table, names, problem)


def _chosen(
    table: Table, target: Sequence[str], problem: ProblemChoice, classes: Sequence[str] | None
) -> tuple[str, ...]:
    """The label columns, by their names in the table."""
    if target:
        names = tuple(table.names[table.need(name, "--target")] for name in target)
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise RegardError(f"{table.path}: --target names {some(twice)} twice")
        return names
    box = box_columns(table.names)
    of_run = tuple(classes or ())
    if problem == "regression" and of_run and of_run != BOX:
        return tuple(table.names[table.need(name, "--target, which the trained run predicts")] for name in of_run)
    if of_run == BOX and box:
        return box.names
    if problem == "multi_label" and of_run and all(name in table.names for name in of_run):
        return of_run
    label = table.known("label")
    if label is not None:
        return (table.names[label],)
    if box:
        return box.names
    raise RegardError(
        f"{table.path}: no column 'label' (or {', '.join(COLUMNS['label'][1:])}) and no four columns of a box; "
        f"name the label columns with --target; columns found: {some(table.names) or 'none'}"
    )


def number(text: str) -> float | None:
    """The finite number that a cell spells, with a decimal point; None where it spells none."""
    if not NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _refuse_empty(table: Table, name: str, text: Sequence[str], hint: str = "") -> None:
    for row, cell in enumerate(text, start=2):
        if not cell:
            raise RegardError(
                f"{table.path}: row {row} has no label (column {name!r} is empty); every row needs one{hint}"
            )


# several columns


def _columns(table: Table, names: Sequence[str], problem: ProblemChoice) -> Targets:
    """0/1 columns (several labels) or numbers."""
    if problem == "single_label":
        raise RegardError(f"{table.path}: --problem single_label with {len(names)} target columns; name one")
    text = [table.text(table.names.index(name)) for name in names]
    flags = all(cell.lower() in FLAGS for cells in text for cell in cells)
    listed = some([repr(name) for name in names])
    if problem == "regression" or (problem == "auto" and not flags):
        note = (f"labels: the numbers of columns {listed}: a regression",) if problem == "auto" else ()
        return Targets("regression", _numbers(table, names, "--target"), tuple(names), note)
    for name, cells in zip(names, text, strict=True):
        _refuse_empty(table, name, cells)
        for row, cell in enumerate(cells, start=2):
            if cell.lower() not in FLAGS:
                raise RegardError(
                    f"{table.path}: row {row}: column {name!r} holds {cell!r}; several target columns of "
                    "--problem multi_label hold 0 or 1"
                )
    rows = zip(*text, strict=True)
    labels = [tuple(name for name, cell in zip(names, row, strict=True) if FLAGS[cell.lower()]) for row in rows]
    note = (
        f"labels: columns {listed} hold 0 and 1: several labels per image (--problem regression takes them as numbers)"
    )
    return Targets("multi_label", labels, tuple(names), (note,) if problem == "auto" else ())


def _numbers(table: Table, names: Sequence[str], what: str) -> list[tuple[float, ...]]:
    """The numbers of each row; RegardError for the first cell that is none."""
    columns = []
    for name in names:
        text = table.text(table.names.index(name))
        _refuse_empty(table, name, text)
        values = [number(cell) for cell in text]
        wrong = [row for row, value in enumerate(values) if value is None]
        if wrong:
            cell = text[wrong[0]]
            comma = "; write a decimal point" if DECIMAL_COMMA.fullmatch(cell) else ""
            rest = f"; {len(text) - len(wrong):,} of its {len(text):,} cells are"
            classes = "; mend it, or name one column of classes" if len(names) > 1 else ""
            raise RegardError(
                f"{table.path}: row {wrong[0] + 2}: column {name!r} of {what} holds {cell!r}, which is no finite "
                f"number{rest}{comma or classes or '; mend it, or take the column as classes: --problem single_label'}"
            )
        columns.append([value for value in values if value is not None])
    return list(zip(*columns, strict=True))


# one column


def _column(table: Table, name: str, ids: Sequence[str], problem: ProblemChoice) -> Targets:
    """One column: names, names of several labels in a cell, or numbers."""
    cells = table.cells(table.names.index(name))
    if any(isinstance(cell, list) for cell in cells):
        return _lists(table, name, cells, problem)
    text = table.text(table.names.index(name))
    decided, notes = (problem, ()) if problem != "auto" else _decide(name, text, ids)
    if decided == "regression":
        return Targets("regression", _numbers(table, (name,), "labels"), (name,), notes)
    if decided == "single_label":
        _refuse_empty(table, name, text)
        return Targets("single_label", text, (), notes)
    if problem == "auto":
        _refuse_empty(table, name, text, " (--problem multi_label: an empty cell means none of the labels)")
    elif set(text) <= FLAGS.keys():
        raise RegardError(
            f"{table.path}: --problem multi_label with one column of 0 and 1 ({name}); name two columns or more"
        )
    return Targets("multi_label", [_parts(cell) for cell in text], (), notes)


def _decide(name: str, text: Sequence[str], ids: Sequence[str]) -> tuple[Problem, tuple[str, ...]]:
    """(problem, notes) of a column of text."""
    filled = [cell for cell in text if cell]
    values = {cell: number(cell) for cell in set(filled) if not CODE.fullmatch(cell) or "." in cell}
    numbers = [values[cell] for cell in filled if values.get(cell) is not None]
    commas = sum(DECIMAL_COMMA.fullmatch(cell) is not None for cell in filled)
    whole = all(value == int(value) for value in numbers if value is not None)
    different = len(set(numbers))
    if 2 * (len(numbers) + commas) > len(filled) and (commas or not whole or different > MOST_CLASSES):
        kind = f"{different:,} different integers" if whole and not commas else "numbers with fractions"
        return "regression", (f"labels: column {name!r} holds {kind}: a regression (--problem single_label: classes)",)
    if any(BETWEEN_LABELS.search(cell) for cell in filled):
        return _decide_separated(name, set(filled))
    several, images = _in_several_rows(text, ids)
    if several >= SEVERAL * images and several:
        return "multi_label", (
            f"labels: {several:,} of {images:,} images are in several rows of different {name!r}: several labels per "
            "image (--problem single_label refuses them)",
        )
    if numbers and len(numbers) == len(filled):
        note = (
            f"labels: column {name!r} holds {different:,} different integers: classes (--problem regression: numbers)"
        )
        return "single_label", (note,)
    return "single_label", ()


def _decide_separated(name: str, cells: set[str]) -> tuple[Problem, tuple[str, ...]]:
    """Cells with | or ;: several labels where a part comes in two different cells, else names that look so."""
    seen: dict[str, str] = {}
    for cell in cells:
        for part in _parts(cell):
            if seen.setdefault(part, cell) != cell:
                return "multi_label", (
                    f"labels: cells of column {name!r} hold names between | or ;: several labels per image "
                    "(--problem single_label: each cell is one class)",
                )
    return "single_label", (
        f"labels: cells of column {name!r} hold | or ;, but no part of one is in another: each cell is one class "
        "(--problem multi_label: several labels per image)",
    )


def _in_several_rows(text: Sequence[str], ids: Sequence[str]) -> tuple[int, int]:
    """(images that are listed with different labels, images)."""
    first: dict[str, str] = {}
    several = {id_ for id_, label in zip(ids, text, strict=True) if first.setdefault(id_, label) != label}
    return len(several), len(first)


def _parts(cell: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in BETWEEN_LABELS.split(cell) if part.strip()))


def _lists(table: Table, name: str, cells: Sequence[Any], problem: ProblemChoice) -> Targets:
    """A list column of Parquet: the labels of each image; an empty list means none of them."""
    if problem not in ("auto", "multi_label"):
        raise RegardError(
            f"{table.path}: --problem {problem} for the lists of column {name!r}; lists are several labels"
        )
    labels = []
    for row, cell in enumerate(cells, start=2):
        if cell is None and problem == "auto":
            raise RegardError(
                f"{table.path}: row {row} has no label (column {name!r} is null); an empty list means none of them"
            )
        for one in cell or ():
            if not isinstance(one, str | int):
                raise RegardError(
                    f"{table.path}: row {row}: column {name!r} holds a list of {type(one).__name__}; "
                    "expected lists of label names; numbers need a column each"
                )
        known = (unicodedata.normalize("NFC", as_text(one)) for one in cell or ())
        labels.append(tuple(dict.fromkeys(one for one in known if one)))
    note = f"labels: column {name!r} holds lists: several labels per image"
    return Targets("multi_label", labels, (), (note,) if problem == "auto" else ())
