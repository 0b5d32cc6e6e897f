"""The folder that a verb makes for several runs and their report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from regard.errors import RegardError


def make_folder(
    folder: Path, what: str, files: Sequence[str], folders: Sequence[str], resume: bool, overwrite: bool
) -> None:
    """A new folder for a `what`; one with anything in it is refused, unless it is such a one to be replaced.

    files: of which one at least marks it as such; they and what `folders` match (patterns) are removed first.
    """
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        raise RegardError(f"{folder}: is a file; expected a folder for the {what}: choose another --out")
    if held and not overwrite:
        hint = f"it holds no {what} to resume" if resume else "use --resume to continue it, --overwrite to start anew"
        raise RegardError(f"{folder}: already holds {held[0]!r}; {hint}, or choose another --out")
    if held and not set(files) & set(held):
        raise RegardError(f"{folder}: holds {held[0]!r} but no {what}, so it is not overwritten; choose another --out")
    for name in files:
        (folder / name).unlink(missing_ok=True)
    for pattern in folders:
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegardError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from None


@contextmanager
def no_empty_folder(folder: Path) -> Iterator[None]:
    """Where the work fails before anything is written, the folder that it has made goes again."""
    was_there = folder.exists()
    try:
        yield
    except BaseException:
        if not was_there and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise
