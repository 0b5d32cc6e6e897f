"""Google's .npz files, read without pickle and with every claim checked before anything is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np
import torch
from torch import Tensor

from regard.weights.detect import FETCH_AGAIN, ZIP_ERRORS, refuse

MAX_ARRAYS = 100_000
# Weights are noise to a compressor; only the zeros of a fresh head shrink. Beyond this the file is a bomb.
MAX_GROWTH, FREE_GROWTH = 20, 64 * 2**20
PREFIXES = ("opt/target/", "params/")
# NumPy reads a header as Python's text: what comes of text that is none.
HEADER_ERRORS = (
    ValueError, SyntaxError, TokenError, UnicodeError, KeyError, TypeError, OverflowError, RecursionError, MemoryError
)  # fmt: skip


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npz as tensors, names without the optional prefix `opt/target/` or `params/`.

    Raises RegardError for object arrays, for arrays whose header claims another size than their data have,
    for archives that unpack to far more than they weigh, and for damaged data (zip checksums are verified
    while reading).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive)
            arrays = {
                entry.filename.removesuffix(".npy"): _read_array(path, archive, entry) for entry in archive.infolist()
            }
    except ZIP_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refuse(path, f"a damaged .npz ({reason})", FETCH_AGAIN) from None
    return {_strip(name, arrays): tensor for name, tensor in arrays.items()}


def _strip(name: str, names: Iterable[str]) -> str:
    for prefix in PREFIXES:
        if all(other.startswith(prefix) for other in names):
            return name.removeprefix(prefix)
    return name


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    weight, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ARRAYS:
        raise refuse(
            path,
            f"an .npz of {len(entries)} arrays",
            "give the published file",
            "at most 100,000 were expected",
        )
    if len({entry.filename for entry in entries}) != len(entries):
        raise refuse(path, "an .npz with two arrays of one name", FETCH_AGAIN)
    if unpacked > MAX_GROWTH * weight + FREE_GROWTH:
        raise refuse(
            path,
            f"an .npz of {weight:,} bytes that unpacks to {unpacked:,}",
            FETCH_AGAIN,
            "weights hardly shrink when compressed",
        )


def _read_array(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    with archive.open(entry) as file:
        try:
            shape, fortran, dtype = _read_header(file)
        except HEADER_ERRORS:
            raise refuse(path, f"array {entry.filename}: no readable NumPy header", FETCH_AGAIN) from None
        if dtype.hasobject:
            raise refuse(
                path,
                f"array {entry.filename}: Python objects, which can carry code",
                "ask its author for plain arrays",
                "numbers were expected",
            )
        if dtype.kind not in "fiub":
            raise refuse(path, f"array {entry.filename}: type {dtype}", FETCH_AGAIN, "numbers were expected")
        count = math.prod(shape)
        if any(side < 0 for side in shape) or count * dtype.itemsize != entry.file_size - file.tell():
            raise refuse(
                path,
                f"array {entry.filename}: its header claims {count * dtype.itemsize:,} bytes",
                FETCH_AGAIN,
                f"{entry.file_size - file.tell():,} lie in the file",
            )
        data = bytearray(file.read())
    if len(data) != count * dtype.itemsize:
        raise refuse(path, f"array {entry.filename}: truncated", FETCH_AGAIN)
    array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    native = np.ascontiguousarray(array, dtype=dtype.newbyteorder("="))
    try:
        return torch.from_numpy(native.reshape(shape))
    except TypeError:
        raise refuse(path, f"array {entry.filename}: torch has no type {dtype}", FETCH_AGAIN) from None


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version}")
