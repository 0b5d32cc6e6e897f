"""Photos that are none, of 15 kinds, among good ones whose content says which they are."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(kind: str) -> bytes:
    """A good picture with enough detail to be cut."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


JPEG, PNG, WEBP = encoded("JPEG"), encoded("PNG"), encoded("WEBP")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HUGE = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + PNG[33:]


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def negative(path: Path) -> None:
    Image.fromarray(np.full((8, 8), -3.5, np.float32)).save(path, "TIFF")


# kind -> (how it is made, the error code of its row)
KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (content(b""), "empty"),
    "web page": (content(b"<!DOCTYPE html><html><body>404</body></html>"), "html"),
    "LFS pointer": (content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "lfs-pointer"),
    "text": (content(b"hello, world\n" * 9), "not-an-image"),
    "ZIP": (content(b"PK\x03\x04" + bytes(60)), "not-an-image"),
    "noise": (content(np.random.default_rng(1).bytes(500)), "not-an-image"),
    "cut JPEG": (content(JPEG[: len(JPEG) // 2]), "truncated"),
    "cut PNG": (content(PNG[: len(PNG) // 2]), "truncated"),
    "cut WebP": (content(WEBP[: len(WEBP) // 2]), "damaged"),
    "JPEG's first bytes": (content(b"\xff\xd8\xff" + b"\x01" * 90), "damaged"),
    "cut BMP": (content(encoded("BMP")[:200]), "truncated"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "dangling-link"),
    "pipe": (os.mkfifo, "not-a-file"),
    "huge PNG": (content(HUGE), "too-large"),
    "negative TIFF": (negative, "unsupported"),
}
NAMES = ("photo {}.jpg", "фото {}.png", "new\nline {}.png", "=cmd({}).png", '"q",{}.png', "写真{}.jpg")


def colour(number: int) -> tuple[int, int, int]:
    """The colour of good photo `number`."""
    return number % 251, number // 251, 7 * number % 256


def write_photos(folder: Path, count: int, bad: int) -> dict[str, int | str]:
    """`count` photos in folders of 100, in which names repeat; `bad` of them, spread evenly, are of the kinds in turn.

    Returns path -> number of a good one, or the error code of a bad one.
    """
    written: dict[str, int | str] = {}
    kinds = list(KINDS.values())
    every = count // bad
    for number in range(count):
        place = folder / f"{number // 100:03d}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / NAMES[number % len(NAMES)].format(number % 100)
        if number % every == every // 2 and number // every < bad:
            make, code = kinds[number // every % len(kinds)]
            make(path)
            written[str(path)] = code
        else:
            Image.new("RGB", (8, 8), colour(number)).save(path, "PNG")
            written[str(path)] = number
    return written
