"""Files and folders that exist whole or not at all.

Everything is written beside its final name, flushed to the disk, and then renamed. A process that dies at any
moment, or a disk that fills up, leaves the old file (or nothing) under the final name and at most a leftover
that the next start removes. POSIX promises the rename; the fsync of file and folder makes it survive a power
cut.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

UNFINISHED = (".*.tmp-*", ".*.part")  # names while being written: this file's, and those of weights/save.py


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, which afterwards holds all of it or what it held before.

    Raises OSError where the disk refuses; then nothing new lies in the folder.
    """
    path = Path(path)
    beside = _beside(path)
    try:
        with open(beside, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_folder_atomic(folder: str | Path, fill: Callable[[Path], None], previous: str | Path) -> None:
    """Replace `folder` by one that `fill(empty folder)` writes; the old one becomes `previous`, the one
    before is dropped.

    Between the two renames only `previous` exists, so a reader looks at `folder` first and at `previous`
    second.
    """
    folder, previous = Path(folder), Path(previous)
    beside = _beside(folder)
    beside.mkdir()
    try:
        fill(beside)
        for file in beside.iterdir():
            sync(file)
        sync(beside)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if folder.exists():
        dropped = _beside(previous)
        if previous.exists():
            os.rename(previous, dropped)
        os.rename(folder, previous)
        shutil.rmtree(dropped, ignore_errors=True)
    os.rename(beside, folder)
    sync(folder.parent)


def leftovers(folder: str | Path) -> list[Path]:
    """What a killed writer left in `folder`."""
    return sorted(path for pattern in UNFINISHED for path in Path(folder).glob(pattern))


def remove_leftovers(folder: str | Path) -> list[str]:
    """Remove what a killed writer left in `folder`; returns the names."""
    names = []
    for path in leftovers(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        names.append(path.name)
    return names


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
