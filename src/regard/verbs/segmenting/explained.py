"""`segment --from-explanation RUN`: the place that speaks most for a class becomes the click.

What is measured of a map is the share of its positive part that lies somewhere (docs of `explanation.inside`):
*concentration*, in the mask that grows from the map's own peak, with the mask's area beside it - by how it is made, it
says how gathered the map is, not whether the model is right; and *right for the right reason*, in an object that
somebody else marked (a box, a mask, a text), beside its area, a map of the centre, and what a click in the centre of
the photo would have found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent, silent
from regard.verbs.explaining.sides import Side, methods_of
from regard.verbs.explaining.targets import chooser
from regard.verbs.prepare import load_aloud

if TYPE_CHECKING:
    from regard.data.decoding import ImageSource
    from regard.explanation.inside import Inside
    from regard.masks import Mask
    from regard.segmentation.segmenter import Segmenter


@dataclass(frozen=True)
class Peak:
    """Where what a model says of a photo comes from.

    x, y: in pixels of the photo, the middle of the map's highest cell (of equal ones, of that nearest to their middle);
    answer: what the model answers; explained: the class that the map is of, value: what the model gives it
    (probability, or the number); method: that made the map; values: the map (h, w); window: left, top, right, bottom of
    what the model sees, in pixels of the photo.
    """

    x: float
    y: float
    answer: str
    explained: str
    value: float
    method: str
    values: np.ndarray = field(repr=False)
    window: tuple[float, float, float, float]


class Explainer:
    """A model asked where in photos a class comes from, by one method.

    model: the folder of a run, or what `load_model` takes; class_: "top1", the model's own answer, or a class's name;
    method: `NAME+option=value`; without one, the first that is cheap and defined
    for the model. Raises RegardError for what the model does not have.
    """

    def __init__(self, model: Any, class_: str = "top1", method: str = "", on_event: OnEvent = silent) -> None:
        from regard.taps import refuse_frozen

        self.loaded = load_aloud(model, on_event)
        refuse_frozen(self.loaded.model)
        self.loaded.model.eval()
        if class_ == "true":
            raise RegardError("class true: a photo to segment has no true class; name one, or leave it at top1")
        methods = methods_of(self.loaded, [method] if method else [], None)
        self.method = next((one for one in methods if one.of_class), methods[0])
        choose = chooser(self.loaded, class_)
        self._side = Side(self.loaded, (self.method,), choose, "fp32", self.loaded.name)
        if class_ != "top1" and not self.method.of_class:
            text = f"{self.method.name} gives the same map for every class; relevance or gradcam tell them apart"
            on_event({"event": "warning", "text": text})

    def peak(self, image: ImageSource) -> Peak:
        """Raises RegardError where nothing speaks for the class, and ImageError."""
        from regard.data.decoding import open_image

        preprocess = self.loaded.preprocess
        opened = open_image(image)
        window = preprocess.seen(opened.height, opened.width)
        (said,) = self._side.explain(preprocess.pixels(image)[None], None)
        values = said.maps[self.method.name]
        if not values.max() > 0:
            raise RegardError(
                f"{self.method.name}: nothing in the photo speaks for {said.explained!r}; name another class or method"
            )
        height, width = values.shape
        highest = np.argwhere(values == values.max())
        row, column = highest[((highest - highest.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        left, top, right, bottom = window
        x = left + (right - left) * (column + 0.5) / width
        y = top + (bottom - top) * (row + 0.5) / height
        return Peak(float(x), float(y), said.answer, said.explained, said.value, self.method.name, values, window)


class Reason(NamedTuple):
    """How a map lies to an independently marked object.

    inside: its share there, with area, centre map and peak (`Inside`); peak_iou, centre_iou: IoU with the object of
    the mask that a click on the peak gives, and of the one that a click in the middle of the photo gives.
    """

    inside: Inside
    peak_iou: float
    centre_iou: float


@dataclass(frozen=True)
class Explained:
    """The mask that grew from an explanation, and what was measured; reason: where an object was given."""

    peak: Peak
    mask: Mask
    concentration: Inside
    reason: Reason | None = None

    def lines(self) -> Iterator[str]:
        """What is printed of a photo."""
        from regard.reporting.words import percent

        peak, found = self.peak, self.concentration
        yield (
            f"{peak.explained} (the model gives it {peak.value:.3g}, its answer is {peak.answer}): {peak.method} is "
            f"highest at x {peak.x:.0f}, y {peak.y:.0f}"
        )
        yield (
            f"concentration: {percent(found.inside)} of the map lies in the mask grown from there, which covers "
            f"{percent(found.area)} of what the model sees"
        )
        if self.reason is not None:
            object_, of_peak, of_centre = self.reason
            yield (
                f"in the object given: {percent(object_.inside)} of the map (its area {percent(object_.area)}, a map "
                f"of the centre {percent(object_.centre)}); the peak lies {'in' if object_.peak_inside else 'beside'} "
                "it"
            )
            yield f"IoU with it: {of_peak:.2f} of the mask from the peak, {of_centre:.2f} from a click in the centre"


def segment_explained(
    segmenter: Segmenter, explainer: Explainer, image: ImageSource, given: np.ndarray | None = None
) -> Explained:
    """The mask of the place that speaks most for a class, with what is measured of the map.

    given: the object, marked independently: (4,) x0, y0, x1, y1 or a bool (H, W) mask, in pixels of the photo. Raises
    RegardError and ImageError.
    """
    from regard.evaluation.masks import iou
    from regard.explanation.inside import share_inside_mask

    peak = explainer.peak(image)
    mask = replace(_clicked(segmenter, image, peak.x, peak.y), name=peak.explained)
    grown = mask.runs.decode()
    concentration = share_inside_mask(peak.values, grown, peak.window)
    if given is None:
        return Explained(peak, mask, concentration)
    height, width = grown.shape
    marked = _filled(np.asarray(given), height, width)
    of_centre = _clicked(segmenter, image, width / 2, height / 2).runs.decode()
    inside = share_inside_mask(peak.values, marked, peak.window)
    return Explained(peak, mask, concentration, Reason(inside, iou(grown, marked), iou(of_centre, marked)))


def _clicked(segmenter: Segmenter, image: ImageSource, x: float, y: float) -> Mask:
    """Of the three masks of a click, the one that the model rates best."""
    from regard.masks import Mask, RunLengths

    click = {"point_coords": np.array([[x, y]]), "point_labels": np.array([1])}
    ((masks, estimates, _),) = segmenter.predict_images([image], [click])
    best = int(estimates.argmax())
    return Mask(1, RunLengths.of(masks[best]), float(estimates[best]), points=((x, y),))


def _filled(given: np.ndarray, height: int, width: int) -> np.ndarray:
    """A box as a mask; a mask as it is."""
    if given.shape == (4,):
        x0, y0, x1, y1 = np.round(given).astype(np.int64)
        mask = np.zeros((height, width), bool)
        mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    elif given.shape == (height, width):
        mask = given.astype(bool)
    else:
        raise RegardError(
            f"given: of shape {given.shape}; expected a box (4,) x0, y0, x1, y1, or a mask ({height}, {width})"
        )
    if not mask.any():
        raise RegardError("given: no pixel of the photo lies in it; mark the object")
    return mask
