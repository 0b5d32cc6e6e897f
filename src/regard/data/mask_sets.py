"""Images with the masks of their objects: from folders, COCO files, or made on the spot.

A folder holds `images/` and `masks/`, or train/, val/ and test/ with both. The masks of images/NAME.jpg are

    masks/NAME.png           a label map: each value above 0 is an object (black is none, in a PNG of colours too)
    masks/NAME/*.png         a file for each object: what is brighter than half
    masks/NAME_*.png         likewise, beside each other

A COCO file gives polygons or run lengths (its crowds are left out). Of a mask, (H, W) are those of the upright image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from regard.data.coco_masks import Outline, drawn, list_coco
from regard.data.decoding import ImageError, open_image
from regard.data.scenes import Scene, make_scene
from regard.data.sources import IMAGE_SUFFIXES, Chosen, ImageSet
from regard.data.tables import posix_id, some, split_named
from regard.errors import RegardError
from regard.masks import RunLengths

LAYOUTS = (
    "expected FOLDER/images and FOLDER/masks (NAME.png, a label map, or NAME/*.png, one for each object), a COCO file "
    "(.json), or scenes:NUMBER"
)
LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".gif")  # a JPEG changes the values
MOST_VALUES = 1000  # of a label map; more are shades of a smoothed one
SCENES = 4000
SCENE_SEED = 0


@dataclass(frozen=True)
class MaskSet:
    """N images and the objects in each.

    images: ids, sources, splits and notes, all of one class; objects: for each image its masks as they were given.
    """

    images: ImageSet
    objects: Sequence[tuple[Outline, ...]]

    def __len__(self) -> int:
        return len(self.images)

    def masks(self, row: int) -> tuple[RunLengths, ...]:
        """The masks of an image that are not empty. Raises RegardError where all are."""
        found = tuple(runs for runs in map(drawn, self.objects[row]) if runs.area)
        if not found:
            raise RegardError(f"{self.images.ids[row]}: all its masks are empty; draw an object or remove the image")
        return found

    def select(self, rows: Sequence[int] | np.ndarray) -> MaskSet:
        """The chosen images, in the order given."""
        return replace(self, images=self.images.select(rows), objects=Chosen(self.objects, np.asarray(rows)))


def open_masks(data: str | Path) -> MaskSet:
    """List images with masks: a folder, a COCO file, or scenes:NUMBER of our synthetic scenes. Raises RegardError."""
    text, path = str(data), Path(data)
    if text.split(":")[0] == "scenes" and not os.path.exists(path):
        return _scenes(text)
    if path.suffix.lower() == ".json" and os.path.isfile(path):
        found = list_coco(path)
        return _mask_set(path.stem, text, found.ids, found.files, found.objects, [""] * len(found.ids), found.notes)
    if os.path.isdir(path):
        return _folder(path, text)
    kind = "a file of another kind" if os.path.exists(path) else "no such folder or file"
    raise RegardError(f"{data}: {kind}; {LAYOUTS}")


def _mask_set(
    name: str,
    origin: str,
    ids: Sequence[str],
    sources: Sequence[Any],
    objects: Sequence[tuple[Outline, ...]],
    split: Sequence[str],
    notes: Sequence[str] = (),
) -> MaskSet:
    images = ImageSet(
        name=name,
        ids=tuple(ids),
        labels=np.zeros(len(ids), np.int64),
        classes=("image",),
        split=tuple(split),
        sources=sources,
        notes=tuple(notes),
        origin=origin,
    )
    return MaskSet(images, objects)


# scenes


class _Scenes(Sequence[Any]):
    """Something of each scene of a series, made when it is asked for."""

    def __init__(self, count: int, of: Callable[[Scene], Any]) -> None:
        self.length, self.of = count, of

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(self.length))]
        if not 0 <= row < self.length:
            raise IndexError(row)
        return self.of(_scene(int(row)))


@lru_cache(maxsize=64)
def _scene(number: int) -> Scene:
    return make_scene(SCENE_SEED, number)


def _pixels(scene: Scene) -> np.ndarray:
    return scene.image


def _runs(scene: Scene) -> tuple[RunLengths, ...]:
    return tuple(map(RunLengths.of, scene.masks))


def _scenes(text: str) -> MaskSet:
    word = text.partition(":")[2] or str(SCENES)
    if not word.isdecimal() or int(word) < 1:
        raise RegardError(f"{text}: expected scenes:NUMBER, for example scenes:{SCENES}")
    count = int(word)
    ids = [f"scenes/{number:06d}" for number in range(count)]
    return _mask_set("scenes", text, ids, _Scenes(count, _pixels), _Scenes(count, _runs), [""] * count)


# folders


def _folder(root: Path, text: str) -> MaskSet:
    """Images and masks of a folder, or of the splits in it."""
    splits = {folder: split_named(folder.name) for folder in _folders(root)}
    parts = {split: folder for folder, split in splits.items() if split is not None and (folder / "images").is_dir()}
    if (root / "images").is_dir():
        parts = {"": root}
    if not parts:
        raise RegardError(f"{root}: no folder images/ with a folder masks/ beside it; {LAYOUTS}")
    ids: list[str] = []
    files: list[Path] = []
    objects: list[tuple[Outline, ...]] = []
    given: list[str] = []
    notes: list[str] = []
    for split, folder in parts.items():
        images, masks = _pairs(folder, notes)
        for image in images:
            ids.append(posix_id(image.relative_to(root)))
            files.append(image)
            objects.append(tuple(_objects(image, masks[image.stem])))
            given.append(split)
    name = root.name if root.name not in ("", "..") else root.resolve().name
    return _mask_set(name, text, ids, files, objects, given, notes)


def _pairs(folder: Path, notes: list[str]) -> tuple[list[Path], dict[str, list[Path]]]:
    """The images that have masks, and the mask files of each by the image's name; what is left out joins the notes."""
    images = {file.stem: file for file in _files(folder / "images") if file.suffix.lower() in IMAGE_SUFFIXES}
    if not images:
        raise RegardError(f"{folder / 'images'}: no images; {LAYOUTS}")
    if not (folder / "masks").is_dir():
        raise RegardError(f"{folder}: no folder masks/ beside images/; {LAYOUTS}")
    masks: dict[str, list[Path]] = {}
    strangers: list[str] = []
    for file in _files(folder / "masks"):
        if file.suffix.lower() not in LOSSLESS:
            raise RegardError(f"{file}: masks are kept without loss ({', '.join(LOSSLESS)}); save it as PNG")
        stem = _image_of(file.stem, images)
        if stem is None:
            strangers.append(file.name)
        else:
            masks.setdefault(stem, []).append(file)
    for inner in _folders(folder / "masks"):
        if inner.name in images:
            masks.setdefault(inner.name, []).extend(_files(inner))
        else:
            strangers.append(f"{inner.name}/")
    without = [image.name for stem, image in images.items() if not masks.get(stem)]
    if len(without) == len(images):
        raise RegardError(
            f"{folder / 'masks'}: no masks for any of the {len(images):,} images (first: {without[0]}"
            f"{f'; masks: {some(strangers, 2)}' if strangers else ''}); a mask is called as its image"
        )
    if strangers:
        notes.append(
            f"{folder / 'masks'}: {len(strangers):,} are of no image and were passed over: {some(strangers, 5)}"
        )
    if without:
        notes.append(f"{folder / 'images'}: {len(without):,} without masks are left out: {some(without, 5)}")
    return [image for stem, image in images.items() if masks.get(stem)], masks


def _image_of(stem: str, images: Mapping[str, Path]) -> str | None:
    """The image that a mask file is of: the one of its name, or of its name up to a "_"."""
    while stem not in images:
        stem, mark, _ = stem.rpartition("_")
        if not mark:
            return None
    return stem


def _objects(image: Path, files: Sequence[Path]) -> Iterator[RunLengths]:
    """Masks of one image from its files. Raises RegardError for one that is empty, damaged or of another size."""
    opened = open_image(image)
    alone = len(files) == 1 and files[0].stem == image.stem and files[0].parent.name == "masks"
    for file in files:
        values = _values(file)
        if values.shape != (opened.height, opened.width):
            turned = " (the image is turned by its EXIF entry; masks are of what one sees)"
            raise RegardError(
                f"{file}: {values.shape[1]} x {values.shape[0]} pixels, but its image {image.name} has "
                f"{opened.width} x {opened.height}{turned if values.shape == (opened.width, opened.height) else ''}"
            )
        masks = _by_value(file, values) if alone else [values > values.max() / 2]
        if not values.any() or not masks:
            raise RegardError(f"{file}: empty: no pixel of it is an object; draw one, or remove the file")
        yield from map(RunLengths.of, masks)


def _by_value(file: Path, values: np.ndarray) -> list[np.ndarray]:
    """A mask (H, W) for each value of a label map but 0."""
    found = np.unique(values)
    found = found[found > 0]
    if len(found) > MOST_VALUES:
        raise RegardError(
            f"{file}: {len(found):,} different values, where each is an object; save the label map without smoothing"
        )
    return [values == value for value in found]


def _values(file: Path) -> np.ndarray:
    """(H, W) integers of a mask's file: palette numbers, grey levels, or a number for each colour (black is 0)."""
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image if image.mode in ("P", "L", "I;16", "I", "1") else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"{file}: cannot be read as a mask ({str(error).splitlines()[0]}); save it as PNG") from None
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    red, green, blue = np.moveaxis(pixels.astype(np.int64), 2, 0)
    return red * 65536 + green * 256 + blue


def _files(folder: Path) -> list[Path]:
    return [one for one in _entries(folder) if one.is_file()]


def _folders(folder: Path) -> list[Path]:
    return [one for one in _entries(folder) if one.is_dir()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    except OSError as error:
        raise RegardError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
