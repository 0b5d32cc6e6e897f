"""Which images train, choose and judge: the split of a comparison, its fractions, and `split.csv`.

Every draw orders images by a hash of (purpose, seed, id), so it depends on nothing but the seed and the
names: not on the order of files, not on a library's generator, and hardly on images added later.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regard.data.sources import ImageSet
from regard.data.tables import split_named, write_beside
from regard.errors import RegardError

SHARE = 0.15  # of the images for the test, and for validation (protocol 1)
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Row numbers of an image set, sorted, disjoint; notes: one line per choice, naming its images."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...]


def split_images(images: ImageSet, seed: int, groups: Iterable[Sequence[str]] = ()) -> Split:
    """Train, validation and test rows.

    Three given splits are used as they are. Of two, the second (val or test) is the test, and 15% of train is
    cut as validation. Without splits 15% are the test and 15% validation. Cuts are stratified by class; the
    ids of one group (near-duplicates) stay together. The seed redraws the cut of validation, never the test.
    Raises RegardError where there are splits but none to train on.
    """
    given = Counter(images.split)
    rows = {part: np.flatnonzero(np.array(images.split) == part) for part in PARTS}
    bundles = [np.asarray(bundle) for bundle in _bundles(images, groups)]
    if len(given) > 1 and not given["train"]:
        raise RegardError(f"{images.name}: splits {', '.join(sorted(given))} but none to train on; add a train folder")
    if len(given) == 3:
        split = Split(*(rows[part] for part in PARTS), notes=())
        origin = ("as given", "as given", "as given")
    elif len(given) == 2:
        held = "val" if given["val"] else "test"
        val = _cut(images, rows["train"], bundles, SHARE, f"val {seed}")
        train = np.setdiff1d(rows["train"], val)
        split = Split(train, val, rows[held], ())
        cut = f"{SHARE:.0%} of the given train, seed {seed}"
        origin = ("the rest of the given train", cut, f"the given {held}, untouched until the end")
    else:
        every = np.arange(len(images))
        test = _cut(images, every, bundles, SHARE, "test")
        pool = np.setdiff1d(every, test)
        val = _cut(images, pool, bundles, SHARE / (1 - SHARE), f"val {seed}")
        split = Split(np.setdiff1d(pool, val), val, test, ())
        origin = (
            "the rest",
            f"{SHARE:.0%}, seed {seed}",
            f"{SHARE:.0%}, the same for every seed, untouched until the end",
        )
    _refuse_empty(images, split)
    return Split(split.train, split.val, split.test, _notes(split, origin))


def take_fraction(images: ImageSet, rows: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A sorted share of the rows: stratified (one or more per class), redrawn by seed, nested."""
    if not 0 < fraction <= 1:
        raise RegardError(f"fraction {fraction:g}: expected more than 0 and at most 1")
    rows = np.asarray(rows, dtype=np.int64)
    taken: list[int] = []
    for label in np.unique(images.labels[rows]):
        members = sorted(rows[images.labels[rows] == label], key=lambda row: _key(f"fraction {seed}", images.ids[row]))
        taken += members[: max(1, int(fraction * len(members) + 0.5))]
    return np.array(sorted(taken), dtype=np.int64)


def write_split(path: str | Path, images: ImageSet, split: Split) -> None:
    """Write `id,class,split`, one line per image in use; the file is whole or not there."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "class", "split"))
    for part in PARTS:
        writer.writerows((images.ids[row], images.classes[images.labels[row]], part) for row in getattr(split, part))
    write_beside(Path(path), text.getvalue())


def read_split(path: str | Path, images: ImageSet) -> Split:
    """The split of a `split.csv`; RegardError where it and the images do not belong together."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header, lines = next(reader, []), list(reader)
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RegardError(f"{path}: cannot be read ({reason}); expected a CSV of id, class, split") from None
    if header != ["id", "class", "split"] or any(len(line) != 3 for line in lines):
        raise RegardError(f"{path}: not a split file; expected a CSV of id, class, split")
    number = {id_: row for row, id_ in enumerate(images.ids)}
    unknown = [line[0] for line in lines if line[0] not in number]
    if unknown:
        raise RegardError(
            f"{path}: {len(unknown):,} of its {len(lines):,} images are not in {images.name} "
            f"(first: {unknown[0]}); use the images it was written for"
        )
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    seen: set[str] = set()
    for id_, label, word in lines:
        row, part = number[id_], split_named(word)
        if part is None or id_ in seen:
            raise RegardError(f"{path}: {id_}: {'listed twice' if part else f'unknown split {word!r}'}")
        if images.classes[images.labels[row]] != label:
            now = images.classes[images.labels[row]]
            raise RegardError(f"{path}: {id_} was {label!r} and is {now!r} now; use the labels it was written for")
        seen.add(id_)
        parts[part].append(row)
    train, val, test = (np.array(sorted(parts[part]), dtype=np.int64) for part in PARTS)
    split = Split(train, val, test, ())
    return Split(train, val, test, _notes(split, (f"as in {path}",) * 3))


def _key(purpose: str, id_: str) -> bytes:
    return hashlib.blake2b(f"{purpose}\0{id_}".encode(), digest_size=8).digest()


def _bundles(images: ImageSet, groups: Iterable[Sequence[str]]) -> list[list[int]]:
    """All rows in bundles that stay together: one row, or those of overlapping groups; skips unknown ids."""
    number = {id_: row for row, id_ in enumerate(images.ids)}
    bundle_of: dict[int, list[int]] = {}
    for group in groups:
        members = sorted({number[id_] for id_ in group if id_ in number})
        joined = list(dict.fromkeys(one for row in members for one in bundle_of.get(row, [row])))
        for row in joined:
            bundle_of[row] = joined
    return [bundle_of.get(row, [row]) for row in range(len(images)) if bundle_of.get(row, [row])[0] == row]


def _cut(images: ImageSet, rows: np.ndarray, bundles: list[np.ndarray], share: float, purpose: str) -> np.ndarray:
    """A stratified share of the rows, sorted; a bundle goes with the class that most of its images have.

    Each class gives its quota as nearly as whole bundles allow, at least one image, and keeps at least one.
    """
    inside = np.zeros(len(images), dtype=bool)
    inside[rows] = True
    strata: dict[int, list[np.ndarray]] = {}
    for bundle in bundles:
        present = bundle[inside[bundle]]
        if len(present):
            strata.setdefault(int(np.bincount(images.labels[present]).argmax()), []).append(present)
    quotas = _quotas({label: sum(map(len, stratum)) for label, stratum in strata.items()}, share)
    taken: list[int] = []
    for label, stratum in strata.items():
        stratum.sort(key=lambda bundle: _key(purpose, min(images.ids[row] for row in bundle)))
        taken += _fill(stratum, quotas[label])
    return np.array(sorted(taken), dtype=np.int64)


def _quotas(counts: dict[int, int], share: float) -> dict[int, int]:
    """Images per class that add up to the share of all (largest remainders); of two or more at least one."""
    exact = {label: share * count for label, count in counts.items()}
    quotas = {label: int(value) for label, value in exact.items()}
    missing = int(sum(exact.values()) + 0.5) - sum(quotas.values())
    for label in sorted(exact, key=lambda label: (quotas[label] - exact[label], label))[:missing]:
        quotas[label] += 1
    return {label: max(quotas[label], 1) if counts[label] > 1 else 0 for label in counts}


def _fill(stratum: list[np.ndarray], quota: int) -> list[int]:
    """Rows of bundles that, taken in order, come nearest to the quota; one bundle is always left."""
    taken: list[int] = []
    left = len(stratum)
    for bundle in stratum:
        if left > 1 and len(bundle) < 2 * (quota - len(taken)):
            taken += bundle.tolist()
            left -= 1
    if not taken and quota and left > 1:
        taken = min(stratum, key=len).tolist()
    return taken


def _refuse_empty(images: ImageSet, split: Split) -> None:
    for part in PARTS:
        if not len(getattr(split, part)):
            raise RegardError(f"{images.name}: {len(images)} images leave none for {part}; add images")


def _notes(split: Split, origin: tuple[str, ...]) -> tuple[str, ...]:
    uses = (
        "training",
        "stopping, head strength, temperature, thresholds and choice of a winner",
        "the final score",
    )
    return tuple(
        f"{part}: {len(getattr(split, part)):,} images ({where}), for {use}"
        for part, where, use in zip(PARTS, origin, uses, strict=True)
    )
