"""One JSON file per image, run lengths as COCO's compressed strings, in the layout of SA-1B's files.

    {"image": {"file_name", "height", "width"},
     "annotations": [{"id", "segmentation": {"size": [h, w], "counts"}, "area", "bbox": [x, y, w, h], "predicted_iou",
                      "stability_score", "point_coords", "crop_box": [x, y, w, h], "category", "category_score"}, ...]}

SA-1B: Kirillov et al., arXiv 2304.02643, section 5. What is not known of a mask is left out.
"""

from __future__ import annotations

import json
from typing import Any

from regard.errors import RegardError
from regard.masks import Mask, RunLengths
from regard.segmentation.formats.record import ImageMasks

DIGITS = 6  # of numbers after the point


def annotation(mask: Mask) -> dict[str, Any]:
    """A mask as SA-1B and COCO describe one."""
    found: dict[str, Any] = {
        "id": mask.number,
        "segmentation": {"size": [mask.runs.height, mask.runs.width], "counts": mask.runs.text},
        "area": mask.area,
        "bbox": _sides(mask.box),
        "predicted_iou": round(mask.predicted_iou, DIGITS),
    }
    if mask.stability is not None:
        found["stability_score"] = round(mask.stability, DIGITS)
    if mask.points:
        found["point_coords"] = [[round(x, DIGITS), round(y, DIGITS)] for x, y in mask.points]
    if mask.crop is not None:
        found["crop_box"] = _sides(mask.crop)
    if mask.name:
        found["category"] = mask.name
    if mask.score is not None:
        found["category_score"] = round(mask.score, DIGITS)
    return found


def encode(record: ImageMasks) -> str:
    """The file of an image."""
    image = {"file_name": record.image, "height": record.height, "width": record.width}
    return json.dumps({"image": image, "annotations": [annotation(mask) for mask in record.masks]}) + "\n"


def decode(text: str | bytes) -> ImageMasks:
    """What `encode` wrote. Raises RegardError for another text."""
    try:
        content = json.loads(text)
        image = content["image"]
        masks = tuple(_mask(one, image["height"], image["width"]) for one in content["annotations"])
        return ImageMasks(image["file_name"], image["height"], image["width"], masks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegardError(f"masks: not in the layout of SA-1B ({' '.join(str(error).split())[:80]})") from None


def _mask(one: dict[str, Any], height: int, width: int) -> Mask:
    crop = one.get("crop_box")
    return Mask(
        number=one["id"],
        runs=RunLengths.of_text(one["segmentation"]["counts"], height, width),
        predicted_iou=one["predicted_iou"],
        stability=one.get("stability_score"),
        points=tuple((x, y) for x, y in one.get("point_coords", ())),
        crop=None if crop is None else (crop[0], crop[1], crop[0] + crop[2], crop[1] + crop[3]),
        name=one.get("category", ""),
        score=one.get("category_score"),
    )


def _sides(box: tuple[int, int, int, int]) -> list[int]:
    """x0, y0, x1, y1 -> x, y, width, height."""
    x0, y0, x1, y1 = map(int, box)
    return [x0, y0, x1 - x0, y1 - y0]
