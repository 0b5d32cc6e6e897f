"""Clicks on the points of a crop, some at a time, and what of their masks is good and stable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regard.masks import RunLengths
from regard.models.sam import FOREGROUND, Prompts
from regard.segmentation.decoding import Decoder
from regard.segmentation.frame import THRESHOLD
from regard.segmentation.grids import Crop
from regard.segmentation.options import Options
from regard.segmentation.segmenter import Embedded, Segmenter
from regard.segmentation.upsampling import Part, Upsampler

ALTERNATIVES = slice(1, None)  # the masks of one click; mask 0 is for several prompts
EDGE = 20  # pixels: a mask so near to the edge of a crop, and not of the image, is cut off by it
NOTHING = np.zeros((0, 0), bool)
CLICK_SIDE = 512  # pixels at most of the masks kept for clicks; the decoder's own have 256

Size = tuple[int, int]


class Found(NamedTuple):
    """A mask on its way; box: x0, y0, x1, y1 of its outermost pixels (not beyond them), in the image."""

    runs: RunLengths
    iou: float
    stability: float
    point: tuple[float, float]
    crop: Crop
    box: tuple[int, int, int, int]


class Asked:
    """The clicks on one crop of an image of `size` (height, width), decoded some at a time.

    points: (n, 2) x, y in pixels of the crop.
    """

    def __init__(
        self, segmenter: Segmenter, decoder: Decoder, embedded: Embedded, crop: Crop, size: Size, options: Options
    ) -> None:
        self.points = options.grid(crop.layer) * crop.size[::-1]
        self._segmenter, self._decoder, self._embedded = segmenter, decoder, embedded
        self._crop, self._size, self._options = crop, size, options
        self._upsampler = Upsampler(embedded.frame, segmenter.model.mask_sides, segmenter.device)

    def masks(self, keeper: Keeper | None = None) -> Iterator[tuple[int, list[Found]]]:
        """After some clicks at a time, how many they were, and of their masks those that pass on their own."""
        for start in range(0, len(self.points), self._options.points_per_batch):
            points = self.points[start : start + self._options.points_per_batch]
            yield len(points), list(self._of(points, keeper))

    def _of(self, points: np.ndarray, keeper: Keeper | None) -> Iterator[Found]:
        prompts = Prompts(torch.from_numpy(points)[:, None], torch.full((len(points), 1), FOREGROUND))
        read = self._decoder.read(self._embedded.embedding, self._segmenter.place(self._embedded.frame, prompts))
        estimates = read.iou[:, ALTERNATIVES]  # (P, 3)
        least = self._options.pred_iou_thresh
        passing = estimates > (least if least > 0 else -torch.inf)
        drawn = passing.any(dim=1) if keeper is None else torch.ones_like(passing[:, 0])
        if not drawn.any():
            return
        logits = self._decoder.draw(read, drawn, ALTERNATIVES)  # (drawn, 3, 4h, 4w)
        if keeper is not None:
            keeper.keep(points, logits, estimates)
        rows = drawn.nonzero()[:, 0]
        for row, column in passing[drawn].nonzero().tolist():
            number = int(rows[row])
            found = self._look(logits[row, column], float(estimates[number, column]), points[number])
            if found is not None:
                yield found

    def _look(self, logits: Tensor, iou: float, point: np.ndarray) -> Found | None:
        """The mask, where it is stable and no edge of the crop cuts it off."""
        offset = self._options.stability_score_offset
        part = self._upsampler.part(logits, THRESHOLD - offset)
        stability = _stability(part, offset)
        least = np.float32(self._options.stability_score_thresh)
        if least > 0 and not stability >= least:
            return None
        height, width = self._size
        left, top = self._crop.x0, self._crop.y0
        pixels, x, y = _pixels(part)
        box = (left + x, top + y, left + x + max(pixels.shape[1] - 1, 0), top + y + max(pixels.shape[0] - 1, 0))
        if _cut_off(box, self._crop, (0, 0, width, height)):
            return None
        runs = RunLengths.of_part(pixels, left + x, top + y, height, width)
        place = float(point[0]) + left, float(point[1]) + top
        return Found(runs, iou, float(stability), place, self._crop, box)


def _stability(part: Part | None, offset: float) -> np.float32:
    """IoU of the masks at thresholds above and below; not-a-number where both are empty."""
    if part is None:
        return np.float32("nan")
    strict = np.count_nonzero(part.values > THRESHOLD + offset)
    loose = np.count_nonzero(part.values > THRESHOLD - offset)
    return np.float32(strict) / np.float32(loose) if loose else np.float32("nan")


def _pixels(part: Part | None) -> tuple[np.ndarray, int, int]:
    """The mask, cut to its own box (h, w), with the place x, y of its first pixel; (0, 0) where it is empty."""
    inside = NOTHING if part is None else part.values > THRESHOLD  # (w, h)
    columns, rows = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if part is None or not len(columns):
        return NOTHING, 0, 0
    own = inside[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1]
    return own.T, part.x + int(columns[0]), part.y + int(rows[0])


def _cut_off(box: tuple[int, ...], crop: Crop, image: tuple[int, ...]) -> bool:
    sides = zip(box, crop.box, image, strict=True)
    return any(abs(side - of_crop) <= EDGE < abs(side - of_image) for side, of_crop, of_image in sides)


@dataclass(frozen=True)
class Click:
    """What one click gives: its place (x, y) in pixels of the image, its three masks and their estimated IoUs."""

    point: tuple[float, float]
    masks: tuple[RunLengths, ...] = field(repr=False)
    iou: tuple[float, ...]


@dataclass(frozen=True)
class Clicks:
    """The answers to a grid of clicks on the whole image, of none of which a mask was dropped.

    height, width: pixels of their masks: the image's, scaled down where its longer side has more than 512.
    """

    height: int
    width: int
    clicks: tuple[Click, ...] = field(repr=False)


class Keeper:
    """Gathers the three masks of each click at a bounded size."""

    def __init__(self, segmenter: Segmenter, embedded: Embedded, height: int, width: int) -> None:
        self.clicks: list[Click] = []
        self._upsampler = Upsampler(embedded.frame, segmenter.model.mask_sides, segmenter.device, height, width)

    def keep(self, points: np.ndarray, logits: Tensor, estimates: Tensor) -> None:
        """points: (P, 2) in the image; logits: (P, 3, 4h, 4w); estimates: (P, 3)."""
        for point, masks, iou in zip(points.tolist(), logits, estimates.tolist(), strict=True):
            runs = tuple(self._runs(mask) for mask in masks)
            self.clicks.append(Click((point[0], point[1]), runs, tuple(iou)))

    def _runs(self, logits: Tensor) -> RunLengths:
        height, width = self._upsampler.height, self._upsampler.width
        return RunLengths.of_part(*_pixels(self._upsampler.part(logits, THRESHOLD)), height, width)


def click_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the masks kept for clicks on an image."""
    scale = min(1.0, CLICK_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
