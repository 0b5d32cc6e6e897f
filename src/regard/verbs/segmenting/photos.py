"""The photos that `segment` is given: files, folders and patterns, each with a name for what is made of it."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard.data.photos import PhotoList

PATTERN = "*?["  # letters that make a pattern of a name


class Photos:
    """Photos in the order given, each once.

    root: the folder that all arguments share; files: the photos below it, POSIX and UTF-8; names: the same without
    suffixes, unique in any case of letters, for the files that are made of them.
    """

    def __init__(self, arguments: Sequence[str | Path], frames: bool = False) -> None:
        """frames: in the order of their names, numbers in them by their value."""
        from regard.data.photos import find_photos

        given = [path for argument in arguments for path in _expanded(argument)]
        self._list: PhotoList = find_photos(given)
        if frames:
            from regard.segmentation.following import in_order

            listed = [Path(self._list.path(place)) for place in range(len(self._list))]
            self._list = find_photos(in_order(listed))
        folders = [path if os.path.isdir(path) else os.path.dirname(path) for path in given]
        self.root = os.path.commonpath([os.path.abspath(folder or ".") for folder in folders])
        first: dict[str, int] = {}
        for place in range(len(self._list)):
            first.setdefault(os.path.abspath(self._list.path(place)), place)
        self._places = list(first.values())
        self.names: list[str] = []
        self.files: list[str] = []
        taken: set[str] = set()
        for file in first:
            below = os.path.relpath(file, self.root)
            stem, _ = os.path.splitext(below)
            name, number = stem, 1
            while name.casefold() in taken:
                number += 1
                name = f"{stem}-{number}"
            taken.add(name.casefold())
            self.names.append(name)
            self.files.append(_text(below))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the photos' ids in their order."""
        return self._list.digest

    def path(self, place: int) -> str:
        """The file at a place."""
        return self._list.path(self._places[place])

    def id(self, place: int) -> str:
        """As it was given, for people."""
        return self._list.id(self._places[place])


def _expanded(argument: str | Path) -> list[str]:
    """The files and folders that a pattern means, sorted; anything else as it is."""
    text = str(argument)
    if os.path.lexists(text) or not any(letter in text for letter in PATTERN):
        return [text]
    return sorted(glob.glob(text, recursive=True)) or [text]


def _text(path: str) -> str:
    """With POSIX's slashes; what is no UTF-8 is written as \\xXX."""
    return os.fsencode(path.replace(os.sep, "/")).decode("utf-8", "backslashreplace")
