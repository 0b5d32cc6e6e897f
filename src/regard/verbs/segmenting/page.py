"""From what was segmented to the page in which it is looked at: gathered image by image, written once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from regard.masks import Mask

if TYPE_CHECKING:
    import numpy as np

    from regard.pages.segment import Clicks, SegmentedImage
    from regard.segmentation import everything

MOST_BYTES = 200_000_000  # of a page; browsers open larger ones, but slowly
MOST_IMAGES = 1000


@dataclass
class SegmentPages:
    """The images of a page, packed as they come; what does not fit is counted, and said on the page.

    html: the file; model: name and weights; asked: what was prompted, in words; command: what makes the page again.
    """

    html: Path
    model: str
    asked: str
    command: str
    images: list[SegmentedImage] = field(default_factory=list, repr=False)
    left_out: int = 0

    def add(
        self, name: str, pixels: np.ndarray, masks: Sequence[Mask], clicks: everything.Clicks | None = None
    ) -> None:
        """One image: pixels (H, W, 3) uint8, upright; masks of its size; clicks as `everything` keeps them."""
        from regard.pages.segment import segmented_image

        if self.left_out or len(self.images) == MOST_IMAGES:
            self.left_out += 1
            return
        image = segmented_image(name, pixels, masks, None if clicks is None else _clicks(clicks))
        if self.images and sum(one.bytes for one in self.images) + image.bytes > MOST_BYTES:
            self.left_out += 1
        else:
            self.images.append(image)

    def write(self) -> Path | None:
        """The page, or None where there is no image. Raises RegardError where it cannot be written."""
        from regard.pages.segment import SegmentPage, write_segment

        if not self.images:
            return None
        return write_segment(
            SegmentPage(self.model, self.images, self.asked, tuple(self._notes()), self.command), self.html
        )

    def _notes(self) -> list[str]:
        notes = []
        if self.left_out:
            shown, total = len(self.images), len(self.images) + self.left_out
            notes.append(f"The page holds the first {shown:,} of {total:,} images, so that browsers can open it.")
        if any(image.words["clicks"] for image in self.images):
            notes.append(
                "What a click finds was kept at up to 512 pixels a side and is made larger here, with smooth edges; "
                "the masks of the list have every pixel of the image."
            )
        return notes


def _clicks(kept: everything.Clicks) -> Clicks:
    """What the page knows of clicks."""
    import numpy as np

    from regard.pages.segment import Clicks

    places = np.array([click.point for click in kept.clicks], np.float32).reshape(-1, 2)
    return Clicks(places, [click.masks for click in kept.clicks], np.array([click.iou for click in kept.clicks]))
