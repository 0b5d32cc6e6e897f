"""Everything mode: a click on each point of a grid, and of all masks those that are good, stable and not the same.

The rules and defaults are those of the paper (arXiv 2304.02643, appendix B) and of the code published with it
(facebookresearch/segment-anything, automatic_mask_generator.py), whose masks it gives in the same order. What differs
is the work: few prompts at a time, so that they stay in the caches; a mask is drawn only where its estimated IoU
passes, upsampled only where it can be, and kept as run lengths from then on, so that memory does not grow with points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torchvision.ops import batched_nms

from regard.data.decoding import ImageSource, decode
from regard.errors import RegardError
from regard.masks import Mask
from regard.segmentation.asking import Asked, Click, Clicks, Found, Keeper, click_size
from regard.segmentation.decoding import Decoder
from regard.segmentation.grids import crops_of
from regard.segmentation.options import Options
from regard.segmentation.pace import OnEvent, Progress
from regard.segmentation.regions import without_small_regions
from regard.segmentation.segmenter import Segmenter

__all__ = ["Click", "Clicks", "Everything", "Options", "everything", "record"]

DEFAULTS = Options()


@dataclass(frozen=True)
class Everything:
    """Masks of an image of height x width pixels, the best estimate of IoU first; clicks where they were wanted."""

    height: int
    width: int
    masks: tuple[Mask, ...] = field(repr=False)
    clicks: Clicks | None = field(default=None, repr=False)


@torch.no_grad()
def everything(
    segmenter: Segmenter,
    image: ImageSource,
    options: Options = DEFAULTS,
    on_event: OnEvent = lambda event: None,
    keep_clicks: bool = False,
) -> Everything:
    """All objects of an image.

    Args:
        segmenter: its precision is that of the decoder, too.
        image: as everywhere; in pixels of it are all results.
        options: thresholds and crops.
        on_event: is told of the points done, "done" of "total", with "seconds_left".
        keep_clicks: also keep the three masks of each point of the whole image, as small run lengths.

    Raises ImageError by name, and RegardError for an image with fewer pixels than crops.
    """
    pixels = decode(image)
    height, width = pixels.shape[:2]
    crops = crops_of(height, width, options.crop_n_layers, options.crop_overlap_ratio)
    if min(min(crop.size) for crop in crops) < 1:
        raise RegardError(
            f"crop_n_layers={options.crop_n_layers}: an image of {width} x {height} pixels cannot be cut so small"
        )
    decoder = Decoder(segmenter.model, segmenter.precision)
    progress = Progress(on_event, [len(options.grid(crop.layer)) for crop in crops])
    found: list[Found] = []
    clicks: list[Click] = []
    small = click_size(height, width)
    for crop in crops:
        embedded = segmenter.embed(np.ascontiguousarray(pixels[crop.y0 : crop.y1, crop.x0 : crop.x1]))
        progress.embedded()
        asked = Asked(segmenter, decoder, embedded, crop, (height, width), options)
        keeper = Keeper(segmenter, embedded, *small) if keep_clicks and crop.layer == 0 else None
        of_crop: list[Found] = []
        for points, masks in asked.masks(keeper):
            of_crop += masks
            progress.decoded(points)
        found += _without_doubles(of_crop, [mask.iou for mask in of_crop], options.box_nms_thresh)
        if keeper is not None:
            clicks = keeper.clicks
    if len(crops) > 1:
        found = _without_doubles(found, _smaller_first(found), options.crop_nms_thresh)
    if options.min_mask_region_area:
        found = _cleaned(found, options)
    masks = tuple(_mask(number, mask) for number, mask in enumerate(found, start=1))
    return Everything(height, width, masks, Clicks(*small, tuple(clicks)) if keep_clicks else None)


def record(
    mask: Mask, output_mode: Literal["binary_mask", "uncompressed_rle", "coco_rle"] = "binary_mask"
) -> dict[str, Any]:
    """A mask as the original writes it down; its boxes are x, y, width, height, from outermost pixel to outermost."""
    size = [mask.runs.height, mask.runs.width]
    forms: dict[str, Callable[[], Any]] = {
        "binary_mask": mask.runs.decode,
        "uncompressed_rle": lambda: {"size": size, "counts": mask.runs.counts.tolist()},
        "coco_rle": lambda: {"size": size, "counts": mask.runs.text},
    }
    if output_mode not in forms:
        raise RegardError(f"output_mode={output_mode!r}: expected one of {', '.join(forms)}")
    x0, y0, x1, y1 = mask.box
    left, top, right, bottom = mask.crop or (0, 0, mask.runs.width, mask.runs.height)
    return {
        "segmentation": forms[output_mode](),
        "area": mask.area,
        "bbox": [x0, y0, max(x1 - 1 - x0, 0), max(y1 - 1 - y0, 0)],
        "predicted_iou": mask.predicted_iou,
        "point_coords": [list(point) for point in mask.points],
        "stability_score": mask.stability,
        "crop_box": [left, top, right - left, bottom - top],
    }


def _without_doubles(found: list[Found], scores: Sequence[float], threshold: float) -> list[Found]:
    """Non-maximum suppression by boxes: the highest scores first, and of equal ones the first."""
    if not found:
        return []
    boxes = torch.tensor([mask.box for mask in found], dtype=torch.float32)
    kept = batched_nms(boxes, torch.tensor(scores, dtype=torch.float32), torch.zeros(len(found)), threshold)
    return [found[number] for number in kept.tolist()]


def _smaller_first(found: list[Found]) -> list[float]:
    sizes = (mask.crop.size for mask in found)
    return [1 / (height * width) for height, width in sizes]


def _cleaned(found: list[Found], options: Options) -> list[Found]:
    """Without small holes and islands, and without what has become a double; unchanged masks first."""
    cleaned, scores = [], []
    for mask in found:
        runs = without_small_regions(mask.runs, options.min_mask_region_area)
        if runs is not None:
            x0, y0, x1, y1 = runs.box
            mask = mask._replace(runs=runs, box=(x0, y0, x1 - 1, y1 - 1))
        cleaned.append(mask)
        scores.append(float(runs is None))
    return _without_doubles(cleaned, scores, max(options.box_nms_thresh, options.crop_nms_thresh))


def _mask(number: int, found: Found) -> Mask:
    part = found.crop.box if found.crop.layer else None
    return Mask(number, found.runs, found.iou, found.stability, (found.point,), part)
