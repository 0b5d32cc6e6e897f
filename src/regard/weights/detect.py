"""What a file is, judged by its first bytes and never by its name."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Literal

from regard.errors import RegardError

Kind = Literal["safetensors", "torch", "legacy torch", "npz"]

EXPECTED = "safetensors, a torch state dict or an .npz was expected"
FETCH_AGAIN = "fetch the file again from its publisher"

# What the standard library raises at damaged archives.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)

# First bytes of what is sometimes found under the name of a weight file, and what to do about it.
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a git-LFS pointer, not the file it stands for",
        "fetch the file itself (`git lfs pull`)",
    ),
    (b"\x93NUMPY", "a single NumPy array", "give the .npz with all arrays"),
    (b"\x89HDF", "an HDF5 file", "convert it to safetensors where it came from"),
    (b"GGUF", "a GGUF file", "give the weights as safetensors"),
    (b"\x1f\x8b", "a gzip archive", "unpack it and give the weight file inside"),
    (b"BZh", "a bzip2 archive", "unpack it and give the weight file inside"),
    (b"\xfd7zXZ", "an xz archive", "unpack it and give the weight file inside"),
    (b"(\xb5/\xfd", "a Zstandard archive", "unpack it and give the weight file inside"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it and give the weight file inside"),
    (b"\x7fELF", "a program", FETCH_AGAIN),
    (b"\x89PNG", "a PNG image", "give the weight file"),
    (b"\xff\xd8\xff", "a JPEG image", "give the weight file"),
    (b"%PDF", "a PDF document", "give the weight file"),
)
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body", b"<!--")
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # after PROTO n: the first pickle of a pre-1.6 torch file


def refuse(path: Path, found: str, advice: str, expected: str = EXPECTED) -> RegardError:
    """The one line of every refusal: path, what was found, what was expected, what to do."""
    return RegardError(f"{path}: {shortened(found)}; {shortened(expected)}; {advice}")


def shortened(text: str, most: int = 300) -> str:
    """Text with names out of a file, at most so many letters."""
    return f"{text[:most]}..." if len(text) > most else text


def detect(path: Path) -> Kind:
    """The kind of a weight file. Raises RegardError, naming what was found, where there are no weights."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise refuse(path, f"cannot be read ({error.strerror})", "give the path of a weight file") from None
    if size == 0:
        raise refuse(path, "an empty file", FETCH_AGAIN)
    if head.startswith(b"PK"):
        return _detect_zip(path)
    if head[:1] == b"\x80" and head[2 : 2 + len(_TORCH_MAGIC)] == _TORCH_MAGIC:
        return "legacy torch"
    if _looks_like_safetensors(head, size):
        return "safetensors"
    raise _foreign(path, head)


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of header length, then a JSON object; a length beyond the file is judged by the reader."""
    return size >= 8 and head[8:9] == b"{" and head[6:8] == b"\0\0"


def _detect_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        claimed = _entries_claimed(path)
    except ZIP_ERRORS:
        raise refuse(path, "a damaged or truncated zip archive", FETCH_AGAIN) from None
    if claimed != len(names):
        found = f"a damaged zip archive: {len(names):,} entries are found, its end claims {claimed:,}"
        raise refuse(path, found, FETCH_AGAIN)
    inner = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise refuse(path, "a TorchScript archive, which carries code", "ask its author for the weights as safetensors")
    if "data.pkl" in inner:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise refuse(path, "a zip archive without weights", "unpack it and give the weight file inside")


def _entries_claimed(path: Path) -> int:
    """Entries by the end record, which zipfile does not compare: a flipped bit in a length hides the entries behind it.

    APPNOTE 4.3.16 (end of central directory, here without a comment), 4.3.14 and 4.3.15 (its 64-bit forms).
    """
    with path.open("rb") as file:
        file.seek(-22, 2)
        end = file.read(22)
        if not end.startswith(b"PK\5\6"):
            return -1
        count = int.from_bytes(end[10:12], "little")
        if count < 0xFFFF:
            return count
        file.seek(-22 - 20, 2)
        file.seek(int.from_bytes(file.read(20)[8:16], "little"))
        return int.from_bytes(file.read(56)[32:40], "little")


def _foreign(path: Path, head: bytes) -> RegardError:
    """The refusal for bytes that are no weight file, named as well as they can be."""
    text = head.lstrip().lower()
    if text.startswith(_MARKUP):
        return refuse(path, "a web page, not the file it should lead to", FETCH_AGAIN)
    for magic, found, advice in _FOREIGN:
        if head.startswith(magic):
            return refuse(path, found, advice)
    if head[257:262] == b"ustar":
        return refuse(path, "a tar archive", "unpack it and give the weight file inside")
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return refuse(path, "a bare Python pickle, which can carry code", "give the weights as safetensors")
    if text.startswith((b"{", b"[")):
        return refuse(path, "a JSON text", "give the weight file beside it")
    return refuse(path, "bytes of no known format (damaged, truncated or something else)", FETCH_AGAIN)
