"""What is wrong with a data set before anything is trained on it. Every file is decoded once, in full.

`scan` looks at the pixels and is what takes time; `report` draws conclusions from it and a split. Scans of
files are kept under the user's cache folder, by the ids, sizes and times of the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from regard.data.decoding import ImageError, decode, open_image, read_bytes, reduction
from regard.data.duplicates import SIDE, SMALL, THRESHOLDS, find_duplicates, thumbnail
from regard.data.sources import ImageSet
from regard.data.splits import PARTS, Split, split_images
from regard.data.tables import write_beside
from regard.errors import RegardError
from regard.results import CheckReport, Finding

DECODED_SIDE = 64  # pixels that are enough for a thumbnail of 32; a JPEG's whole stream is still read
ASPECT = 5.0  # longer / shorter side above this is odd
TINY = 32  # shorter side below this is odd, where the typical image is twice as large or more
FAR = 16.0  # times more or fewer pixels than the median is odd
FLAT = 2.0  # grey levels between the darkest and the lightest part of the thumbnail: one colour
IMBALANCE = 10.0  # largest class / smallest class above this is a warning
FEW = 10  # training images of a class below this are a warning
CACHE_VERSION = 1  # raise when a scan measures something else
BLOCK = 1024  # images handed to the threads together

Progress = Callable[[int, int], None]
Severity = Literal["error", "warning", "note"]


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
    """Counts, unreadable files, duplicates, leaks, label conflicts and odd images.

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
    counts = _counts(images, part)
    leaked = _leaked(found.near, part)
    findings = [
        *_unreadable(images, found, max_bad),
        *_class_findings(images, counts),
        *_duplicate_findings(images, found, part, leaked),
        *_odd_findings(images, found, readable),
        *(Finding("ignored", "note", note) for note in images.notes),
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


def _counts(images: ImageSet, part: dict[int, str]) -> dict[str, dict[str, int]]:
    """split -> class -> readable images."""
    tally = Counter((split, int(images.labels[row])) for row, split in part.items())
    return {split: {name: tally[split, label] for label, name in enumerate(images.classes)} for split in PARTS}


def _leaked(near: Sequence[Sequence[int]], part: dict[int, str]) -> list[int]:
    """Test rows with a near-duplicate that is used for training or choosing."""
    leaked = []
    for group in near:
        parts = {part.get(row) for row in group}
        if parts & {"train", "val"}:
            leaked += [row for row in group if part.get(row) == "test"]
    return sorted(leaked)


def _unreadable(images: ImageSet, found: Scan, max_bad: float) -> Iterator[Finding]:
    by_code: dict[str, list[str]] = {}
    for row, (code, _) in sorted(found.errors.items()):
        by_code.setdefault(code, []).append(images.ids[row])
    for code, ids in sorted(by_code.items()):
        message = f"{_count(len(ids), 'file')} cannot be read: {code}"
        yield Finding("corrupt", "warning", message, tuple(ids))
    if (share := len(found.errors) / len(images)) > max_bad:
        bad = f"{len(found.errors):,} of {_count(len(images), 'file')} ({share:.1%}) cannot be read"
        yield Finding("too-many-corrupt", "error", f"{bad}, more than {max_bad:.1%}; replace or delete them")


def _class_findings(images: ImageSet, counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    total = {name: sum(counts[split][name] for split in PARTS) for name in images.classes}
    single = [name for name, count in total.items() if count == 1]
    if single:
        yield Finding("one-image-class", "error", f"a single image in class {', '.join(single)}; add images")
    for split in PARTS:
        absent = [name for name in images.classes if not counts[split][name]]
        if absent:
            severity = "warning" if split == "val" else "error"
            yield Finding("missing-class", severity, f"no {split} images of class {', '.join(absent)}")
    few = [f"{name} ({counts['train'][name]})" for name in images.classes if 0 < counts["train"][name] < FEW]
    if few:
        yield Finding("tiny-class", "warning", f"fewer than {FEW} training images of class {', '.join(few)}")
    largest, smallest = max(total, key=total.__getitem__), min(total, key=total.__getitem__)
    if 0 < total[smallest] < total[largest]:
        ratio = total[largest] / total[smallest]
        message = f"largest class {largest} ({total[largest]:,}) has {ratio:.1f} times the images of the smallest, "
        message += f"{smallest} ({total[smallest]:,})"
        yield Finding("imbalance", "warning" if ratio > IMBALANCE else "note", message)


def _duplicate_findings(
    images: ImageSet, found: Scan, part: dict[int, str], leaked: Sequence[int]
) -> Iterator[Finding]:
    def named(code: str, severity: Severity, rows: Sequence[int], message: str) -> Finding:
        return Finding(code, severity, message, tuple(images.ids[row] for row in rows))

    conflicts = [row for group in found.near if len(set(images.labels[list(group)])) > 1 for row in group]
    if conflicts:
        message = f"{len(conflicts):,} images are duplicates with different labels"
        yield named("label-conflict", "error", conflicts, f"{message}; correct the labels or delete copies")
    if leaked:
        message = f"{_count(len(leaked), 'test image')} with an exact or near duplicate in train or val"
        yield named("duplicate-across-splits", "error", leaked, f"{message}; delete one side of each")
    trained = [group for group in found.near if any(part.get(row) == "train" for row in group)]
    chosen = [row for group in trained for row in group if part.get(row) == "val"]
    if chosen:
        message = f"{_count(len(chosen), 'val image')} with an exact or near duplicate in train"
        yield named("duplicate-train-val", "warning", chosen, f"{message}; validation flatters the model")
    if found.exact:
        rows = [row for group in found.exact for row in group]
        message = f"{_count(len(rows), 'file')} in {_count(len(found.exact), 'group')} of equal files"
        yield named("exact-duplicate", "warning", rows, message)
    near = [group for group in found.near if group not in set(found.exact)]
    rows = [row for group in near for row in group]
    message = f"{_count(len(rows), 'image')} in {_count(len(near), 'group')} of near duplicates ({THRESHOLDS})"
    yield named("near-duplicate", "warning" if rows else "note", rows, message)


def _odd_findings(images: ImageSet, found: Scan, readable: np.ndarray) -> Iterator[Finding]:
    height, width = found.sizes[readable, 0], found.sizes[readable, 1]
    shorter, longer, area = np.minimum(height, width), np.maximum(height, width), height * width
    kinds = {
        f"with one side over {ASPECT:g} times the other": longer > ASPECT * shorter,
        f"tiny, shorter side below {TINY} px": (shorter < TINY) & (2 * shorter < np.median(shorter)),
        f"over {FAR:g} times larger than the median": area > FAR * np.median(area),
        f"over {FAR:g} times smaller than the median": area * FAR < np.median(area),
        "of one colour": np.isin(readable, found.flat),
    }
    for kind, odd in kinds.items():
        rows = readable[odd]
        if len(rows):
            yield Finding(
                "odd",
                "warning",
                f"{_count(len(rows), 'image')} {kind}",
                tuple(images.ids[row] for row in rows),
            )


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
