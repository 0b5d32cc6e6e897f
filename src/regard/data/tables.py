"""Rows of labelled images before they are a data set, and the tables (CSV, TSV, Parquet) that list them."""

from __future__ import annotations

import csv
import os
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from regard.errors import RegardError
from regard.results import Problem

Source = Path | np.ndarray  # a file, or HxWx3 uint8 pixels

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
# Each row of a Parquet table names another image, which compression makes short, but not as short as this.
ROWS_A_BYTE, FEWEST_ROWS_ALLOWED = 100, 100_000
COLUMNS = {
    "path": ("path", "image_path", "image", "filename", "file"),
    "label": ("label", "class", "target", "category"),
    "split": ("split",),
}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Listing(NamedTuple):
    """What a folder, a table or a named set holds, row by row: not yet checked, class names as found.

    labels: class names; tuples of label names where they are several; tuples of numbers where it is a regression.
    columns: the names of number columns or of 0/1 columns, in order; empty where the names are in the labels.
    """

    name: str
    ids: Sequence[str]
    labels: Sequence[Any]
    splits: Sequence[str]  # "train" | "val" | "test", or "" where none was given
    sources: Sequence[Source]
    notes: tuple[str, ...] = ()
    problem: Problem = "single_label"
    columns: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    slices: Mapping[str, tuple[str, ...]] = {}
    boxes: bool = False


class Table(NamedTuple):
    """A table as a file holds it. cells(place): a column, stripped text from CSV, values from Parquet."""

    path: Path
    names: tuple[str, ...]
    cells: Callable[[int], list[Any]]

    def find(self, name: str) -> int | None:
        """The place of a column by its name, else by its name in any case."""
        if name in self.names:
            return self.names.index(name)
        lower = [one.strip().lower() for one in self.names]
        return lower.index(name.strip().lower()) if name.strip().lower() in lower else None

    def known(self, meaning: str) -> int | None:
        """The place of the column that means path, label or split by its name."""
        places = (self.find(word) for word in COLUMNS[meaning])
        return next((place for place in places if place is not None), None)

    def need(self, name: str, flag: str) -> int:
        """The place of a column that the user named; RegardError with the nearest names where there is none."""
        place = self.find(name)
        if place is None:
            near = get_close_matches(name, self.names, n=3, cutoff=0.5)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise RegardError(f"{self.path}: no column {name!r} for {flag}{hint}; columns found: {some(self.names)}")
        return place

    def text(self, place: int) -> list[str]:
        """A column as stripped text in Unicode's composed form; "" where a cell is empty."""
        return [unicodedata.normalize("NFC", as_text(cell)) for cell in self.cells(place)]


def as_text(cell: Any) -> str:
    """A cell as stripped text; "" for the missing values of Parquet (null, and NaN as pandas writes it)."""
    missing = cell is None or (isinstance(cell, float) and cell != cell)
    return "" if missing else str(cell).strip()


def split_named(text: str) -> str | None:
    """The split ("train", "val" or "test") that a folder or a cell names, None where it names none."""
    return SPLITS.get(text.strip().lower())


def some(names: Sequence[object], most: int = 10) -> str:
    """A list for an error line, cut after `most` names."""
    shown = ", ".join(map(str, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def posix_id(path: Path) -> str:
    """A path as an id: POSIX, and UTF-8 also where the file system holds other bytes."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def read_table(path: Path) -> Table:
    """The columns of a CSV (comma, semicolon or tab), TSV or Parquet file; RegardError where it is none."""
    try:
        return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise RegardError(f"{path}: cannot be read as {path.suffix[1:].upper()} ({reason})") from None


def _read_text(path: Path) -> Table:
    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    header = tuple(rows[0]) if rows else ()
    return Table(path, header, lambda place: [row[place].strip() if place < len(row) else "" for row in rows[1:]])


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        _check_rows(pyarrow.parquet.read_metadata(path), path)
        content = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise OSError(0, " ".join(str(error).split())[:200]) from None

    def cells(place: int) -> list[Any]:
        try:
            return content.column(place).to_pylist()
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # no UTF-8; dates that are none
            reason = " ".join(str(error).split())[:200]
            raise RegardError(
                f"{path}: column {content.column_names[place]!r} cannot be read ({reason}); write the table again"
            ) from None

    return Table(path, tuple(content.column_names), cells)


def _check_rows(footer: Any, path: Path) -> None:
    """Refuses a Parquet footer that claims more rows than its parts or its bytes can hold: Arrow would make them."""
    groups = sum(footer.row_group(number).num_rows for number in range(footer.num_row_groups))
    if groups != footer.num_rows:
        raise OSError(0, f"its parts claim {groups:,} rows and the whole {footer.num_rows:,}; the file is damaged")
    most = FEWEST_ROWS_ALLOWED + ROWS_A_BYTE * path.stat().st_size
    if groups > most:
        raise OSError(0, f"{groups:,} rows are claimed in {path.stat().st_size:,} bytes; the file is damaged")


def csv_writer(file: TextIO) -> Callable[[Iterable[Any]], object]:
    """A function that adds a row to a CSV file with a line feed at its end.

    Python's writer leaves a carriage return in a cell bare, and readers take it for the end of the row: what follows in
    a file's name would become a row, or a formula, of its own. Such rows are quoted whole.
    """
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(row: Iterable[Any]) -> object:
        cells = list(row)
        broken = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        return (quoted if broken else plain).writerow(cells)

    return write


def write_beside(path: Path, text: str) -> None:
    """Write UTF-8 text beside `path` and rename it into place: it is whole or it is not there."""
    beside = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        with open(beside, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
