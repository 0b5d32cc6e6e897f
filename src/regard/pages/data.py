"""Numbers for a page: rounded to a byte each, gzipped, in base64, with the error of the rounding measured."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ROWS, STEPS, PLAIN = "rows", "steps", "plain"
ALIGNMENT = 4  # bytes; a typed array of the browser begins at a multiple of its item's size


@dataclass(frozen=True)
class Coded:
    """An array whose items take a byte each. error: the largest |decoded - original|.

    kind "rows": shares >= 0 as uint8, scale * value^2 with one scale per row of the last axis, so that small shares
    keep about two digits beside a large one. kind "steps": any numbers as int8, scale * value with one
    scale per index of the first axes, as many as scale has. kind "plain": as they are, float32 or int32, no scale.
    """

    kind: str
    values: np.ndarray
    scale: np.ndarray | None = None
    error: float = 0.0

    def decoded(self) -> np.ndarray:
        """float32, in the shape of the original."""
        if self.scale is None:
            return self.values
        scale = self.scale.reshape(self.scale.shape + (1,) * (self.values.ndim - self.scale.ndim))
        if self.kind == ROWS:
            return scale * np.square(self.values.astype(np.float32))
        return scale * self.values.astype(np.float32)


def coded_rows(shares: np.ndarray, levels: int = 255) -> Coded:
    """(..., n) of numbers >= 0 as kind "rows", the largest of each row being `levels`."""
    shares = np.asarray(shares, np.float32)
    scale = shares.max(axis=-1) / np.float32(levels**2)
    roots = np.sqrt(shares / np.where(scale > 0, scale, 1)[..., None])
    return _measured(Coded(ROWS, np.rint(roots).astype(np.uint8), scale), shares)


def coded_steps(numbers: np.ndarray, axes: int = 0, levels: int = 127) -> Coded:
    """(..., n) of any numbers as kind "steps": whole steps from -levels to levels, of a size of their own for each
    index of the first `axes` axes.
    """
    numbers = np.asarray(numbers, np.float32)
    scale = np.abs(numbers).max(axis=tuple(range(axes, numbers.ndim))) / np.float32(levels)
    wide = np.where(scale > 0, scale, 1).reshape(numbers.shape[:axes] + (1,) * (numbers.ndim - axes))
    return _measured(Coded(STEPS, np.rint(numbers / wide).astype(np.int8), np.asarray(scale, np.float32)), numbers)


def plain(numbers: np.ndarray) -> Coded:
    """float32 or, of whole numbers, int32: exact."""
    whole = np.issubdtype(np.asarray(numbers).dtype, np.integer)
    return Coded(PLAIN, np.asarray(numbers, np.int32 if whole else np.float32))


def _measured(coded: Coded, original: np.ndarray) -> Coded:
    error = float(np.abs(coded.decoded() - original).max(initial=0.0))
    return Coded(coded.kind, coded.values, coded.scale, error)


@dataclass
class Store:
    """The blobs of a page, each a script element of its own that is unpacked when it is first asked for.

    index: blob -> array -> [kind, shape, type and offset of the values, length and offset of the scale], for the page;
    texts: blob -> base64 of the gzipped bytes.
    """

    index: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, blob: str, **arrays: Coded | None) -> None:
        """Puts arrays into one blob, little-endian; None is left out."""
        parts: list[bytes] = []
        entries: dict[str, list[Any]] = {}
        length = 0

        def put(array: np.ndarray) -> int:
            nonlocal length
            start = length
            content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            content += bytes(-len(content) % ALIGNMENT)
            parts.append(content)
            length += len(content)
            return start

        for name, coded in arrays.items():
            if coded is None:
                continue
            entry = [coded.kind, list(coded.values.shape), coded.values.dtype.name, put(coded.values)]
            entries[name] = entry if coded.scale is None else [*entry, coded.scale.size, put(coded.scale)]
        self.index[blob] = entries
        packed = gzip.compress(b"".join(parts), compresslevel=9, mtime=0)
        self.texts[blob] = base64.b64encode(packed).decode()
