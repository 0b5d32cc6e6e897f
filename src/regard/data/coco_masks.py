"""COCO's instance files: which images there are, and the masks of their objects as polygons or run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from regard.data.coco import coco_annotations, coco_folders, coco_images, read_coco
from regard.data.decoding import open_image
from regard.data.tables import some
from regard.errors import RegardError
from regard.masks import RunLengths

FINER = 4  # times that a pixel is divided each way to decide whether half of it lies inside a polygon


@dataclass(frozen=True)
class Polygons:
    """An object's outline: polygons of (n, 2) x, y in pixels, edges of the image at 0 and its width and height."""

    height: int
    width: int
    parts: tuple[np.ndarray, ...]


Outline = RunLengths | Polygons


class CocoListing(NamedTuple):
    """Images that have objects, in the order of the file; ids are COCO's file names."""

    ids: list[str]
    files: list[Path]
    objects: list[tuple[Outline, ...]]
    notes: tuple[str, ...]


def drawn(outline: Outline) -> RunLengths:
    """The pixels that lie inside by half or more."""
    if isinstance(outline, RunLengths):
        return outline
    corners = np.concatenate(outline.parts)
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, (outline.width, outline.height))
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int), low, (outline.width, outline.height))
    width, height = (high - low).tolist()
    mask = np.zeros((outline.height, outline.width), bool)
    if width and height:
        canvas = Image.new("1", (FINER * width, FINER * height))
        draw = ImageDraw.Draw(canvas)
        for part in outline.parts:
            # Pillow's pixel i lies around i, not between i and i + 1.
            draw.polygon(list(map(tuple, ((part - low) * FINER - 0.5).tolist())), fill=1)
        shares = np.asarray(canvas, np.float32).reshape(height, FINER, width, FINER).mean(axis=(1, 3))
        mask[low[1] : high[1], low[0] : high[0]] = shares >= 0.5
    return RunLengths.of(mask)


def list_coco(path: Path) -> CocoListing:
    """The images and objects of an instance file; RegardError in one line where it is none, or names missing images.

    Images are looked for in `regard.data.coco.coco_folders`.
    """
    document = read_coco(path)
    images = coco_images(document, path)
    objects: dict[Any, list[Outline]] = {}
    crowds = shapeless = 0
    for entry in coco_annotations(document, images, ("image_id",), path):
        if entry.get("iscrowd"):
            crowds += 1
        elif not entry.get("segmentation"):
            shapeless += 1
        else:
            image = images[entry["image_id"]]
            objects.setdefault(entry["image_id"], []).append(_outline(entry, image, path))
    used = [entry for id_, entry in images.items() if id_ in objects]
    if not used:
        raise RegardError(
            f"{path}: no object with a segmentation; expected COCO's instances with polygons or run lengths"
        )
    files = _files(path, [entry["file_name"] for entry in used], document)
    for entry, file in zip(used, files, strict=True):
        opened = open_image(file)
        if (opened.height, opened.width) != (entry["height"], entry["width"]):
            raise RegardError(
                f"{path}: {entry['file_name']} is {entry['width']} x {entry['height']} there, and the image "
                f"{opened.width} x {opened.height}; masks and image must be of one size"
            )
    notes = [
        f"{path.name}: {count:,} {what} left out"
        for count, what in (
            (len(images) - len(used), "images without objects are"),
            (crowds, "crowds are"),
            (shapeless, "annotations without a segmentation are"),
        )
        if count
    ]
    ids = [str(entry["file_name"]) for entry in used]
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise RegardError(f"{path}: {twice}: two images have this file name; give each its own")
    return CocoListing(ids, files, [tuple(objects[entry["id"]]) for entry in used], tuple(notes))


def _outline(entry: Mapping[str, Any], image: Mapping[str, Any], path: Path) -> Outline:
    """Polygons, compressed or plain run lengths."""
    segmentation, (height, width) = entry["segmentation"], (image["height"], image["width"])
    where = f"{path}: annotation {entry.get('id', '(no id)')} of {image['file_name']}"
    try:
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != [height, width]:
                raise RegardError(f"its size is {segmentation['size']}, the image's [{height}, {width}]")
            counts = segmentation["counts"]
            if isinstance(counts, str):
                return RunLengths.of_text(counts, height, width)
            return RunLengths(height, width, np.array(counts, np.int64))
        parts = tuple(np.array(part, np.float64).reshape(-1, 2) for part in segmentation)
        if any(len(part) < 3 or not np.isfinite(part).all() for part in parts):
            raise RegardError("a polygon needs three corners or more, as numbers")
        return Polygons(int(height), int(width), parts)
    except RegardError as error:
        raise RegardError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError):
        raise RegardError(f"{where}: its segmentation is neither polygons nor run lengths") from None


def _files(path: Path, names: Sequence[str], document: Mapping[str, Any]) -> list[Path]:
    """The image files, all in one of the folders where they may lie; RegardError with those that are missing."""
    missing: list[list[str]] = []
    for root in (roots := coco_folders(path, document)):
        absent = [name for name in names if not (root / name).is_file()]
        if not absent:
            return [root / name for name in names]
        missing.append(absent)
    fewest = min(missing, key=len)
    where = roots[missing.index(fewest)]
    raise RegardError(
        f"{path}: {len(fewest):,} of {len(names):,} images are missing in {where}: {some(fewest, 5)}; put them there "
        "or remove their entries"
    )
