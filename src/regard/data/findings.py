"""What `check` concludes about files, copies and groups; about labels: `label_findings`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from regard.data.duplicates import THRESHOLDS
from regard.data.groups import rows_of_groups
from regard.data.sources import ImageSet
from regard.data.tables import some
from regard.results import Finding

ASPECT = 5.0  # longer / shorter side above this is odd
TINY = 32  # shorter side below this is odd, where the typical image is twice as large or more
FAR = 16.0  # times more or fewer pixels than the median is odd
APART = 0.1  # standard deviations of a number between copies of one picture: above it their labels disagree

Severity = Literal["error", "warning", "note"]
Groups = Sequence[Sequence[int]]  # rows that are copies of one picture, in groups


def count(number: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def named(images: ImageSet, code: str, severity: Severity, rows: Sequence[int], message: str) -> Finding:
    """A finding about some rows."""
    return Finding(code, severity, message, tuple(images.ids[row] for row in rows))


def unreadable_findings(images: ImageSet, errors: Mapping[int, tuple[str, str]], max_bad: float) -> Iterator[Finding]:
    """Files that cannot be read, by reason; errors: row -> (code, message)."""
    by_code: dict[str, list[int]] = {}
    for row, (code, _) in sorted(errors.items()):
        by_code.setdefault(code, []).append(row)
    for code, rows in sorted(by_code.items()):
        yield named(images, "corrupt", "warning", rows, f"{count(len(rows), 'file')} cannot be read: {code}")
    if (share := len(errors) / len(images)) > max_bad:
        bad = f"{len(errors):,} of {count(len(images), 'file')} ({share:.1%}) cannot be read"
        yield Finding("too-many-corrupt", "error", f"{bad}, more than {max_bad:.1%}; replace or delete them")


def copies_in_test(near: Groups, part: Mapping[int, str]) -> list[int]:
    """Test rows with a near-duplicate that is used for training or choosing; part: row -> split."""
    return sorted(row for group in near for row in _in_test(group, part))


def groups_in_test(images: ImageSet, part: Mapping[int, str]) -> list[int]:
    """Test rows of which other images of their group are used for training or choosing."""
    return sorted(row for rows in rows_of_groups(images.groups).values() for row in _in_test(rows, part))


def _in_test(rows: Sequence[int], part: Mapping[int, str]) -> list[int]:
    shared = any(part.get(row) in ("train", "val") for row in rows)
    return [row for row in rows if part.get(row) == "test"] if shared else []


def group_findings(images: ImageSet, part: Mapping[int, str]) -> Iterator[Finding]:
    """Groups that given splits divide, and how many groups the test has."""
    if not images.groups:
        return
    leaked = groups_in_test(images, part)
    if leaked:
        groups = list(dict.fromkeys(images.groups[row] for row in leaked))
        message = f"{count(len(leaked), 'test image')} of {count(len(groups), 'group')} with other images in train or "
        message += f"val ({some(groups, 5)}); they are left out of scoring; give each group to one split"
        yield named(images, "group-across-splits", "error", leaked, message)
    trained = {images.groups[row] for row, name in part.items() if name == "train"}
    chosen = [row for row, name in part.items() if name == "val" and images.groups[row] in trained]
    if chosen:
        groups = list(dict.fromkeys(images.groups[row] for row in chosen))
        message = f"{count(len(chosen), 'val image')} of {count(len(groups), 'group')} with other images in train"
        yield named(images, "group-train-val", "warning", chosen, f"{message}; validation flatters the model")
    tested = [images.groups[row] for row, name in part.items() if name == "test"]
    if len(set(tested)) < len(tested):
        message = f"the {len(tested):,} test images are of {count(len(set(tested)), 'group')}: images of one group are "
        message += "alike, so the figures are less sure than so many images suggest"
        yield Finding("groups-in-test", "note", message)


def duplicate_findings(images: ImageSet, exact: Groups, near: Groups, part: Mapping[int, str]) -> Iterator[Finding]:
    """Copies with different labels, copies on both sides of a split, and all others."""
    yield from _conflicts(images, near, part)
    if leaked := copies_in_test(near, part):
        message = f"{count(len(leaked), 'test image')} with an exact or near duplicate in train or val"
        yield named(images, "duplicate-across-splits", "error", leaked, f"{message}; delete one side of each")
    trained = [group for group in near if any(part.get(row) == "train" for row in group)]
    chosen = [row for group in trained for row in group if part.get(row) == "val"]
    if chosen:
        message = f"{count(len(chosen), 'val image')} with an exact or near duplicate in train"
        yield named(images, "duplicate-train-val", "warning", chosen, f"{message}; validation flatters the model")
    if exact:
        rows = [row for group in exact for row in group]
        message = f"{count(len(rows), 'file')} in {count(len(exact), 'group')} of equal files"
        yield named(images, "exact-duplicate", "warning", rows, message)
    known = set(exact)
    others = [group for group in near if group not in known]
    rows = [row for group in others for row in group]
    message = f"{count(len(rows), 'image')} in {count(len(others), 'group')} of near duplicates ({THRESHOLDS})"
    yield named(images, "near-duplicate", "warning" if rows else "note", rows, message)


def _conflicts(images: ImageSet, near: Groups, part: Mapping[int, str]) -> Iterator[Finding]:
    if images.problem == "regression":
        values = images.labels.astype(np.float64)
        limit = APART * np.nanstd(values[sorted(part)], axis=0) if part else 0.0
        rows = [row for group in near if (np.ptp(values[list(group)], axis=0) > limit).any() for row in group]
        message = (
            f"{len(rows):,} images are duplicates with different numbers (over {APART:g} standard deviations apart)"
        )
        if rows:
            yield named(images, "label-conflict", "warning", rows, f"{message}; correct them or delete copies")
        return
    rows = [row for group in near if (images.labels[list(group)] != images.labels[group[0]]).any() for row in group]
    if rows:
        message = f"{len(rows):,} images are duplicates with different labels; correct the labels or delete copies"
        yield named(images, "label-conflict", "error", rows, message)


def odd_findings(images: ImageSet, sizes: np.ndarray, flat: Sequence[int], readable: np.ndarray) -> Iterator[Finding]:
    """Images of unusual shape, size or content; sizes: (N, 2) height and width."""
    height, width = sizes[readable, 0], sizes[readable, 1]
    shorter, longer, area = np.minimum(height, width), np.maximum(height, width), height * width
    kinds = {
        f"with one side over {ASPECT:g} times the other": longer > ASPECT * shorter,
        f"tiny, shorter side below {TINY} px": (shorter < TINY) & (2 * shorter < np.median(shorter)),
        f"over {FAR:g} times larger than the median": area > FAR * np.median(area),
        f"over {FAR:g} times smaller than the median": area * FAR < np.median(area),
        "of one colour": np.isin(readable, flat),
    }
    for kind, odd in kinds.items():
        rows = readable[odd].tolist()
        if rows:
            yield named(images, "odd", "warning", rows, f"{count(len(rows), 'image')} {kind}")
