"""What is wrong with a data set before anything is trained on it. Every file is decoded once, in full.

`scan` looks at the pixels and is what takes time; `report` draws conclusions from it and a split. Scans of
files are kept under the user's cache folder, by the ids, sizes and times of the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from regard.data.decoding import ImageError, decode, open_image, read_bytes, reduction
from regard.data.duplicates import SIDE, SMALL, THRESHOLDS, find_duplicates, thumbnail
from regard.data.findings import (
    copies_in_test,
    duplicate_findings,
    group_findings,
    groups_in_test,
    odd_findings,
    unreadable_findings,
)
from regard.data.label_findings import label_counts, label_findings
from regard.data.sources import ImageSet
from regard.data.splits import PARTS, Split, split_images
from regard.data.tables import write_beside
from regard.errors import RegardError
from regard.results import CheckReport, Finding

DECODED_SIDE = 64  # pixels that are enough for a thumbnail of 32; a JPEG's whole stream is still read
FLAT = 2.0  # grey levels between the darkest and the lightest part of the thumbnail: one colour
CACHE_VERSION = 1  # raise when a scan measures something else
BLOCK = 1024  # images handed to the threads together

Progress = Callable[[int, int], None]


class Scan(NamedTuple):
    """What the pixels say, row by row of an image set; nothing here depends on labels or splits."""

    errors: dict[int, tuple[str, str]]  # row -> (code, message) of images that cannot be read
    sizes: np.ndarray  # (N, 2) int64 height and width in pixels, 0 where unreadable
    flat: tuple[int, ...]  # rows of one colour
    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]


class Look(NamedTuple):
    """One decoded image: what is kept of it."""

    content: str
    height: int
    width: int
    thumbnail: np.ndarray  # (32, 32) uint8


def check_images(
    images: ImageSet, split: Split | None = None, max_bad: float = 0.01, progress: Progress | None = None
) -> CheckReport:
    """Counts, unreadable files, duplicates, leaks, groups on both sides, label conflicts and odd images.

    split: as given by the user, else the one of seed 0, in which near-duplicates stay together. max_bad:
    share of files that may be unreadable before that is an error. progress(done, total) is called while files
    are decoded. An unreadable file is never an exception, only a finding. Raises RegardError where no image
    can be read at all.
    """
    return report(images, scan(images, progress), split, max_bad)


# looking at pixels


def scan(images: ImageSet, progress: Progress | None = None) -> Scan:
    """Decode every image once, in threads; or read what an earlier scan of the same files found."""
    cached = _cache_path(images)
    if cached is not None and (known := _read_cache(cached, len(images))) is not None:
        return known
    errors: dict[int, tuple[str, str]] = {}
    sizes = np.zeros((len(images), 2), dtype=np.int64)
    thumbnails = np.zeros((len(images), SIDE, SIDE), dtype=np.uint8)
    contents = [f"unreadable {row}" for row in range(len(images))]
    for row, found in enumerate(_look_at_all(images.sources)):
        if isinstance(found, Look):
            contents[row], sizes[row], thumbnails[row] = (
                found.content,
                (found.height, found.width),
                found.thumbnail,
            )
        else:
            errors[row] = found
        if progress is not None and ((row + 1) % 64 == 0 or row + 1 == len(images)):
            progress(row + 1, len(images))
    exact, near = find_duplicates(contents, thumbnails, sizes.min(axis=1) < SMALL)
    spread = np.ptp(thumbnails.reshape(len(images), -1), axis=1) if len(images) else np.empty(0)
    flat = tuple(row for row in np.flatnonzero(spread <= FLAT).tolist() if row not in errors)
    result = Scan(errors, sizes, flat, exact, near)
    if cached is not None:
        _write_cache(cached, result)
    return result


def _look_at_all(sources: Sequence[Any]) -> Iterator[Look | tuple[str, str]]:
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        for start in range(0, len(sources), BLOCK):
            rows = range(start, min(start + BLOCK, len(sources)))
            yield from threads.map(lambda row: _look(sources, row), rows)


def _look(sources: Sequence[Any], row: int) -> Look | tuple[str, str]:
    """One image, or (code, message) of why it cannot be read."""
    try:
        source = sources[row]
        content = read_bytes(source) if isinstance(source, Path) else source
        try:
            return _measure(content)
        except ImageError:
            if isinstance(source, Path):
                decode(source)  # once more from the file, whose error names it
            raise
    except ImageError as error:
        return error.code, str(error)


def _measure(content: bytes | np.ndarray) -> Look:
    opened = open_image(content)
    pixels = opened.pixels(reduction(min(opened.height, opened.width), DECODED_SIDE))
    data = content if isinstance(content, bytes) else content.tobytes() + str(content.shape).encode()
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Look(digest, opened.height, opened.width, thumbnail(pixels))


# the cache


def _cache_path(images: ImageSet) -> Path | None:
    """Where the scan of these files is kept; None for images that are no files."""
    key = hashlib.sha256(f"{CACHE_VERSION} {THRESHOLDS} {DECODED_SIDE} {FLAT}\n".encode())
    for id_, source in zip(images.ids, images.sources, strict=True):
        if not isinstance(source, Path):
            return None
        try:
            status = os.stat(source)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):
            state = "not there"
        key.update(f"{id_!r} {os.fsencode(os.path.abspath(source))!r} {state}\n".encode())
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "regard" / "checks" / f"{key.hexdigest()}.json"


def _read_cache(path: Path, count: int) -> Scan | None:
    """An earlier scan; None where there is none or it is damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
        rows = lambda groups: tuple(tuple(int(row) for row in group) for group in groups)  # noqa: E731
        errors = {int(row): (str(code), str(message)) for row, (code, message) in found["errors"].items()}
        sizes = np.array(found["sizes"], dtype=np.int64).reshape(count, 2)
        flat = rows([found["flat"]])[0]
        known = Scan(errors, sizes, flat, rows(found["exact"]), rows(found["near"]))
        inside = all(0 <= row < count for group in (errors, flat, *known.exact, *known.near) for row in group)
        return known if inside else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write_cache(path: Path, found: Scan) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, json.dumps({**found._asdict(), "sizes": found.sizes.tolist()}))
    except OSError:  # a full disk or a read-only home costs time, never the check
        return


# conclusions


def report(images: ImageSet, found: Scan, split: Split | None, max_bad: float) -> CheckReport:
    """Findings and counts of readable images, from a scan and a split (None: that of seed 0)."""
    readable = np.array([row for row in range(len(images)) if row not in found.errors], dtype=np.int64)
    if not len(readable):
        code, message = found.errors[0]
        raise RegardError(f"{images.name}: none of {len(images):,} images can be read (first: {message}; {code})")
    groups = tuple(tuple(images.ids[row] for row in group) for group in found.near)
    part, notes = _parts(images, readable, groups, split)
    counts = label_counts(images, part)
    leaked = sorted({*copies_in_test(found.near, part), *groups_in_test(images, part)})
    findings = [
        *unreadable_findings(images, found.errors, max_bad),
        *label_findings(images, counts, part),
        *group_findings(images, part),
        *duplicate_findings(images, found.exact, found.near, part),
        *odd_findings(images, found.sizes, found.flat, readable),
        *(Finding("listing", "note", note) for note in images.notes),
        *(Finding("split", "note", note) for note in notes),
    ]
    order = ("error", "warning", "note")
    return CheckReport(
        name=images.name,
        classes=images.classes,
        counts=counts,
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.severity))),
        unreadable=tuple(images.ids[row] for row in sorted(found.errors)),
        leaked=tuple(images.ids[row] for row in leaked),
        groups=groups,
        problem=images.problem,
        images={name: sum(one == name for one in part.values()) for name in PARTS},
    )


def _parts(
    images: ImageSet, readable: np.ndarray, groups: Sequence[Sequence[str]], split: Split | None
) -> tuple[dict[int, str], tuple[str, ...]]:
    """(split of every readable row in use, the split's notes)."""
    rows = np.arange(len(images))
    if split is None:
        rows, split = readable, split_images(images.select(readable), 0, groups)
    usable = set(readable.tolist())
    named = {part: rows[getattr(split, part)].tolist() for part in PARTS}
    return {row: part for part in PARTS for row in named[part] if row in usable}, split.notes
