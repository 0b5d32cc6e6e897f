"""All masks in one JSON file, as COCO describes instances; pycocotools reads it back to the same pixels.

Written part by part, so that any number of images passes in constant memory, and equal bytes for equal masks.
Beside COCO's own entries an annotation keeps what `rle` knows of it (predicted_iou, stability_score, ...) and the
number of its mask, which is that of the object where frames are followed. info.images is the folder that file names are
relative to, as seen from the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from regard.segmentation.formats.record import ImageMasks, class_names, class_of
from regard.segmentation.formats.rle import annotation


def write_coco(
    path: Path, records: Callable[[], Iterable[ImageMasks]], known: Sequence[str] = (), images: str = ""
) -> tuple[str, ...]:
    """Write the file, and return its classes.

    records: gives the images, twice the same; known: classes that come first, in this order; images: info.images.
    """
    found: set[str] = set()

    def listed() -> Iterator[dict[str, Any]]:
        for number, record in enumerate(records(), start=1):
            found.update(mask.name for mask in record.masks)
            yield {"id": number, "file_name": record.image, "height": record.height, "width": record.width}

    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps({"description": "masks by regard segment", "images": images})},\n')
        _array(file, "images", listed())
        classes = class_names(found, known)
        numbers = {name: number for number, name in enumerate(classes, start=1)}
        _array(file, "annotations", _annotations(records(), numbers))
        categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
        file.write(f'"categories": {json.dumps(categories)}}}\n')
    return classes


def _annotations(records: Iterable[ImageMasks], numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    count = 0
    for image, record in enumerate(records, start=1):
        for mask in record.masks:
            count += 1
            known = annotation(mask)
            known.pop("category", None)
            number = known.pop("id")
            about = {"id": count, "image_id": image, "category_id": numbers[class_of(mask)], "iscrowd": 0}
            yield about | known | {"number": number}


def _array(file: TextIO, name: str, entries: Iterable[dict[str, Any]]) -> None:
    """An entry of the outer object that is a list, one line for each of its own."""
    file.write(f'"{name}": [')
    before = "\n"
    for entry in entries:
        file.write(before + json.dumps(entry))
        before = ",\n"
    file.write("\n],\n")
