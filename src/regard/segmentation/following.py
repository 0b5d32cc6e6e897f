"""Objects followed through the frames of a film: what was found in one is what is asked for in the next.

Each object keeps its number. In a new frame it is asked for by its mask in the last, as the decoder drew it, by the
innermost point of that mask and by its box, somewhat enlarged. Nothing of a frame is kept but these. An object of which
the model expects too little, or sees nothing, is lost, and is not looked for again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regard.data.decoding import ImageError, ImageSource, decode
from regard.errors import RegardError
from regard.masks import Mask, RunLengths
from regard.models.sam import FOREGROUND, Masks, Prompts
from regard.segmentation.frame import Frame
from regard.segmentation.regions import innermost
from regard.segmentation.segmenter import Segmenter

LOST_BELOW = 0.5  # predicted IoU
ENLARGED = 0.1  # of its sides, by which a box grows in each direction: as far as an object may move between two frames
SURE = 8.0  # logit of a pixel that is given as belonging to a mask


@dataclass(frozen=True)
class Followed:
    """Of one frame: the masks of the objects in view, under their numbers; the numbers of those that are lost since it.

    error: why the frame could not be used, "" where it was; the next one is asked as if it had not been there.
    """

    masks: tuple[Mask, ...] = ()
    lost: tuple[int, ...] = ()
    error: str = ""


class Follower:
    """Follows objects from frame to frame, given the first: (H, W, 3) uint8 or any other image, with their masks.

    lost_below: the predicted IoU under which an object is lost; logits: of an earlier follower, to go on where it was
    when the first frame was its last. Raises RegardError for masks of another size, and empty ones.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        first: ImageSource,
        masks: Sequence[Mask],
        lost_below: float = LOST_BELOW,
        logits: Mapping[int, Tensor] | None = None,
    ) -> None:
        height, width = decode(first).shape[:2]
        self.segmenter, self.lost_below = segmenter, lost_below
        self.frame = Frame(height, width, segmenter.model.img_size)
        for mask in masks:
            if (mask.runs.height, mask.runs.width) != (height, width) or not mask.area:
                raise RegardError(
                    f"mask {mask.number}: {mask.runs.width} x {mask.runs.height} pixels, {mask.area:,} of them inside; "
                    f"expected an object in the first frame, which has {width} x {height}"
                )
        self._objects = {mask.number: mask for mask in masks}  # as they were seen last
        if logits is None:
            self._logits = {mask.number: self._given(mask) for mask in masks}  # (4h, 4w) each
        else:
            self._logits = {mask.number: logits[mask.number].to(segmenter.device) for mask in masks}

    @property
    def following(self) -> tuple[int, ...]:
        """Numbers of the objects that are not lost."""
        return tuple(self._objects)

    @property
    def logits(self) -> Mapping[int, Tensor]:
        """By the numbers of objects, their masks (4h, 4w) as the decoder drew them last."""
        return dict(self._logits)

    def step(self, image: ImageSource) -> Followed:
        """The next frame. Raises ImageError by name, and RegardError for a frame of another size."""
        pixels = decode(image)
        if pixels.shape[:2] != (self.frame.height, self.frame.width):
            height, width = pixels.shape[:2]
            raise RegardError(
                f"frame: {width} x {height} pixels, the first has {self.frame.width} x {self.frame.height}; "
                "the frames of a film have one size"
            )
        if not self._objects:
            return Followed()
        embedded = self.segmenter.embed(pixels)
        found = self.segmenter.choose(self.segmenter.decode(embedded, self._prompts()), multimask_output=False)
        return self._take(found)

    def _prompts(self) -> Prompts:
        """One of each object that is not lost."""
        seen = list(self._objects.values())
        points = np.array([[innermost(mask.runs)] for mask in seen])
        boxes = np.array([self._enlarged(mask.box) for mask in seen])
        return Prompts(
            torch.from_numpy(points),
            torch.full((len(seen), 1), FOREGROUND),
            torch.from_numpy(boxes),
            torch.stack([self._logits[mask.number] for mask in seen])[:, None],
        )

    def _take(self, found: Masks) -> Followed:
        """What was found becomes what is asked for next."""
        lost = []
        for mask, logits, iou in zip(tuple(self._objects.values()), found.logits[:, 0], found.iou[:, 0], strict=True):
            runs = RunLengths.of(self.frame.masks(logits[None])[0].cpu().numpy())
            if float(iou) < self.lost_below or not runs.area:
                lost.append(mask.number)
                del self._objects[mask.number], self._logits[mask.number]
            else:
                self._objects[mask.number] = replace(mask, runs=runs, predicted_iou=float(iou), points=())
                self._logits[mask.number] = logits
        return Followed(tuple(self._objects.values()), tuple(lost))

    def _enlarged(self, box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = box
        across, down = ENLARGED * (x1 - x0), ENLARGED * (y1 - y0)
        return (
            max(0.0, x0 - across),
            max(0.0, y0 - down),
            min(float(self.frame.width), x1 + across),
            min(float(self.frame.height), y1 + down),
        )

    def _given(self, mask: Mask) -> Tensor:
        """(4h, 4w) logits of a mask that is known by its pixels: each says how much of its area is inside."""
        side, sides = self.segmenter.model.img_size, self.segmenter.model.mask_sides
        inside = torch.from_numpy(mask.runs.decode().astype(np.float32))[None, None]
        inside = F.interpolate(inside, self.frame.resized, mode="bilinear", antialias=True)
        height, width = self.frame.resized
        inside = F.pad(inside, (0, side - width, 0, side - height))
        return SURE * (2 * F.adaptive_avg_pool2d(inside, sides)[0, 0] - 1).to(self.segmenter.device)


def follow(
    segmenter: Segmenter,
    frames: Iterable[ImageSource],
    prompts: Mapping[str, Any],
    on_event: Callable[[dict[str, Any]], object] = lambda event: None,
    lost_below: float = LOST_BELOW,
) -> Iterator[Followed]:
    """Objects through frames, one answer each; prompts: for the first, by the names of `Segmenter.predict`.

    Numbers are from 1, in the order of the prompts. Of each prompt's masks that of the highest predicted IoU counts; of
    a text, the one that fits it best.
    What is lost, and frames that cannot be used, are said as warnings. Memory does not grow with the frames.
    """
    follower = None
    for number, image in enumerate(frames, start=1):
        name = str(image) if isinstance(image, str | Path) else f"frame {number}"
        if follower is None:
            masks = _asked_for(segmenter, image, prompts)
            follower = Follower(segmenter, image, masks, lost_below)
            yield Followed(masks)
            continue
        try:
            answer = follower.step(image)
        except ImageError as error:
            answer = Followed(error=str(error))
            on_event({"event": "warning", "text": str(error)})
        for lost in answer.lost:
            on_event({"event": "warning", "text": f"{name}: object {lost} is lost, and is not looked for again"})
        yield answer


def _asked_for(segmenter: Segmenter, image: ImageSource, prompts: Mapping[str, Any]) -> tuple[Mask, ...]:
    """The masks of the first frame. Raises RegardError where nothing is there."""
    ((masks, ious, _),) = segmenter.predict_images([image], [prompts])
    if masks.ndim == 3:
        masks, ious = masks[None], ious[None]  # (P, k, H, W), (P, k)
    if not ious.size:
        raise RegardError(
            f"text: {prompts.get('text')!r} fits nothing in the first frame; ask for it by a point or box"
        )
    # Masks of a text are in the order in which they fit it.
    best = ious.argmax(axis=1) if prompts.get("text") is None else np.zeros(len(ious), int)
    return tuple(
        Mask(number, RunLengths.of(several[place]), float(estimates[place]))
        for number, (several, estimates, place) in enumerate(zip(masks, ious, best, strict=True), start=1)
    )


def in_order(frames: Iterable[Path]) -> list[Path]:
    """Files in the order of their names, numbers in them by their value: frame_9 before frame_10."""
    return sorted(frames, key=_order)


def _order(path: Path) -> tuple[list[tuple[str, int]], str]:
    parts = re.split(r"(\d+)", str(path))
    texts, numbers = parts[::2], [*map(int, parts[1::2]), -1]
    return list(zip(texts, numbers, strict=True)), str(path)
