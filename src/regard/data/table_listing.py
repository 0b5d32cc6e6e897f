"""Labelled images from the rows of a table: paths, labels, splits, groups and slices, one image once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from regard.data.boxes import box_shares
from regard.data.groups import describe_groups, groups_by_pattern
from regard.data.tables import COLUMNS, Listing, Table, as_text, posix_id, read_table, some, split_named
from regard.data.targets import Targets, read_targets
from regard.errors import RegardError
from regard.results import ProblemChoice

NO_SLICE = "(empty)"  # the slice of an image whose cell is empty


class Rows(NamedTuple):
    """The rows of a table, each with the image that it is about."""

    ids: list[str]
    files: list[Path]
    splits: list[str]


def list_table(
    path: Path,
    classes: Sequence[str] | None = None,
    target: Sequence[str] = (),
    problem: ProblemChoice = "auto",
    group: str | None = None,
    slices: Sequence[str] = (),
) -> Listing:
    """The images of a table with a column path, label columns, and optionally a column split.

    The arguments are those of `open_images`. Paths are relative to the table. An image listed several times alike
    counts once; several labels add up; one class, numbers, splits, groups and slices that differ are a RegardError,
    as are missing columns, cells that do not fit and unknown splits.
    """
    table = read_table(path)
    rows = _rows(table)
    found = read_targets(table, rows.ids, target, problem, classes)
    columns = {name: table.need(name, "--slices") for name in slices}
    cut = {table.names[place]: [cell or NO_SLICE for cell in table.text(place)] for place in columns.values()}
    grouped = table.find(group) if group is not None else None
    groups = _group_cells(table, grouped) if grouped is not None else []
    first, labels, notes = _merge(table, rows, found)
    for what, cells in (("split", rows.splits), ("group", groups), *((f"{name!r}", cut[name]) for name in cut)):
        _refuse_different(table, rows.ids, what, cells)
    ids = [rows.ids[row] for row in first]
    sources = [rows.files[row] for row in first]
    if sources and not any(os.path.exists(file) for file in sources):
        raise RegardError(
            f"{path}: none of its {len(sources):,} images exists (first: {sources[0]}); "
            "paths are relative to the folder of the table"
        )
    notes = [*found.notes, *notes]
    if found.boxes and labels:
        lines = [row + 2 for row in first]
        shares, unit = box_shares(path, np.array(labels, dtype=np.float64), found.sizes, sources, lines)
        labels = shares.tolist()
        notes[0] += f", in {unit}"
    named = tuple(groups[row] for row in first) if groups else ()
    if group is not None and ids:
        by_pattern = grouped is None
        named = groups_by_pattern(path.name, ids, group, table.names) if by_pattern else named
        notes.append(describe_groups(named, f"pattern {group!r}" if by_pattern else f"column {group!r}"))
    return Listing(
        path.stem,
        ids,
        labels,
        [rows.splits[row] for row in first],
        sources,
        tuple(notes),
        found.problem,
        found.columns,
        named,
        {name: tuple(cells[row] for row in first) for name, cells in cut.items()},
        found.boxes,
    )


def _rows(table: Table) -> Rows:
    place = table.known("path")
    if place is None:
        synonyms = ", ".join(COLUMNS["path"][1:])
        raise RegardError(
            f"{table.path}: no column 'path' (or {synonyms}); columns found: {some(table.names) or 'none'}"
        )
    folder = table.path.parent
    paths = [as_text(cell) for cell in table.cells(place)]
    given = table.known("split")
    words = table.text(given) if given is not None else [""] * len(paths)
    rows = Rows([], [], [])
    for row, (path, word) in enumerate(zip(paths, words, strict=True), start=2):
        if not path:
            raise RegardError(f"{table.path}: row {row} has no path; every row needs one")
        split = split_named(word) if word else ""
        if split is None:
            raise RegardError(f"{table.path}: row {row}: split {word!r}; expected train, val or test")
        file = Path(os.path.normpath(folder / path))
        rows.ids.append(_id_beside(file, folder))
        rows.files.append(file)
        rows.splits.append(split)
    return rows


def _id_beside(file: Path, folder: Path) -> str:
    try:
        return posix_id(file.relative_to(os.path.normpath(folder)))
    except ValueError:
        return posix_id(file)


def _group_cells(table: Table, place: int) -> list[str]:
    cells = table.text(place)
    empty = [row for row, cell in enumerate(cells, start=2) if not cell]
    if empty:
        raise RegardError(
            f"{table.path}: {len(empty):,} of {len(cells):,} rows have no group in column {table.names[place]!r} "
            f"(first: row {empty[0]}); every image needs one"
        )
    return cells


def _merge(table: Table, rows: Rows, found: Targets) -> tuple[list[int], list[Any], list[str]]:
    """(first row of every image, its labels, notes): names of several labels add up over an image's rows."""
    place: dict[str, int] = {}
    first: list[int] = []
    labels: list[Any] = []
    added: set[str] = set()
    twice = 0
    for row, (id_, label) in enumerate(zip(rows.ids, found.labels, strict=True)):
        known = place.setdefault(id_, len(first))
        if known == len(first):
            first.append(row)
            labels.append(label)
        elif found.problem == "multi_label" and not found.columns:
            new = [one for one in label if one not in labels[known]]
            labels[known] = (*labels[known], *new)
            if new:
                added.add(id_)
            else:
                twice += 1
        elif label != labels[known]:
            raise RegardError(
                f"{table.path}: row {row + 2}: {id_} is listed as {_shown(label)} and as {_shown(labels[known])}; "
                + _remedy(found)
            )
        else:
            twice += 1
    notes = [f"the labels of {len(added):,} images are in several rows and add up"] if added else []
    if twice:
        notes.append(f"{twice:,} rows of the table repeat an image and count once")
    return first, labels, notes


def _shown(label: Any) -> str:
    return repr(label) if isinstance(label, str) else ", ".join(map(str, label)) or "none of the labels"


def _remedy(found: Targets) -> str:
    if found.problem == "single_label":
        return "one image has one label: delete the wrong row, or say --problem multi_label"
    what = "box" if found.boxes else "row of numbers" if found.problem == "regression" else "row of 0/1 columns"
    return f"one image has one {what}: delete the others"


def _refuse_different(table: Table, ids: Sequence[str], what: str, cells: Sequence[str]) -> None:
    """One image has one split, one group, one cell of a slice."""
    seen: dict[str, str] = {}
    for row, (id_, cell) in enumerate(zip(ids, cells, strict=False), start=2):
        before = seen.setdefault(id_, cell)
        if before != cell:
            where = "two splits" if what == "split" else "two groups" if what == "group" else f"two values of {what}"
            raise RegardError(
                f"{table.path}: row {row}: {id_} is in {where} ({before or 'none'} and {cell or 'none'}); keep one"
            )
