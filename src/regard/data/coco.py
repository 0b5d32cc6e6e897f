"""COCO's instance files: their lists of images and annotations, checked, and the folders where the images may lie."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regard.data.tables import some
from regard.errors import RegardError


def read_coco(path: Path) -> Mapping[str, Any]:
    """The document; RegardError where it cannot be read or has no images and annotations."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RegardError(f"{path}: cannot be read ({reason}); expected a COCO file") from None
    if not isinstance(document, dict) or not {"images", "annotations"} <= document.keys():
        raise RegardError(f"{path}: no COCO file: it needs the lists images and annotations")
    return document


def _entries(document: Mapping[str, Any], name: str, needed: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """The entries of a list, each a dictionary with what is needed."""
    entries = document[name]
    if not isinstance(entries, list):
        raise RegardError(f"{path}: {name} is no list; expected a COCO file")
    for number, entry in enumerate(entries):
        missing = [key for key in needed if key not in entry] if isinstance(entry, dict) else list(needed)
        if missing:
            raise RegardError(f"{path}: {name} {number}: lacks {some(missing)}; expected a COCO file")
    return entries


def coco_images(document: Mapping[str, Any], path: Path) -> dict[Any, dict[str, Any]]:
    """The images by their ids, each with file_name, height and width."""
    return {entry["id"]: entry for entry in _entries(document, "images", ("id", "file_name", "height", "width"), path)}


def coco_annotations(
    document: Mapping[str, Any], images: Mapping[Any, object], needed: Sequence[str], path: Path
) -> list[dict[str, Any]]:
    """The annotations, each with what is `needed` and of one of the images."""
    found = _entries(document, "annotations", needed, path)
    for entry in found:
        if entry["image_id"] not in images:
            raise RegardError(f"{path}: an annotation is of image {entry['image_id']!r}, which is not among its images")
    return found


def coco_folders(path: Path, document: Mapping[str, Any]) -> list[Path]:
    """Where images usually lie: beside the file, in images/ there, in both of its parent, in the folder of its subset
    (train2017 of instances_train2017.json), and where info.images says, as `regard segment` writes it.
    """
    info = document.get("info")
    named = str(info.get("images") or "") if isinstance(info, dict) else ""
    near, subset = path.resolve().parent, path.stem.removeprefix("instances_")
    folders = [near, near / "images", near.parent, near.parent / "images", near.parent / subset, near / subset]
    return [*folders, near / named] if named else folders
