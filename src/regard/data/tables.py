"""Rows of labelled images before they are a data set, and the tables (CSV, TSV, Parquet) that list them."""

from __future__ import annotations

import csv
import os
import unicodedata
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from regard.errors import RegardError

Source = Path | np.ndarray  # a file, or HxWx3 uint8 pixels

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
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
    """What a folder, a table or a named set holds, row by row: not yet checked, class names as found."""

    name: str
    ids: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]  # "train" | "val" | "test", or "" where none was given
    sources: Sequence[Source]
    notes: tuple[str, ...] = ()


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


def list_table(table: Path) -> Listing:
    """The rows of a table with columns path and label (synonyms: COLUMNS), and optionally split.

    Paths are relative to the table. An image listed twice alike counts once; listed with two labels or in two
    splits it is a RegardError, as are missing columns, empty cells and unknown splits.
    """
    columns = _read_columns(table)
    paths, labels = columns["path"], columns["label"]
    splits = columns.get("split", [""] * len(paths))
    seen: dict[str, tuple[str, str]] = {}
    sources: list[Path] = []
    for row, (path, label, cell) in enumerate(zip(paths, labels, splits, strict=True), start=2):
        if not path or not label:
            raise RegardError(f"{table}: row {row} has no {'label' if path else 'path'}; every row needs both")
        split = split_named(cell) if cell else ""
        if split is None:
            raise RegardError(f"{table}: row {row}: split {cell!r}; expected train, val or test")
        file = Path(os.path.normpath(table.parent / path))
        id_ = _id_beside(file, table.parent)
        before = seen.setdefault(id_, (label, split))
        if before[0] != label:
            raise RegardError(
                f"{table}: row {row}: {path} is listed as {label!r} and as {before[0]!r}; "
                "one image has one label, delete the wrong row"
            )
        if before[1] != split:
            raise RegardError(f"{table}: row {row}: {path} is in two splits ({before[1]} and {split}); keep one")
        if len(seen) > len(sources):
            sources.append(file)
    twice = len(paths) - len(sources)
    if sources and not any(file.exists() for file in sources):
        raise RegardError(
            f"{table}: none of its {len(sources):,} images exists (first: {sources[0]}); "
            "paths are relative to the folder of the table"
        )
    notes = (f"{twice:,} rows of the table repeat an image and count once",) if twice else ()
    rows = list(seen.values())
    return Listing(table.stem, list(seen), [row[0] for row in rows], [row[1] for row in rows], sources, notes)


def _id_beside(file: Path, folder: Path) -> str:
    try:
        return posix_id(file.relative_to(os.path.normpath(folder)))
    except ValueError:
        return posix_id(file)


def _read_columns(table: Path) -> dict[str, list[str]]:
    """The cells of the columns in use, as stripped text, under our names for them."""
    try:
        names, cells = _read_parquet(table) if table.suffix.lower() == ".parquet" else _read_text(table)
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise RegardError(f"{table}: cannot be read as {table.suffix[1:].upper()} ({reason})") from None
    found: dict[str, list[str]] = {}
    lower = [str(name).strip().lower() for name in names]
    for name, synonyms in COLUMNS.items():
        column = next((lower.index(word) for word in synonyms if word in lower), None)
        if column is not None:
            found[name] = [unicodedata.normalize("NFC", cell) if name == "label" else cell for cell in cells(column)]
        elif name != "split":
            raise RegardError(
                f"{table}: no column {name!r} (or {', '.join(synonyms[1:])}); columns found: {some(names) or 'none'}"
            )
    return found


def _read_text(table: Path) -> tuple[list[str], Any]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        delimiter = "\t" if table.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    header = rows[0] if rows else []
    return header, lambda column: [row[column].strip() if column < len(row) else "" for row in rows[1:]]


def _read_parquet(table: Path) -> tuple[list[str], Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(table)
    except pyarrow.ArrowException as error:
        raise OSError(0, " ".join(str(error).split())[:200]) from None
    return content.column_names, lambda column: [
        "" if cell is None else str(cell).strip() for cell in content.column(column).to_pylist()
    ]


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
