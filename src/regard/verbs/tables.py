"""Tables that grow row by row and appear under their name only when whole: CSV, JSON lines, Parquet."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regard.data.tables import csv_writer
from regard.errors import RegardError
from regard.runs.atomic import sync

FORMATS = (".csv", ".jsonl", ".parquet")
FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
)  # first characters that make a spreadsheet run a cell (OWASP, CSV injection)
ROWS_AT_ONCE = 4096  # of a Parquet file: bounds the memory

WriteRow = Callable[[Mapping[str, Any]], object]


@contextmanager
def table_writer(path: str | Path, columns: Mapping[str, type]) -> Iterator[WriteRow]:
    """A function that adds a row; the file appears when the block ends, and not at all when it fails.

    columns: name -> str, float, int or bool; a missing value is None. The suffix decides the format: .csv,
    .jsonl, .parquet. Raises RegardError for another suffix, and where the disk refuses.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise RegardError(f"{path}: unknown suffix {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    opened = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix]
    with atomic_file(path) as beside, opened(beside, columns) as write:
        yield write


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, renamed to `path` when the block ends; removed when it fails."""
    if path.is_dir():
        raise RegardError(f"{path}: is a folder; expected a file to write")
    beside = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync(path.parent)
    except OSError as error:
        raise RegardError(
            f"{path}: cannot be written ({error.strerror or error}); make room or choose another place"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def neutral(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before one that looks so."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


@contextmanager
def _csv(path: Path, columns: Mapping[str, type]) -> Iterator[WriteRow]:
    # A file name that is no UTF-8 reaches us with surrogates; they are written as \udcXX.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write = csv_writer(file)
        write(columns)
        yield lambda row: write([_shown(neutral(row[name])) for name in columns])


def _shown(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else value


@contextmanager
def _jsonl(path: Path, columns: Mapping[str, type]) -> Iterator[WriteRow]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda row: print(json.dumps({name: row[name] for name in columns}), file=file)


@contextmanager
def _parquet(path: Path, columns: Mapping[str, type]) -> Iterator[WriteRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    waiting: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema))
            waiting.clear()

        def write(row: Mapping[str, Any]) -> None:
            waiting.append({name: _plain_text(row[name]) for name in columns})
            if len(waiting) >= ROWS_AT_ONCE:
                flush()

        yield write
        flush()


def _plain_text(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
