"""Embeddings that were computed before: the latest in memory, all of them in a folder where one is given."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.weights import read_state, save_state

MEMORY = 1 << 28  # bytes: 64 embeddings of the published models
ENTRY = "embedding"


def pixels_key(image: np.ndarray) -> str:
    """Hex SHA-256 of (H, W, 3) uint8 pixels and their shape."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class EmbeddingCache:
    """Embeddings by key: those used last, at most `limit` bytes of them, in memory; in `folder` all of them.

    shape: of each; a file that holds something else, or is damaged, is taken for none, and `messages` says so. Pickled,
    it starts with an empty memory.
    """

    def __init__(self, limit: int, folder: str | Path | None, shape: tuple[int, ...], messages: list[str]) -> None:
        self.limit, self.folder, self.messages = limit, None if folder is None else Path(folder), messages
        self.shape = shape
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}

    @property
    def bytes(self) -> int:
        """Of what is in memory."""
        return sum(kept.nbytes for kept in self._kept.values())

    def find(self, key: str) -> Tensor | None:
        """The embedding that was kept under this key, from memory or else from the folder (on the CPU)."""
        found = self._kept.pop(key, None)
        if found is None:
            return self._read(key)
        self._kept[key] = found  # the last is what was used last
        return found

    def remember(self, key: str, embedding: Tensor) -> None:
        """Keep it in memory only."""
        self._kept[key] = embedding
        while self._kept and self.bytes > self.limit:
            self._kept.popitem(last=False)

    def write(self, key: str, embedding: Tensor) -> None:
        """Keep it in the folder too, where there is one. Raises RegardError where that cannot be done."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_state(self._path(key), {ENTRY: embedding})
        except OSError as error:
            raise RegardError(
                f"{self.folder}: embeddings cannot be kept ({error.strerror}); make room, or choose another cache="
            ) from None

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"

    def _read(self, key: str) -> Tensor | None:
        if self.folder is None or not self._path(key).is_file():
            return None
        try:
            found = read_state(self._path(key))[ENTRY]
            if found.shape == self.shape and found.dtype is torch.float32:
                return found
        except (RegardError, KeyError, OSError):
            pass
        self.messages.append(f"{self._path(key)}: damaged; the embedding is computed again")
        return None
