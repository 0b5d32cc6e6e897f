"""Which images train, choose and judge: the split of a comparison, its fractions, and `split.csv`.

Every draw orders images by a hash of (purpose, seed, id), so it depends on nothing but the seed and the
names: not on the order of files, not on a library's generator, and hardly on images added later. Draws are
stratified: by class, by the rarest label of each image, or by bins of its first number.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regard.data.draws import bundles_by_stratum, bundles_of, cut, deal
from regard.data.sources import ImageSet
from regard.data.tables import csv_writer, split_named, write_beside
from regard.errors import RegardError

SHARE = 0.15  # of the images for the test, and for validation (protocol 1)
PARTS = ("train", "val", "test")
COLUMNS = ("id", "class", "split")  # of split.csv


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
    cut as validation. Without splits 15% are the test and 15% validation. Cuts are stratified; the images of a
    group of the set, and the ids of one of `groups` (near-duplicates), stay together. The seed redraws the cut of
    validation, never the test. Raises RegardError where there are splits but none to train on, or a part is empty.
    """
    given = Counter(images.split)
    rows = {part: np.flatnonzero(np.array(images.split) == part) for part in PARTS}
    bundles = bundles_of(images, groups)
    if len(given) > 1 and not given["train"]:
        raise RegardError(f"{images.name}: splits {', '.join(sorted(given))} but none to train on; add a train folder")
    if len(given) == 3:
        split = Split(*(rows[part] for part in PARTS), notes=())
        origin = ("as given", "as given", "as given")
    elif len(given) == 2:
        held = "val" if given["val"] else "test"
        val = cut(images, rows["train"], bundles, SHARE, f"val {seed}")
        train = np.setdiff1d(rows["train"], val)
        split = Split(train, val, rows[held], ())
        share = f"{SHARE:.0%} of the given train, seed {seed}"
        origin = ("the rest of the given train", share, f"the given {held}, untouched until the end")
    else:
        every = np.arange(len(images))
        test = cut(images, every, bundles, SHARE, "test")
        pool = np.setdiff1d(every, test)
        val = cut(images, pool, bundles, SHARE / (1 - SHARE), f"val {seed}")
        split = Split(np.setdiff1d(pool, val), val, test, ())
        origin = (
            "the rest",
            f"{SHARE:.0%}, seed {seed}",
            f"{SHARE:.0%}, the same for every seed, untouched until the end",
        )
    _refuse_empty(images, split)
    return Split(split.train, split.val, split.test, _notes(split, origin))


def fold_images(
    images: ImageSet, folds: int, repeat: int = 0, groups: Iterable[Sequence[str]] = ()
) -> tuple[Split, ...]:
    """`folds` splits in which every image is once a test image; `repeat` (0, 1, ...) numbers another such division.

    Stratified; groups stay together as in `split_images`; 15% of what is no test is cut as validation. Raises
    RegardError for images that come with a test of their own, and where a fold would be empty or would train without
    one of the classes.
    """
    if folds < 2:
        raise RegardError(f"--folds {folds}: expected two or more")
    given = sorted(set(images.split) - {"", "train"})
    if given:
        raise RegardError(
            f"{images.name}: --folds makes every image a test image once, and these come with a given "
            f"{' and '.join(given)}; leave --folds out, or take the split out of the data"
        )
    bundles = bundles_of(images, groups)
    if len(bundles) < folds:
        raise RegardError(
            f"{images.name}: --folds {folds} of {len(bundles)} images or groups that stay together; use fewer folds"
        )
    splits = []
    for number, test in enumerate(deal(images, bundles, folds, f"folds {repeat}")):
        pool = np.setdiff1d(np.arange(len(images)), test)
        val = cut(images, pool, bundles, SHARE, f"val {repeat} of fold {number}")
        split = Split(np.setdiff1d(pool, val), val, test, ())
        _refuse_empty(images, split)
        _refuse_untrained(images, split, folds)
        fold = f"fold {number + 1} of {folds}, repeat {repeat}"
        origin = ("the rest", f"{SHARE:.0%} of the other folds", f"{fold}, untouched until the end")
        splits.append(Split(split.train, split.val, split.test, _notes(split, origin)))
    return tuple(splits)


def take_fraction(images: ImageSet, rows: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A sorted share of the rows: stratified (one or more per class, label or bin), redrawn by seed, nested.

    Of a set with groups, whole groups: those that come, in the order of the draw, nearest to the share.
    """
    if not 0 < fraction <= 1:
        raise RegardError(f"fraction {fraction:g}: expected more than 0 and at most 1")
    rows = np.asarray(rows, dtype=np.int64)
    strata = bundles_by_stratum(images, rows, bundles_of(images), f"fraction {seed}")
    taken: list[int] = []
    for stratum in strata.values():
        wanted = fraction * sum(map(len, stratum)) + 0.5
        before = 0
        for bundle in stratum:
            # One more where its middle lies inside the share: so larger shares only ever add.
            if before and before + (len(bundle) + 1) / 2 > wanted:
                break
            taken += bundle.tolist()
            before += len(bundle)
    return np.array(sorted(taken), dtype=np.int64)


def write_split(path: str | Path, images: ImageSet, split: Split) -> None:
    """Write `id,class,split`, one line per image in use, and `group` where there are groups; whole or not there.

    class: the name of the class; the labels with | between them; or the numbers with a space between them.
    """
    text = io.StringIO()
    write = csv_writer(text)
    write((*COLUMNS, "group") if images.groups else COLUMNS)
    for part in PARTS:
        for row in getattr(split, part):
            group = (images.groups[row],) if images.groups else ()
            write((images.ids[row], _label_text(images, row), part, *group))
    write_beside(Path(path), text.getvalue())


def _label_text(images: ImageSet, row: int) -> str:
    label = images.labels[row]
    if images.problem == "single_label":
        return images.classes[label]
    if images.problem == "multi_label":
        return "|".join(name for name, given in zip(images.classes, label, strict=True) if given > 0)
    return " ".join(f"{value:.9g}" for value in label)  # nine digits give back every float32


def read_split(path: str | Path, images: ImageSet) -> Split:
    """The split of a `split.csv`; RegardError where it and the images do not belong together."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header, lines = next(reader, []), list(reader)
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RegardError(f"{path}: cannot be read ({reason}); expected a CSV of id, class, split") from None
    if header not in ([*COLUMNS], [*COLUMNS, "group"]) or any(len(line) != len(header) for line in lines):
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
    for id_, label, word, *group in lines:
        row, part = number[id_], split_named(word)
        if part is None or id_ in seen:
            raise RegardError(f"{path}: {id_}: {'listed twice' if part else f'unknown split {word!r}'}")
        now = _label_text(images, row)
        if now != label:
            raise RegardError(f"{path}: {id_} was {label!r} and is {now!r} now; use the labels it was written for")
        if group and images.groups and group[0] != images.groups[row]:
            raise RegardError(
                f"{path}: {id_} was of group {group[0]!r} and is of {images.groups[row]!r} now; "
                "use the groups it was written for"
            )
        seen.add(id_)
        parts[part].append(row)
    train, val, test = (np.array(sorted(parts[part]), dtype=np.int64) for part in PARTS)
    split = Split(train, val, test, ())
    return Split(train, val, test, _notes(split, (f"as in {path}",) * 3))


def _refuse_empty(images: ImageSet, split: Split) -> None:
    for part in PARTS:
        if not len(getattr(split, part)):
            groups = f" in {len(set(images.groups)):,} groups" if images.groups else ""
            more = "groups to each class" if images.groups and images.problem == "single_label" else "images"
            raise RegardError(f"{images.name}: {len(images)} images{groups} leave none for {part}; add {more}")


def _refuse_untrained(images: ImageSet, split: Split, folds: int) -> None:
    """RegardError for classes that a fold would be tested on and not trained on."""
    if images.problem != "single_label":
        return
    absent = np.setdiff1d(images.labels[split.test], images.labels[split.train])
    if len(absent):
        names = ", ".join(images.classes[label] for label in absent)
        raise RegardError(
            f"{images.name}: --folds {folds}: one fold holds all of class {names} that could be trained on (groups and "
            "near-duplicates stay together); add images or groups of it, or leave the class out"
        )


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
