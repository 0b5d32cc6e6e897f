"""What the images of a run were, byte for byte: so that whoever runs it again can say which ones have changed.

Size and time of change are cheaper, but a copied folder has other times and the same photos. The bytes are read once
per run and file (BLAKE2b, about a gigabyte a second; the check has just read them, so they come from memory as a rule).
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from regard.data.sources import ImageSet
from regard.data.tables import csv_writer, write_beside
from regard.errors import RegardError

HEADER = ["id", "blake2b"]
MISSING = "missing"


def contents(images: ImageSet, rows: Iterable[int]) -> dict[str, str]:
    """Id -> 32 hexadecimal digits over the bytes of its file, or over its pixels; "missing" where there is none.

    Published sets (torchvision:NAME) are taken at their word: empty.
    """
    if images.name.startswith("torchvision:"):
        return {}
    rows = [int(row) for row in rows]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(
            zip((images.ids[row] for row in rows), pool.map(_digest_of, (images.sources[r] for r in rows)), strict=True)
        )


def _digest_of(source: Path | np.ndarray) -> str:
    if isinstance(source, np.ndarray):
        digest = hashlib.blake2b(repr((source.shape, source.dtype.str)).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(source).data)
        return digest.hexdigest()
    try:
        status = os.stat(source)
        return _digest_of_file(str(source), status.st_size, status.st_mtime_ns)
    except OSError:
        return MISSING


@lru_cache(maxsize=1 << 20)  # a comparison asks for the same files in each of its runs
def _digest_of_file(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_contents(path: Path, found: Mapping[str, str]) -> None:
    """Write `id,blake2b`, whole or not at all."""
    text = io.StringIO()
    write = csv_writer(text)
    write(HEADER)
    for line in found.items():
        write(line)
    write_beside(path, text.getvalue())


def read_contents(path: Path) -> dict[str, str]:
    """What `write_contents` wrote; empty where a run of an older release has none. Raises RegardError if damaged."""
    if not path.is_file():
        return {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *lines = list(csv.reader(file))
    except (OSError, UnicodeError, ValueError, csv.Error) as error:
        raise RegardError(f"{path}: damaged ({error}); delete it to go without") from None
    if header != HEADER or any(len(line) != 2 for line in lines):
        raise RegardError(f"{path}: not a list of contents; delete it to go without")
    return {id_: digest for id_, digest in lines}
