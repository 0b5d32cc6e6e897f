"""The ways in which `segment` asks: prompts, everything, an explanation. Each gives the masks of one photo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from regard.errors import RegardError
from regard.masks import Mask, RunLengths
from regard.verbs.events import OnEvent
from regard.verbs.segmenting.asked import Asked

if TYPE_CHECKING:
    from regard.segmentation.everything import Clicks, Options
    from regard.segmentation.segmenter import Segmenter
    from regard.segmentation.text_prompts import TextRanker
    from regard.verbs.segmenting.explained import Explainer

TOGETHER = 64  # prompts whose masks are held at once: 1 MB each


class Found(NamedTuple):
    """Of one photo: masks, and what `Answer` holds beside them."""

    masks: tuple[Mask, ...]
    said: tuple[str, ...] = ()
    measured: Mapping[str, Any] = {}
    clicks: Clicks | None = None


class Cost(NamedTuple):
    """What a usual photo takes: images that are embedded, prompts that are decoded."""

    embeddings: int
    prompts: int


class Way(Protocol):
    """How photos are asked."""

    @property
    def cost(self) -> Cost:
        """For an estimate of the time."""
        ...

    def check(self, place: int, height: int, width: int) -> None:
        """Before any work, whether what is asked lies in the photo at a place. Raises RegardError."""
        ...

    def ask(self, place: int, pixels: np.ndarray, on_event: OnEvent) -> Found:
        """The masks of the photo at a place, (H, W, 3) uint8. Raises RegardError."""
        ...


@dataclass(frozen=True)
class Prompted:
    """Points, boxes and texts.

    prompts: of the photo at a place; usual: those of one of them; three: all three masks of a single click, not only
    the one that the model trusts most; ranker: for texts.
    """

    segmenter: Segmenter
    prompts: Callable[[int], Sequence[Asked]]
    usual: Sequence[Asked]
    three: bool = False
    ranker: TextRanker | None = None

    @property
    def cost(self) -> Cost:
        places = sum(not one.text for one in self.usual)
        if self.ranker is None or places == len(self.usual):
            return Cost(1, places)
        crops, clicks = _grid(self.ranker.options)
        return Cost(crops, clicks + places)

    def check(self, place: int, height: int, width: int) -> None:
        for one in self.prompts(place):
            one.check(height, width)

    def ask(self, place: int, pixels: np.ndarray, on_event: OnEvent) -> Found:
        asked = self.prompts(place)
        found: dict[int, Sequence[Mask]] = {}
        said: list[str] = []
        for shape in dict.fromkeys(one.shape for one in asked if not one.text):
            alike = [number for number, one in enumerate(asked) if not one.text and one.shape == shape]
            for start in range(0, len(alike), TOGETHER):
                some = alike[start : start + TOGETHER]
                masks = masks_of(self.segmenter, pixels, [asked[number] for number in some], self.three)
                found.update(zip(some, masks, strict=True))
        for number, one in enumerate(asked):
            if one.text:
                found[number], line = self._texts(one, pixels, on_event)
                said.append(line)
        masks = [mask for number in range(len(asked)) for mask in found[number]]
        return Found(tuple(replace(mask, number=number) for number, mask in enumerate(masks, start=1)), tuple(said))

    def _texts(self, one: Asked, pixels: np.ndarray, on_event: OnEvent) -> tuple[Sequence[Mask], str]:
        from regard.reporting.words import percent, plural

        assert self.ranker is not None
        ranking = self.ranker(self.segmenter, pixels, one.text, on_event)
        looked = plural(len(ranking.fitting) + len(ranking.others), "mask")
        said = f"{one.text!r}: {len(ranking.fitting):,} of {looked} fit, the best with {percent(ranking.best)}"
        return [replace(mask, name=one.name or mask.name) for mask in ranking.fitting], said


def masks_of(segmenter: Segmenter, pixels: np.ndarray, asked: Sequence[Asked], three: bool) -> list[list[Mask]]:
    """The masks of prompts of equal shape: of a single click the best of three, or these, the best first; of several
    points, and boxes, the one that the model has for them.
    """
    from regard.segmentation.prompts import as_prompts

    embedded = segmenter.embed(pixels)
    frame = embedded.frame
    single = [one.arguments() for one in asked]
    together = {name: np.stack([arguments[name] for arguments in single]) for name in single[0]}
    prompts, _ = as_prompts(frame.height, frame.width, segmenter.model.mask_sides, **together)
    chosen = segmenter.choose(segmenter.decode(embedded, prompts), asked[0].ambiguous)
    found = []
    for one, logits, iou in zip(asked, chosen.logits, chosen.iou.cpu().numpy(), strict=True):
        order = np.argsort(-iou, kind="stable")[: None if three else 1]
        masks = []
        for number in order.tolist():
            inside = RunLengths.of(frame.masks(logits[number][None])[0].cpu().numpy())
            masks.append(Mask(0, inside, float(iou[number]), points=one.points, name=one.name))
        found.append(masks)
    return found


@dataclass(frozen=True)
class All:
    """Everything mode. keep_clicks: also the masks of each point of the grid, for a page."""

    segmenter: Segmenter
    options: Options
    keep_clicks: bool = False

    @property
    def cost(self) -> Cost:
        return _grid(self.options)

    def check(self, place: int, height: int, width: int) -> None:
        """Any photo will do."""

    def ask(self, place: int, pixels: np.ndarray, on_event: OnEvent) -> Found:
        from regard.segmentation.everything import everything

        found = everything(self.segmenter, pixels, self.options, on_event, self.keep_clicks)
        return Found(found.masks, clicks=found.clicks)


@dataclass(frozen=True)
class FromExplanation:
    """A click where what another model says comes from; given: an object marked independently, a box or a text."""

    segmenter: Segmenter
    explainer: Explainer
    given: Asked | None = None
    ranker: TextRanker | None = None

    @property
    def cost(self) -> Cost:
        return Cost(1, 1) if self.ranker is None else _grid(self.ranker.options)

    def check(self, place: int, height: int, width: int) -> None:
        if self.given is not None:
            self.given.check(height, width)

    def ask(self, place: int, pixels: np.ndarray, on_event: OnEvent) -> Found:
        from regard.verbs.segmenting.explained import segment_explained

        found = segment_explained(self.segmenter, self.explainer, pixels, self._object(pixels, on_event))
        peak, concentration = found.peak, found.concentration
        measured = {
            "explained": peak.explained, "value": peak.value, "answer": peak.answer, "method": peak.method,
            "x": peak.x, "y": peak.y, "concentration": concentration.inside, "mask_area": concentration.area,
        }  # fmt: skip
        if found.reason is not None:
            inside = found.reason.inside
            measured |= {
                "inside": inside.inside, "area": inside.area, "centre": inside.centre,
                "peak_inside": bool(inside.peak_inside), "peak_iou": found.reason.peak_iou,
                "centre_iou": found.reason.centre_iou,
            }  # fmt: skip
        return Found((found.mask,), tuple(found.lines()), measured)

    def _object(self, pixels: np.ndarray, on_event: OnEvent) -> np.ndarray | None:
        if self.given is None:
            return None
        if self.given.box is not None:
            return np.array(self.given.box)
        assert self.ranker is not None
        ranking = self.ranker(self.segmenter, pixels, self.given.text, on_event)
        if not ranking.fitting:
            raise RegardError(f"text {self.given.text!r}: fits no mask of the photo, so the map has nothing to lie in")
        return ranking.fitting[0].runs.decode()


def _grid(options: Options) -> Cost:
    """Of everything mode, with its crops."""
    layers = range(options.crop_n_layers + 1)
    return Cost(sum(4**layer for layer in layers), sum(len(options.grid(layer)) * 4**layer for layer in layers))
