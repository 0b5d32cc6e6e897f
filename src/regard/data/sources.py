"""From what a user points at to labelled rows: class folders, tables, and data sets that come by name.

Images are only listed here, never copied, moved or decoded.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, overload

import numpy as np

from regard.data.groups import describe_groups, groups_by_pattern
from regard.data.labels import number_labels, strata_of
from regard.data.published import list_digits, list_torchvision
from regard.data.table_listing import list_table
from regard.data.tables import TABLE_SUFFIXES, Listing, Source, posix_id, some, split_named
from regard.errors import RegardError
from regard.results import Problem, ProblemChoice

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
NO_CONTENT = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"))
LAYOUTS = "expected FOLDER/<class>/*, FOLDER/{train,val,test}/<class>/*, or a CSV or Parquet table (path, label)"
MISSING = "no such folder or table"


@dataclass(frozen=True)
class ImageSet:
    """N labelled images, row by row.

    ids: unique and stable, the POSIX path relative to the root or "digits/0007"; labels: (N,) int64 into
    `classes` (sorted names), or (N, K) float32 where the problem is multi_label or regression (as in
    `Predictions`); split: "train", "val", "test" as given, "" where the data came without; sources: a path or
    an HxWx3 uint8 array per row; notes: one line for each thing that was left out or decided while listing. groups: the
    patient, camera or product of each row, or none at all; slices: further columns to report by; boxes: the
    numbers are x0, y0, x1, y1 as shares of the upright photo's width and height; origin: the data as they were named.
    """

    name: str
    ids: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    split: tuple[str, ...]
    sources: Sequence[Source]
    notes: tuple[str, ...] = ()
    problem: Problem = "single_label"
    groups: tuple[str, ...] = ()
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    boxes: bool = False
    origin: str = ""

    @property
    def strata(self) -> np.ndarray:
        """(N,) int64 for stratified draws: the class, the rarest label (K for none), or the bin of the first number."""
        if self.problem == "single_label":
            return self.labels
        return strata_of(self.labels, self.problem == "multi_label")

    def select(self, rows: Sequence[int] | np.ndarray) -> ImageSet:
        """The chosen rows, in the order given; classes and labels keep their numbers."""
        rows = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            labels=self.labels[rows],
            split=tuple(self.split[row] for row in rows),
            sources=Chosen(self.sources, rows),
            groups=tuple(self.groups[row] for row in rows) if self.groups else (),
            slices={name: tuple(cells[row] for row in rows) for name, cells in self.slices.items()},
        )

    def __len__(self) -> int:
        return len(self.ids)


class Chosen(Sequence[Any]):
    """Some elements of a sequence, fetched when they are asked for."""

    def __init__(self, source: Sequence[Any], rows: np.ndarray):
        # A choice of a choice refers to the origin, so that layers do not pile up.
        self.source = source.source if isinstance(source, Chosen) else source
        self.rows = source.rows[rows] if isinstance(source, Chosen) else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> Any: ...
    @overload
    def __getitem__(self, row: slice) -> Chosen: ...
    def __getitem__(self, row: int | slice) -> Any:
        return Chosen(self.source, self.rows[row]) if isinstance(row, slice) else self.source[int(self.rows[row])]


def open_images(
    data: str | Path,
    classes: Sequence[str] | None = None,
    *,
    target: Sequence[str] = (),
    problem: ProblemChoice = "auto",
    group: str | None = None,
    slices: Sequence[str] = (),
) -> ImageSet:
    """List labelled images.

    data: a folder `root/<class>/*` or `root/{train,val,test}/<class>/*` (training, valid, validation, dev,
    eval and testing mean the same), a CSV, TSV or Parquet table (path, label columns, optionally split), "digits"
    (scikit-learn's), or "torchvision:NAME". Images may lie in nested folders below their class; hidden files
    and folders are passed over. classes: those of a trained run. Labels are matched by name, and any
    difference is an error with both lists (a label that no photo has is none, where photos have several).

    Of a table only: target: its label columns; else one called label (or class, target, category), or four columns
    of a box (x0, y0, x1, y1; xmin, ymin, xmax, ymax; x, y, w, h with the left upper corner; ...). problem: what they
    are, "auto" decides and says so in the notes. Several labels are names between | or ; in one cell, lists, rows
    of one image, or 0/1 columns. slices: columns to report by. group: a column, or (of any data) a regular
    expression whose first parenthesis, else whole match, in the id is the group. Raises RegardError.
    """
    text = str(data)
    path = Path(data)
    table = path.suffix.lower() in TABLE_SUFFIXES and not os.path.isdir(path)
    if table and os.path.exists(path):
        return _image_set(list_table(path, classes, target, problem, group, slices), classes, text)
    if text.startswith("torchvision:"):
        listing = list_torchvision(text.removeprefix("torchvision:"))
    elif text == "digits" and not os.path.exists(path):
        listing = list_digits()
    elif os.path.isdir(path):
        listing = _list_folder(path)
    elif not os.path.exists(path):
        raise RegardError(f"{data}: {MISSING}{_nearest(path)}")
    else:
        raise RegardError(f"{data}: a file, not a folder; {LAYOUTS}")
    for flag, value in (("--target", target), ("--slices", slices)):
        if value:
            raise RegardError(f"{data}: {flag} {','.join(value)} names columns of a table, and this is none")
    if problem not in ("auto", "single_label"):
        raise RegardError(
            f"{data}: --problem {problem} needs a table of labels (CSV or Parquet: path, label); "
            "in folders each image has one class"
        )
    if group is not None:
        groups = groups_by_pattern(listing.name, listing.ids, group)
        note = describe_groups(groups, f"pattern {group!r}")
        listing = listing._replace(groups=groups, notes=(*listing.notes, note))
    return _image_set(listing, classes, text)


def list_photos(paths: Sequence[str | Path]) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """(ids, files) of photos without labels, in the order given.

    A file counts whatever its suffix (the decoder judges it); of a folder, the images in it and below,
    sorted. An id is the path as it was given; one given twice gets "#2". Raises RegardError for what does not
    exist and folders without images.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if os.path.isdir(path):
            below = [file for file in _walk(path) if file.suffix.lower() in IMAGE_SUFFIXES]
            if not below:
                raise RegardError(f"{path}: no images in this folder")
            files += below
        elif os.path.lexists(path):  # a dangling link too: it keeps its row, with an error
            files.append(path)
        else:
            raise RegardError(f"{path}: no such file or folder{_nearest(path)}")
    if not files:
        raise RegardError("no photos given; name files or folders")
    return _unique([posix_id(file) for file in files]), tuple(files)


def _unique(ids: list[str]) -> tuple[str, ...]:
    """Ids made different by #2, #3 where they repeat."""
    taken = set(ids)
    if len(taken) == len(ids):
        return tuple(ids)
    seen: set[str] = set()
    result = []
    for id_ in ids:
        unique, number = id_, 1
        while unique in seen or (number > 1 and unique in taken):
            number += 1
            unique = f"{id_}#{number}"
        seen.add(unique)
        result.append(unique)
    return tuple(result)


# folders


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in NO_CONTENT


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """(folders, files) in a folder, sorted, without hidden ones."""
    try:
        found = sorted(one for one in folder.iterdir() if not _hidden(one.name))
    except OSError as error:
        raise RegardError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    return [one for one in found if one.is_dir()], [one for one in found if not one.is_dir()]


def _walk(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """All files below a folder in sorted order; linked folders are followed, circles are not."""
    here = os.path.realpath(folder)
    if here in above:
        return
    folders, files = _entries(folder)
    yield from files
    for inner in folders:
        yield from _walk(inner, above | {here})


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _list_folder(root: Path) -> Listing:
    """Rows of a folder of class folders, with or without splits above them."""
    folders, files = _entries(root)
    if not folders and not files:
        raise RegardError(f"{root}: an empty folder; {LAYOUTS}")
    _refuse_loose_images(root, files, folders)
    if not folders:
        raise RegardError(f"{root}: no images in it; {LAYOUTS}")
    splits = [folder for folder in folders if _is_split(folder)]
    if splits and len(splits) < len(folders):
        others = [folder.name for folder in folders if folder not in splits]
        raise RegardError(
            f"{root}: splits ({some([one.name for one in splits])}) and other folders ({some(others)}) "
            "side by side; move the others away, or rename the class that is called like a split"
        )
    parts = _split_folders(root, splits) if splits else {"": root}
    ids: list[str] = []
    labels: list[str] = []
    given: list[str] = []
    sources: list[Path] = []
    suffixes: Counter[str] = Counter()
    empty: dict[str, list[str]] = {}
    for split, folder in parts.items():
        for class_folder, images in _class_folders(folder, suffixes):
            label = unicodedata.normalize("NFC", class_folder.name)
            if not images:
                empty.setdefault(label, []).append(str(class_folder))
            ids += [posix_id(file.relative_to(root)) for file in images]
            labels += [label] * len(images)
            given += [split] * len(images)
            sources += images
    if not ids:
        raise RegardError(f"{root}: no images in its {len(folders)} folders{_others(suffixes)}; {LAYOUTS}")
    if without := sorted(set(empty) - set(labels)):
        raise RegardError(f"{root}: no images in class folder {some(without)}{_others(suffixes)}; fill or delete it")
    notes = (f"{sum(suffixes.values()):,} files are no images and were passed over{_others(suffixes)}",)
    name = root.name if root.name not in ("", "..") else root.resolve().name
    return Listing(name, ids, labels, given, sources, notes if suffixes else ())


def _is_split(folder: Path) -> bool:
    """Whether a folder is a split rather than a class: by its name, and by holding folders but no images."""
    if split_named(folder.name) is None:
        return False
    folders, files = _entries(folder)
    return bool(folders) or not any(_is_image(file) for file in files)


def _split_folders(root: Path, folders: list[Path]) -> dict[str, Path]:
    """Folders by the split they name, in the order train, val, test."""
    parts: dict[str, Path] = {}
    for folder in folders:
        split = split_named(folder.name) or ""
        if split in parts:
            raise RegardError(f"{root}: {parts[split].name} and {folder.name} both mean {split}; keep one of them")
        parts[split] = folder
    return {split: parts[split] for split in ("train", "val", "test") if split in parts}


def _class_folders(folder: Path, suffixes: Counter[str]) -> Iterator[tuple[Path, list[Path]]]:
    """(class folder, its images); `suffixes` counts the files that are none."""
    folders, files = _entries(folder)
    _refuse_loose_images(folder, files, folders)
    for class_folder in folders:
        files = list(_walk(class_folder))
        suffixes.update(file.suffix.lower() or "no suffix" for file in files if not _is_image(file))
        yield class_folder, [file for file in files if _is_image(file)]


def _refuse_loose_images(folder: Path, files: list[Path], folders: list[Path]) -> None:
    loose = [file.name for file in files if _is_image(file)]
    if not loose:
        return
    beside = "beside its folders" if folders else "and no class folders"
    raise RegardError(f"{folder}: images directly in it ({some(loose, 2)}) {beside}; {LAYOUTS}")


def _others(suffixes: Counter[str]) -> str:
    listed = [f"{count:,} {suffix}" for suffix, count in suffixes.most_common()]
    return f" ({some(listed, 5)})" if listed else ""


def _nearest(path: Path) -> str:
    """What exists that the user may have meant, as the end of an error line."""
    parent = path.absolute().parent
    while not os.path.isdir(parent) and parent != parent.parent:
        path, parent = parent, parent.parent
    try:
        names = sorted(one for one in os.listdir(parent) if not _hidden(one))
    except OSError:
        names = []
    close = get_close_matches(path.name, [*names, "digits"], n=3, cutoff=0.5)
    place = parent if str(parent) != os.getcwd() else "this folder"
    if close:
        return f"; nearest in {place}: {', '.join(close)}"
    return f"; {place} holds {some(names, 5) or 'nothing'}"


# rows to a data set


def _image_set(listing: Listing, classes: Sequence[str] | None, origin: str) -> ImageSet:
    """Check what every kind of source has in common, and number the labels."""
    name, splits = listing.name, listing.splits
    if not len(listing.ids):
        raise RegardError(f"{name}: no images listed")
    if "" in splits and len(set(splits)) > 1:
        without = sum(split == "" for split in splits)
        raise RegardError(f"{name}: {without:,} of {len(splits):,} images have no split; give one to all or to none")
    labels, ordered = number_labels(listing, classes)
    if classes is None and len(listing.groups) > 1 and len(set(listing.groups)) == 1:
        raise RegardError(f"{name}: all images are of one group ({listing.groups[0]}); a split needs three or more")
    return ImageSet(
        name=name,
        ids=_unique(list(listing.ids)),
        labels=labels,
        classes=ordered,
        split=tuple(splits),
        sources=listing.sources,
        notes=listing.notes,
        problem=listing.problem,
        groups=listing.groups,
        slices=listing.slices,
        boxes=listing.boxes,
        origin=origin,
    )
