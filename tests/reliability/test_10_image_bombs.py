"""Row 10: image bombs are refused, or answered from what is harmless in them, soon and in little memory."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from figures import record
from PIL import Image

SECONDS, MEGABYTES = 1.0, 300
HERE = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, body: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", body or zlib.compress(bytes(3 * 64)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def gif(width: int, height: int) -> bytes:
    data = bytearray(saved(Image.new("P", (4, 4)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    place = data.index(b"\x2c", 13)
    data[place + 5 : place + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    data = bytearray(saved(Image.new("RGB", (4, 4)), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    """A VP8X canvas of these sides, at most 2^24, around a small picture."""
    inner = saved(Image.new("RGB", (4, 4)), "WEBP", lossless=True)[12:]
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + inner
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def tiff(width: int, height: int, next_directory: int = 0, extra: tuple[tuple[int, int, int, int], ...] = ()) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64), *extra]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    end = struct.pack("<I", next_directory)
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(tags)) + directory + end


def animation(frames: int) -> bytes:
    """A GIF of so many frames of one pixel, each 100 hours long."""
    head = b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\4\0\xff\xff\0\0" + b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\2\2\x44\1\0"
    return head + frame * frames + b"\x3b"


def jpeg_with(marker: int, body: bytes, times: int) -> bytes:
    data = saved(Image.new("RGB", (16, 16)), "JPEG")
    return data[:2] + (bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body) * times + data[2:]


def exif_loop() -> bytes:
    """An EXIF directory whose next one is itself, and whose entries claim 4 GiB."""
    tags = b"".join(struct.pack("<HHII", 0x9000 + number, 7, 0xFFFFFFFF, 8) for number in range(500))
    return jpeg_with(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 500) + tags + struct.pack("<I", 8), 5)


def icc_bomb() -> bytes:
    """A compressed colour profile of 64 MiB in a small PNG."""
    return png(8, 8, extra=chunk(b"iCCP", b"x\0\0" + BLANK))


BLANK = zlib.compress(bytes(2**26))
SIDES = ((60_000, 60_000), (13_000, 13_001), (65_500, 2_000), (2**16 - 1, 2**16 - 1))
WIDE = ((2**24 - 1, 2**24 - 1), (2**30, 2**30))
# name -> (bytes, whether it has to be refused: a harmless first frame or picture may be answered)
BOMBS: dict[str, tuple[Callable[[], bytes], bool]] = {
    **{f"PNG {w} x {h}": (lambda w=w, h=h: png(w, h), True) for w, h in (*SIDES, *WIDE)},
    **{f"JPEG {w} x {h}": (lambda w=w, h=h: jpeg(w, h), True) for w, h in SIDES},
    **{f"GIF {w} x {h}": (lambda w=w, h=h: gif(w, h), True) for w, h in SIDES},
    **{f"BMP {w} x {h}": (lambda w=w, h=h: bmp(w, h), True) for w, h in (*SIDES, *WIDE, (-(2**31), 5), (5, -(2**31)))},
    **{f"WebP {w} x {h}": (lambda w=w, h=h: webp(w, h), True) for w, h in (*SIDES, WIDE[0])},
    **{f"TIFF {w} x {h}": (lambda w=w, h=h: tiff(w, h), True) for w, h in (*SIDES, *WIDE, (2**32 - 1, 1), (0, 5))},
    "PNG of 89 Mpx without its pixels": (lambda: png(9_459, 9_459), True),
    "PNG of zeros, 1000:1": (lambda: png(4_000, 4_000, zlib.compress(bytes(12_001 * 4_000))), False),
    "PNG with 100,000 text chunks": (lambda: png(8, 8, extra=chunk(b"tEXt", b"a\0b") * 100_000), False),
    "PNG with a text of 64 MiB": (lambda: png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + BLANK)), False),
    "PNG with a colour profile of 64 MiB": (icc_bomb, False),
    "PNG chunk of 4 GiB": (lambda: png(8, 8)[:33] + b"\xff\xff\xff\xffIDAT", True),
    "GIF of 20,000 frames": (lambda: animation(20_000), False),
    "GIF without an end": (lambda: animation(50)[:-1] + b"\x21\xfe" + b"\xff" * 10_000, False),
    "TIFF directory that is its own next": (lambda: tiff(8, 8, next_directory=72), False),
    "TIFF with a tag of 4 GiB": (lambda: tiff(8, 8, extra=((700, 1, 2**32 - 1, 8),)), False),
    "TIFF with a strip count of 4 billion": (lambda: tiff(8, 8, extra=((273, 4, 2**32 - 1, 8),)), False),
    "EXIF directory that is its own next": (exif_loop, False),
    "JPEG with 5,000 comments": (lambda: jpeg_with(0xFE, b"c" * 1_000, 5_000), False),
    "JPEG with 2,000 colour profiles": (lambda: jpeg_with(0xE2, b"ICC_PROFILE\0\1\2" + b"p" * 900, 2_000), False),
    "JPEG of 1,000 scans": (lambda: scans(1_000), False),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", True),
    "SVG of a billion laughs": (lambda: b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aa">]><svg>&a;</svg>', True),
    "PDF": (lambda: b"%PDF-1.7\n" + b"1 0 obj\n" * 100, True),
    "FITS": (lambda: b"SIMPLE  =                    T".ljust(2880) + b"NAXIS1  = 1000000000".ljust(2880), True),
    "ICNS": (lambda: b"icns" + struct.pack(">I", 2**31) + b"ic10" + struct.pack(">I", 2**31), True),
    "ICO": (lambda: saved(Image.new("RGB", (16, 16)), "ICO"), True),
    "PSD": (lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(12), True),
    "JPEG 2000": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), True),
    "PPM of 3.6 Gpx": (lambda: b"P6 60000 60000 255\n", True),
    "TGA of 4 Gpx": (lambda: b"\0\0\2" + bytes(9) + struct.pack("<HHBB", 65535, 65535, 24, 0), True),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(64), True),
    "WMF": (lambda: b"\xd7\xcd\xc6\x9a" + bytes(64), True),
}  # fmt: skip


def scans(count: int) -> bytes:
    """A progressive JPEG whose scans come again and again (CVE-2018-11212 and relatives)."""
    data = saved(Image.fromarray(np.zeros((512, 512), np.uint8)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + b"\xff\xd9"


MEASURE = """
import json, sys, time
from pathlib import Path
from measured import peak, start
from regard.data.decoding import ImageError, decode

for path in map(Path, sys.argv[1:]):
    start()
    before, began, said = peak(), time.process_time(), ""
    try:
        decode(path, shorter_side=224)
    except ImageError as error:
        said = f"{error.code} {error}"
    print(json.dumps([said, time.process_time() - began, (peak() - before) / 1e6]))
"""


def test_bombs_are_refused_or_harmless(tmp_path: Path) -> None:
    """In a process of its own, whose peak memory is that of the decoder alone."""
    paths = []
    for number, (build, _) in enumerate(BOMBS.values()):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(build())
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=HERE)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = []
    for (said, seconds, grown), (kind, (_, must)), path in zip(rows, BOMBS.items(), paths, strict=True):
        if (must and not said) or (said and (str(path) not in said or "\n" in said)):
            wrong.append(f"{kind}: {said or 'was answered'}")
        if seconds > SECONDS or grown > MEGABYTES:
            wrong.append(f"{kind}: {seconds:.2f} s, {grown:.0f} MB")
    assert not wrong
    refused = sum(bool(said) for said, _, _ in rows)
    worst = max(seconds for _, seconds, _ in rows)
    grown = max(grown for _, _, grown in rows)
    record(
        10,
        "image bombs",
        len(BOMBS),
        f"{refused} refused, {len(BOMBS) - refused} harmless (first frame or picture), "
        f"at most {worst:.2f} s of CPU and {grown:.0f} MB",
    )


@pytest.mark.long
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_largest_image_allowed_still_fits(tmp_path: Path, kind: str) -> None:
    """89 Mpx: what lies below the limit is decoded, in at most ten bytes a pixel."""
    path = tmp_path / "large"
    Image.new("RGB", (9_459, 9_459), "red").save(path, kind)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, timeout=120, env=HERE
    )
    ((said, _, grown),) = [json.loads(line) for line in done.stdout.splitlines()]
    assert said == "" and grown < 900
