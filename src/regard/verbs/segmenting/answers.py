"""What `segment` says of one photo, and how that is kept while the other photos are on their way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.segmentation.everything import Clicks
    from regard.segmentation.formats.record import ImageMasks

REFUSED = "refused"  # the code of a photo that can be read, but not be asked this


@dataclass(frozen=True)
class Answer:
    """The masks of a photo. said: lines for people; measured: numbers for a table, where the way of asking has some;
    clicks: what any click would give, for the page.
    """

    masks: ImageMasks
    said: tuple[str, ...] = ()
    measured: dict[str, Any] = field(default_factory=dict)
    clicks: Clicks | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Failure:
    """A photo without masks: its name, a code as `predict` has it, and why."""

    image: str
    code: str
    message: str


def failure(image: str, error: RegardError) -> Failure:
    """Of an error."""
    return Failure(image, getattr(error, "code", REFUSED), str(error))


def pack(answer: Answer | Failure) -> str:
    """As JSON: `rle`'s file of the image with more entries, or those of a failure."""
    from regard.segmentation.formats import rle

    if isinstance(answer, Failure):
        return json.dumps({"failure": vars(answer)})
    content = json.loads(rle.encode(answer.masks))
    content |= {"said": answer.said, "measured": answer.measured}
    if answer.clicks is not None:
        clicks = [
            {"point": click.point, "masks": [runs.text for runs in click.masks], "iou": click.iou}
            for click in answer.clicks.clicks
        ]
        content["clicks"] = {"height": answer.clicks.height, "width": answer.clicks.width, "clicks": clicks}
    return json.dumps(content)


def unpack(text: str) -> Answer | Failure:
    """What `pack` made. Raises RegardError for another text."""
    from regard.segmentation.formats import rle

    try:
        content = json.loads(text)
        if "failure" in content:
            return Failure(**content["failure"])
        clicks = _clicks(content["clicks"]) if "clicks" in content else None
        return Answer(rle.decode(text), tuple(content["said"]), content["measured"], clicks)
    except (ValueError, KeyError, TypeError) as error:
        raise RegardError(f"damaged ({' '.join(str(error).split())[:80]})") from None


def _clicks(content: dict[str, Any]) -> Clicks:
    from regard.masks import RunLengths
    from regard.segmentation.everything import Click, Clicks

    size = content["height"], content["width"]
    clicks = tuple(
        Click(
            (one["point"][0], one["point"][1]),
            tuple(RunLengths.of_text(text, *size) for text in one["masks"]),
            tuple(one["iou"]),
        )
        for one in content["clicks"]
    )
    return Clicks(*size, clicks)
