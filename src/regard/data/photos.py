"""Photos without labels, by the million: found in a walk, kept as names, never opened."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from regard.data.sources import IMAGE_SUFFIXES, NO_CONTENT
from regard.errors import RegardError


class PhotoList:
    """Files in a fixed order, each with a unique id; a name takes its own bytes and twelve more.

    An id is the path as it was given, POSIX and UTF-8; one that comes again gets "#2". digest: hex SHA-256
    over the ids in their order.
    """

    def __init__(self, found: Iterable[tuple[str, Sequence[str]]]):
        """found: (folder, names in it) in order; the folder of a file that was named itself is ""."""
        self._folders: list[str] = []
        self._folder_of = array("I")
        self._ends = array("Q", [0])
        self._names = bytearray()
        for folder, names in found:
            self._folders.append(folder)
            for name in names:
                self._names += os.fsencode(name)
                self._ends.append(len(self._names))
                self._folder_of.append(len(self._folders) - 1)
        self._renamed: dict[int, str] = {}
        self.digest = self._look_through()

    def __len__(self) -> int:
        return len(self._folder_of)

    def path(self, place: int) -> str:
        """The file at a place of the list."""
        name = os.fsdecode(bytes(self._names[self._ends[place] : self._ends[place + 1]]))
        return os.path.join(self._folders[self._folder_of[place]], name)

    def id(self, place: int) -> str:
        """Its id."""
        return self._renamed.get(place) or self._given(place)

    def _given(self, place: int) -> str:
        # What is no UTF-8 in the file system is written out as \xXX.
        return os.fsencode(self.path(place).replace(os.sep, "/")).decode("utf-8", "backslashreplace")

    def _look_through(self) -> str:
        """Number the ids that repeat; returns the digest."""
        digest = hashlib.sha256()
        hashes = np.empty(len(self), np.int64)
        for place in range(len(self)):
            id_ = self._given(place)
            digest.update(id_.encode() + b"\0")
            hashes[place] = hash(id_)
        known, counts = np.unique(hashes, return_counts=True)
        seen: set[str] = set()
        for place in np.flatnonzero(np.isin(hashes, known[counts > 1])).tolist():
            given = unique = self._given(place)
            number = 1
            while unique in seen or (number > 1 and hash(unique) in known):
                number += 1
                unique = f"{given}#{number}"
            seen.add(unique)
            if unique != given:
                self._renamed[place] = unique
        return digest.hexdigest()


def find_photos(paths: Sequence[str | Path]) -> PhotoList:
    """Photos in the order given: a file, whatever its suffix (the decoder judges it); of a folder, the images
    in it and below, sorted, files before inner folders.

    Hidden files and folders are passed over; linked folders are followed, circles are not. Raises RegardError
    for what does not exist and folders without images.
    """
    photos = PhotoList(_found(paths))
    if not len(photos):
        raise RegardError("no photos given; name files or folders")
    return photos


def _found(paths: Sequence[str | Path]) -> Iterator[tuple[str, Sequence[str]]]:
    for path in map(Path, paths):
        if os.path.isdir(path):
            empty = True
            for folder, names in _walk(str(path), frozenset()):
                empty = empty and not names
                yield folder, names
            if empty:
                raise RegardError(f"{path}: no images in this folder")
        elif os.path.lexists(path):  # a dangling link too: it keeps its row, with an error
            yield "", (str(path),)
        else:
            raise RegardError(f"{path}: no such file or folder")


def _walk(folder: str, above: frozenset[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """(folder, sorted names of the images in it), for a folder and those in it."""
    here = os.path.realpath(folder)
    if here in above:
        return
    names, inner = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in NO_CONTENT:
                    continue
                if entry.is_dir():
                    inner.append(entry.name)
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                    names.append(entry.name)
    except OSError as error:
        raise RegardError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    yield folder, sorted(names)
    for name in sorted(inner):
        yield from _walk(os.path.join(folder, name), above | {here})
