"""The files that `segment` makes: some of each photo at once, those of all photos when the last one is done."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from regard.verbs.segmenting.answers import Answer, Failure
from regard.verbs.segmenting.folder import Folder, refused
from regard.verbs.tables import atomic_file, table_writer

if TYPE_CHECKING:
    from regard.segmentation.formats.record import ImageMasks
    from regard.verbs.segmenting.photos import Photos

Format = Literal["png", "rle", "coco", "yolo"]
ERRORS: dict[str, type] = {"image": str, "error": str, "message": str}


@dataclass(frozen=True)
class Outputs:
    """known: classes in the order in which they are numbered, others follow."""

    folder: Folder
    photos: Photos
    format: Format
    known: Sequence[str] = ()

    def of_photo(self, place: int, pixels: np.ndarray, masks: ImageMasks) -> None:
        """What needs the photo's pixels, (H, W, 3) uint8."""
        if self.format == "png":
            from regard.segmentation.formats import png
            from regard.segmentation.formats.overlay import overlay

            labels = png.label_map(masks)
            self.folder.put(self._label_map(place), png.encode(labels))
            self.folder.put(f"overlays/{self.photos.names[place]}.jpg", overlay(pixels, masks, labels))

    def of_all(self) -> None:
        """What is made of all answers; the same again where it was interrupted."""
        {"png": self._png, "rle": self._rle, "coco": self._coco, "yolo": self._yolo}[self.format]()
        failures = [answer for _, answer in self._answers() if isinstance(answer, Failure)]
        if failures:
            with table_writer(self.folder.path / "errors.csv", ERRORS) as write:
                for failure in failures:
                    write({"image": failure.image, "error": failure.code, "message": failure.message})
        self._measured()

    def _measured(self) -> None:
        """The table of what was measured of explanations."""
        rows = ({"image": one.masks.image, **one.measured} for _, one in self._good() if one.measured)
        first = next(rows, None)
        if first is not None:
            columns = {name: type(value) for name, value in first.items()}
            with table_writer(self.folder.path / "explained.csv", columns) as write:
                write(first)
                for row in rows:
                    write(row)

    def _png(self) -> None:
        from PIL import Image

        from regard.segmentation.formats import png

        with table_writer(self.folder.path / "index.csv", png.COLUMNS) as write:
            for place, answer in self._good():
                file = self._label_map(place)
                with Image.open(self.folder.path / file) as image:
                    labels = np.asarray(image)
                for row in png.rows(answer.masks, labels, file.replace(os.sep, "/")):
                    write(row)

    def _rle(self) -> None:
        from regard.segmentation.formats import rle

        for place, answer in self._good():
            self.folder.put(f"masks/{self.photos.names[place]}.json", rle.encode(answer.masks))

    def _coco(self) -> None:
        from regard.segmentation.formats.coco import write_coco

        images = os.path.relpath(self.photos.root, self.folder.path).replace(os.sep, "/")
        with atomic_file(self.folder.path / "annotations.json") as beside:
            write_coco(beside, self._records, self.known, images)

    def _yolo(self) -> None:
        from regard.segmentation.formats import yolo
        from regard.segmentation.formats.record import class_names

        classes = class_names((mask.name for record in self._records() for mask in record.masks), self.known)
        numbers = {name: number for number, name in enumerate(classes)}
        for place, answer in self._good():
            name, path = self.photos.names[place], os.path.abspath(self.photos.path(place))
            self.folder.put(f"labels/{name}.txt", yolo.encode(answer.masks, numbers))
            _link(path, self.folder.path / "images" / f"{name}{os.path.splitext(path)[1]}")
        self.folder.put("data.yaml", yolo.data_yaml(classes))

    def _label_map(self, place: int) -> str:
        return f"masks/{self.photos.names[place]}.png"

    def _records(self) -> Iterator[ImageMasks]:
        return (answer.masks for _, answer in self._good())

    def _good(self) -> Iterator[tuple[int, Answer]]:
        return ((place, answer) for place, answer in self._answers() if isinstance(answer, Answer))

    def _answers(self) -> Iterator[tuple[int, Answer | Failure]]:
        return self.folder.answers(len(self.photos))


def _link(source: str, link: Path) -> None:
    """A link to a photo, or a copy where the file system has no links."""
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(source)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(source, link)
    except OSError as error:
        raise refused(link, error) from None
