"""`explain --boxes`: where the objects of photos are, and how much of each map lies in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.data.boxes import BoxColumns
    from regard.data.tables import Table
    from regard.evaluation.intervals import Metric
    from regard.explanation.inside import Inside

COLUMNS: dict[str, type] = {
    "path": str, "model": str, "method": str, "class": str, "inside": float, "area": float, "centre": float,
    "peak_inside": bool,
}  # fmt: skip


@dataclass(frozen=True)
class Boxes:
    """Boxes by photo: id -> (n, 4) left, top, right, bottom as shares of the upright photo, and the class of each.

    named: the table says of what class each box is. note: what of the table was used, in words.
    """

    of: dict[str, np.ndarray]
    classes: dict[str, tuple[str, ...]]
    named: bool
    note: str

    def seen(
        self, id_: str, class_: str, height: int, width: int, window: tuple[float, float, float, float]
    ) -> np.ndarray:
        """(n, 4) the boxes of a class in the window of a photo that a model sees, as shares of it, cut at its edges.

        All boxes of the photo where the table names no classes; none that lie outside.
        """
        boxes = self.of.get(id_, np.empty((0, 4)))
        if self.named:
            boxes = boxes[[name == class_ for name in self.classes.get(id_, ())]]
        left, top, right, bottom = window
        pixels = boxes * (width, height, width, height)
        shares = (pixels - (left, top, left, top)) / (right - left, bottom - top, right - left, bottom - top)
        shares = shares.clip(0, 1)
        return shares[(shares[:, 2] > shares[:, 0]) & (shares[:, 3] > shares[:, 1])]


class _Given(NamedTuple):
    """Boxes of a file, one after the other, of photos given.

    ids: of the photo of each; shares: (N, 4), NaN where the photo cannot be read; names: classes of each, or empty;
    unit: what they were there; strangers: how many photos of the file were not given.
    """

    ids: Sequence[str]
    shares: np.ndarray
    names: Sequence[str]
    unit: str
    strangers: int


def read_boxes(path: str | Path, ids: Sequence[str], files: Sequence[Path], classes: Sequence[str]) -> Boxes:
    """The boxes of the photos given: of a table (path, four columns of a box, perhaps class), a row each, or of COCO.

    Paths are relative to the table, or lie where COCO's usually do; boxes are pixels of the upright photo, or shares of
    it. classes: those of the models; categories of COCO that are none of them leave all boxes without a class. Raises
    RegardError for rows that are malformed, and where none is about a photo given.
    """
    path = Path(path)
    given = (
        _of_coco(path, ids, files, classes) if path.suffix.lower() == ".json" else _of_table(path, ids, files, classes)
    )
    found: dict[str, list[np.ndarray]] = {}
    named: dict[str, list[str]] = {}
    for number, id_ in enumerate(given.ids):
        if np.isfinite(given.shares[number]).all():  # else the photo cannot be read, and is named when it is looked at
            found.setdefault(id_, []).append(given.shares[number])
            named.setdefault(id_, []).append(given.names[number] if given.names else "")
    count = f"{len(given.ids):,} boxes of {len(found):,} photos, in {given.unit}"
    without = len(ids) - len(set(given.ids))
    rest = [f"{without:,} photos have none"] if without else []
    if given.strangers:
        rest.append(f"{given.strangers:,} of its photos are not among those given and are passed over")
    return Boxes(
        {id_: np.stack(rows) for id_, rows in found.items()},
        {id_: tuple(names) for id_, names in named.items()},
        bool(given.names),
        "; ".join([f"{path}: {count}", *rest]),
    )


def _of_table(path: Path, ids: Sequence[str], files: Sequence[Path], classes: Sequence[str]) -> _Given:
    from regard.data.boxes import BOX, box_columns, box_shares
    from regard.data.tables import TABLE_SUFFIXES, posix_id, read_table, some

    if path.suffix.lower() not in TABLE_SUFFIXES or not path.is_file():
        what = "is no table" if path.exists() else "no such file"
        raise RegardError(
            f"{path}: {what}; expected CSV, TSV or Parquet with path, {', '.join(BOX)} and perhaps class, or COCO's "
            "JSON"
        )
    table = read_table(path)
    place, columns = table.known("path"), box_columns(table.names)
    if place is None or columns is None:
        raise RegardError(
            f"{path}: no column of {'paths (path)' if place is None else 'boxes (' + ', '.join(BOX) + ')'}; "
            f"columns found: {some(table.names) or 'none'}"
        )
    known = {os.path.realpath(file): id_ for id_, file in zip(ids, files, strict=True)}
    of_row = [known.get(os.path.realpath(path.parent / name), "") for name in table.text(place)]
    rows = [row for row, id_ in enumerate(of_row) if id_]
    strangers = len({name for name, id_ in zip(table.text(place), of_row, strict=True) if not id_})
    if not rows:
        first = f" (first: {posix_id(path.parent / table.text(place)[0])})" if of_row else ""
        raise RegardError(
            f"{path}: none of the {len(ids):,} photos given is among the {strangers:,} of the table{first}; "
            "its paths are relative to the folder of the table"
        )
    corners = _corners(table, columns, rows)
    file_of = dict(zip(ids, files, strict=True))
    shares, unit = box_shares(
        path, corners, columns.sizes, [file_of[of_row[row]] for row in rows], [r + 2 for r in rows]
    )
    return _Given([of_row[row] for row in rows], shares, _names(table, rows, classes), unit, strangers)


def _of_coco(path: Path, ids: Sequence[str], files: Sequence[Path], classes: Sequence[str]) -> _Given:
    """Of an instance file: crowds, and boxes of which nothing lies in the image, are left out."""
    from regard.data.coco import coco_annotations, coco_folders, coco_images, read_coco

    document = read_coco(path)
    images = coco_images(document, path)
    known = {os.path.realpath(file): id_ for id_, file in zip(ids, files, strict=True)}
    folders = coco_folders(path, document)
    places = {
        key: [os.path.realpath(folder / str(entry["file_name"])) for folder in folders] for key, entry in images.items()
    }
    photo = {key: next((known[at] for at in some if at in known), "") for key, some in places.items()}
    if not any(photo.values()):
        raise RegardError(
            f"{path}: none of the {len(ids):,} photos given is among its {len(images):,} images; looked for them in "
            f"{', '.join(map(str, folders))}"
        )
    used, shares = [], []
    for entry in coco_annotations(document, images, ("image_id", "bbox", "category_id"), path):
        image = images[entry["image_id"]]
        if photo[entry["image_id"]] and not entry.get("iscrowd"):
            box = _share(entry, image, path)
            if box[2] > box[0] and box[3] > box[1]:
                used.append(entry)
                shares.append(box)
    names = {one.get("id"): str(one.get("name")) for one in document.get("categories") or () if isinstance(one, dict)}
    labels = [names.get(entry["category_id"], "") for entry in used]
    known_classes = set(labels) <= set(classes)
    return _Given(
        [photo[entry["image_id"]] for entry in used],
        np.array(shares, np.float64).reshape(-1, 4),
        labels if known_classes else [],
        "pixels" if known_classes else "pixels, of categories that are no classes of the model: every box counts",
        sum(not id_ for id_ in photo.values()),
    )


def _share(entry: dict[str, Any], image: dict[str, Any], path: Path) -> np.ndarray:
    """(4,) left, top, right, bottom as shares of the image, cut at its edges."""
    try:
        left, top, width, height = (float(value) for value in entry["bbox"])
        sides = np.array([image["width"], image["height"]] * 2, np.float64)
        found = np.array([left, top, left + width, top + height]) / np.where(sides > 0, sides, np.nan)
    except (TypeError, ValueError):
        found = np.full(4, np.nan)
    if not np.isfinite(found).all():
        raise RegardError(
            f"{path}: annotation {entry.get('id', '(no id)')}: its bbox is {entry['bbox']!r}; expected left, top, "
            "width, height in pixels"
        )
    return found.clip(0, 1)


def _corners(table: Table, columns: BoxColumns, rows: Sequence[int]) -> np.ndarray:
    """(N, 4) float64 of some rows."""
    from regard.data.targets import number

    cells = [table.text(table.names.index(name)) for name in columns.names]
    values = [[number(column[row]) for column in cells] for row in rows]
    for row, four in zip(rows, values, strict=True):
        for name, column, value in zip(columns.names, cells, four, strict=True):
            if value is None:
                raise RegardError(
                    f"{table.path}: row {row + 2}: column {name!r} holds {column[row]!r}, which is no finite number; "
                    "each row is one box"
                )
    return np.array(values, np.float64).reshape(-1, 4)


def _names(table: Table, rows: Sequence[int], classes: Sequence[str]) -> list[str]:
    """The class of each box; empty where the table has no column for it."""
    place = table.known("label")
    if place is None:
        return []
    text = table.text(place)
    strange = sorted({text[row] for row in rows} - set(classes))
    if strange:
        from regard.data.tables import some

        raise RegardError(
            f"{table.path}: column {table.names[place]!r} holds {some(list(map(repr, strange)))}, no class of the "
            f"model ({some(list(classes))}); rename it, or leave the column out: then every box counts"
        )
    return [text[row] for row in rows]


class MeanInside(NamedTuple):
    """Means over photos of what `explanation.inside` finds, with 95% intervals of what is measured on maps."""

    photos: int
    inside: Metric
    area: float
    centre: float
    peak_inside: Metric

    def cells(self) -> list[str]:
        """In words, under `HEAD`."""
        from regard.reporting.words import interval, percent

        share, peak = self.inside, self.peak_inside
        between = interval(share.low, share.high) or "one photo"
        shares = [percent(value) for value in (self.area, self.centre, peak.value)]
        return [f"{percent(share.value)} ({between})", *shares, f"{self.photos:,}"]


HEAD = ("in the box (95% interval)", "its area", "a centre map", "peak in it", "photos")


def summary(found: Sequence[Inside]) -> MeanInside:
    """The means over photos."""
    from regard.evaluation.intervals import proportion

    inside, area, centre, peaks = (np.array(values, np.float64) for values in zip(*found, strict=True))
    mean = _mean(inside)
    return MeanInside(len(found), mean, float(area.mean()), float(centre.mean()), proportion(peaks.sum(), len(found)))


def _mean(values: np.ndarray) -> Metric:
    from regard.evaluation.intervals import Metric, share_interval

    if len(values) < 2:
        return Metric(float(values.mean()))
    error = float(values.std(ddof=1)) / len(values) ** 0.5
    return share_interval(float(values.mean()), error, len(values))
