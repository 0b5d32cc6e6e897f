"""A table in a folder of parts that any number of processes fill, and that any of them may leave at any moment.

    OUT/manifest.json         what the rows are answers of, and by which backend; written first
    OUT/part-00000.parquet    rows 0 to 1023 of the photos, written whole or not at all

A part that is there is done. Whoever writes one holds a lock on its number, which the system takes back when
the process dies, so the next one to come finds the part free. Two who wrote the same part would write the
same bytes: locks save work, they are not needed for the result.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regard.errors import RegardError
from regard.runs.atomic import remove_leftovers, write_atomic

ROWS = 1024  # in a part: what a kill costs, at most a minute or two of work on two cores
MANIFEST = "manifest.json"
LOCKS = ".locks"


class Parts:
    """The folder, for one process. Use as a context manager."""

    def __init__(self, folder: Path, photos: int):
        self.folder, self.photos = folder, photos
        self.numbers = range(-(-photos // ROWS))

    def __enter__(self) -> Parts:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._refuse_strangers()
            self._locks = open(self.folder / LOCKS, "a+b")  # held as long as this object
        except OSError as error:
            raise self._refused(error) from None
        return self

    def __exit__(self, *of_the_exception: object) -> None:
        self._locks.close()
        if not self.missing():  # nobody needs a lock any more
            (self.folder / LOCKS).unlink(missing_ok=True)

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}.parquet"

    def rows(self, number: int) -> range:
        """The places of its photos."""
        return range(number * ROWS, min(self.photos, (number + 1) * ROWS))

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there yet."""
        there = set(os.listdir(self.folder))
        return [number for number in self.numbers if self.path(number).name not in there]

    def done(self) -> int:
        """Photos in the parts that are there."""
        return self.photos - sum(len(self.rows(number)) for number in self.missing())

    def to_write(self) -> Iterator[int]:
        """Parts to write, each locked until the next is asked for: first those that nobody has, then those that
        another process had and did not write.
        """
        for wait in (False, True):
            for number in self.missing():
                with self._locked(number + 1, wait) as mine:
                    if mine and not self.path(number).is_file():
                        for left in self.folder.glob(f".{self.path(number).name}.tmp-*"):
                            left.unlink(missing_ok=True)  # a killed writer's: the lock is ours
                        yield number

    def settle(self, wanted: dict[str, Any], choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was chosen when the folder was begun, or `choose()`, which is then written down.

        wanted: what the rows depend on; where it differs from the folder's, RegardError names the difference.
        """
        path = self.folder / MANIFEST
        with self._locked(0, wait=True):
            if not path.is_file():
                remove_leftovers(self.folder)
                manifest = {**wanted, "chosen": choose()}
                try:
                    write_atomic(path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
                except OSError as error:
                    raise self._refused(error) from None
        try:
            manifest = json.loads(path.read_text("utf-8"))
            chosen = manifest.pop("chosen")
        except (OSError, ValueError, KeyError):
            raise RegardError(f"{path}: damaged; remove the folder or choose another --out") from None
        refuse_changes(self.folder, manifest, wanted)
        return chosen

    def count(self) -> Counter[str]:
        """How many rows are "unsure" and "unknown" and have an "error", read from the parts.

        Raises RegardError for a damaged part.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        counts: Counter[str] = Counter()
        for number in self.numbers:
            path = self.path(number)
            try:
                with pq.ParquetFile(path) as file:
                    names = [name for name in ("error", "unsure", "unknown") if name in file.schema_arrow.names]
                    table = file.read(columns=names)
            except (OSError, pa.ArrowException) as error:
                reason = str(error).splitlines()[0]
                raise RegardError(f"{path}: damaged ({reason}); delete it and give the same command again") from None
            if len(table) != len(self.rows(number)):
                raise RegardError(
                    f"{path}: {len(table)} rows, expected {len(self.rows(number))}; delete it and give the same "
                    "command again"
                )
            for name in names:
                counts[name] += sum(map(bool, table[name].to_pylist()))
        return counts

    @contextmanager
    def _locked(self, byte: int, wait: bool) -> Iterator[bool]:
        """Whether a byte of the file of locks is ours now; the lock dies with the process."""
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
        except (BlockingIOError, PermissionError):  # POSIX allows either for "somebody has it"
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, byte)

    def _refuse_strangers(self) -> None:
        if (self.folder / MANIFEST).is_file():
            return
        for path in sorted(self.folder.iterdir()):
            if path.name != LOCKS and not path.name.startswith(f".{MANIFEST}.tmp-"):
                raise RegardError(
                    f"{self.folder}: holds {path.name!r} but no {MANIFEST}, so these are no answers of regard; "
                    "choose an empty or a new folder for --out"
                )

    def _refused(self, error: OSError) -> RegardError:
        return RegardError(f"{self.folder}: cannot be written ({error.strerror}); make room or choose another --out")


def refuse_changes(folder: Path, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises RegardError with what of `wanted` is not as it was when a folder was begun."""
    different = [name for name in wanted if begun.get(name) != wanted[name]]
    if different:
        told = "; ".join(f"{name} was {_short(begun.get(name))}, is {_short(wanted[name])}" for name in different)
        raise RegardError(f"{folder}: was begun otherwise ({told}); choose another --out, or remove the folder")


def _short(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
