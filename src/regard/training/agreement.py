"""How well a segmenter finds objects from one prompt each: a click at the most inner point, or the box."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from regard.data.mask_sets import MaskSet
from regard.evaluation.intervals import Metric
from regard.evaluation.masks import boundary_iou, iou, mean_by_image
from regard.masks import RunLengths
from regard.models.sam import FOREGROUND, SAM, Masks, Prompts
from regard.segmentation.regions import innermost
from regard.segmentation.segmenter import Segmenter
from regard.training.click_batches import ClickBatches
from regard.training.clicks import ONE, THREE, decode_round, overlap, surest

AT_ONCE = 32  # prompts decoded at once


@dataclass(frozen=True)
class Found:
    """What one object was found as, from a click and from its box.

    image: its id; number: from 1 among its image's; area: pixels; x, y: the click, in pixels. click: IoU of the mask
    that the model takes for the best of its three, box: of its one mask for what leaves no doubt; click_boundary,
    box_boundary: IoU of the boundaries; best: the highest IoU of the three masks of the click. by_click, by_box: these
    masks.
    """

    image: str
    number: int
    area: int
    x: float
    y: float
    click: float
    click_boundary: float
    best: float
    box: float
    box_boundary: float
    by_click: RunLengths = field(repr=False)
    by_box: RunLengths = field(repr=False)


MEASURES = ("click", "click_boundary", "best", "box", "box_boundary")


@dataclass(frozen=True)
class Agreement:
    """Of all objects of some images."""

    found: tuple[Found, ...]

    @cached_property
    def means(self) -> dict[str, Metric]:
        """Of each of `MEASURES`, with its interval by image."""
        images = [one.image for one in self.found]
        return {name: mean_by_image([getattr(one, name) for one in self.found], images) for name in MEASURES}

    def rows(self) -> Iterator[list[object]]:
        """A table: names of the columns, then a row for each object."""
        names = [one.name for one in fields(Found) if one.repr]
        yield [*names]
        for one in self.found:
            yield [getattr(one, name) for name in names]


def agreement(
    segmenter: Segmenter, masks: MaskSet, rows: np.ndarray, told: Callable[[int], object] = lambda done: None
) -> Agreement:
    """Of the images `rows`, masks and truths compared at the image's size. told: how many images are done."""
    found: list[Found] = []
    for done, row in enumerate(map(int, rows), start=1):
        found += _of_image(segmenter, masks, row)
        told(done)
    return Agreement(tuple(found))


def _of_image(segmenter: Segmenter, masks: MaskSet, row: int) -> Iterator[Found]:
    truths = masks.masks(row)
    embedded = segmenter.embed(masks.images.sources[row])
    places = [innermost(runs) for runs in truths]
    by_click = segmenter.choose(segmenter.decode(embedded, clicks_at(places)), multimask_output=True)
    boxes = torch.tensor([runs.box for runs in truths], dtype=torch.float32)
    by_box = segmenter.choose(segmenter.decode(embedded, Prompts(boxes=boxes)), multimask_output=False)
    for number, (runs, (x, y)) in enumerate(zip(truths, places, strict=True)):
        truth = runs.decode()
        three = embedded.frame.masks(by_click.logits[number]).cpu().numpy()
        click = three[int(by_click.iou[number].argmax())]
        box = embedded.frame.masks(by_box.logits[number]).cpu().numpy()[0]
        yield Found(
            image=masks.images.ids[row],
            number=number + 1,
            area=runs.area,
            x=x,
            y=y,
            click=iou(click, truth),
            click_boundary=boundary_iou(click, truth),
            best=max(iou(one, truth) for one in three),
            box=iou(box, truth),
            box_boundary=boundary_iou(box, truth),
            by_click=RunLengths.of(click),
            by_box=RunLengths.of(box),
        )


def clicks_at(places: Sequence[tuple[float, float]]) -> Prompts:
    """One prompt for each place: a point on the object."""
    points = torch.tensor(places, dtype=torch.float32)[:, None]
    return Prompts(points=points, labels=torch.full((len(places), 1), FOREGROUND))


class Quick:
    """The evaluator of the loop: IoU at the model's own resolution, for (name, value) pairs of a module."""

    def __init__(self, batches: ClickBatches, rows: np.ndarray) -> None:
        self.batches, self.rows = batches, rows
        self.prompts: dict[int, tuple[Prompts, Prompts]] = {}

    def __call__(self, module: nn.Module) -> Iterator[tuple[str, float]]:
        assert isinstance(module, SAM)
        device = module.prompt_encoder.no_mask_embed.weight.device
        values: tuple[list[float], list[float]] = [], []
        for row in map(int, self.rows):
            seen = self.batches.seen(row)
            image = module.embed(self.batches.inputs(seen, row).to(device))
            truths = torch.from_numpy(seen.truths).to(device) >= 128
            for prompts, which, reached in zip(self._prompts(row, seen.truths), (THREE, ONE), values, strict=True):
                for start in range(0, len(truths), AT_ONCE):
                    part = slice(start, start + AT_ONCE)
                    some = Prompts(*(None if one is None else one[part].to(device) for one in prompts))
                    found = decode_round(module, image, some, which)
                    reached += _reached(found, truths[part]).tolist()
        yield "val/click_iou", float(np.mean(values[0]))
        yield "val/box_iou", float(np.mean(values[1]))

    def _prompts(self, row: int, truths: np.ndarray) -> tuple[Prompts, Prompts]:
        """Clicks and boxes of an image's objects, in pixels of the input."""
        if row not in self.prompts:
            drawn = [RunLengths.of(truth >= min(128, truth.max())) for truth in truths]
            scale = self.batches.side / self.batches.cells
            places = [innermost(runs) for runs in drawn]
            clicks = clicks_at([((x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5) for x, y in places])
            boxes = torch.tensor([runs.box for runs in drawn], dtype=torch.float32) * scale
            self.prompts[row] = clicks, Prompts(boxes=boxes)
        return self.prompts[row]


def _reached(found: Masks, truths: Tensor) -> Tensor:
    """(P,) IoU of the masks with the highest estimates."""
    return overlap(surest(found)[:, 0] > 0, truths)
