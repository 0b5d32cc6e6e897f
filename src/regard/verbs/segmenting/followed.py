"""What is asked in the first photo, followed through the others; it can be left after any of them, and continued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent
from regard.verbs.segmenting.ways import Cost, Found, Prompted

if TYPE_CHECKING:
    from regard.segmentation.following import Follower
    from regard.segmentation.formats.record import ImageMasks
    from regard.verbs.segmenting.models import Namer

KEPT = 2  # states: a photo's is written before its answer, so that of the last answer may be the one before


@dataclass
class Followed:
    """prompted: asks the photo at the place `first`; namer: gives names to its masks, which they keep.

    answers: the masks of a photo that an earlier call answered, states: the folder in which each photo leaves what the
    next one needs; None where nothing is kept.
    """

    prompted: Prompted
    first: int
    namer: Namer | None = None
    answers: Callable[[int], ImageMasks | None] = lambda place: None
    states: Path | None = None
    _follower: Follower | None = field(default=None, init=False)
    _left: list[Path] = field(default_factory=list, init=False)

    @property
    def cost(self) -> Cost:
        return self.prompted.cost

    def check(self, place: int, height: int, width: int) -> None:
        if place == self.first:
            self.prompted.check(place, height, width)

    def ask(self, place: int, pixels: np.ndarray, on_event: OnEvent) -> Found:
        """As `Way.ask`; photos come in their order."""
        if place == self.first:
            return self._begin(pixels, on_event)
        self._follower = self._follower or self._again(place)
        if self._follower is None:
            raise RegardError("follow: nothing was found in the first photo that could be followed")
        answer = self._follower.step(pixels)
        self._leave(place)
        lost = tuple(f"object {number} is lost, and is not looked for again" for number in answer.lost)
        return Found(answer.masks, lost)

    def _begin(self, pixels: np.ndarray, on_event: OnEvent) -> Found:
        from regard.segmentation.following import Follower

        found = self.prompted.ask(self.first, pixels, on_event)
        seen = tuple(mask for mask in found.masks if mask.area)
        if not seen:
            raise RegardError("follow: nothing is there in the first photo that could be followed; ask otherwise")
        if self.namer is not None:
            named = iter(self.namer(pixels, [mask for mask in seen if not mask.name]))
            seen = tuple(mask if mask.name else next(named) for mask in seen)
        self._follower = Follower(self.prompted.segmenter, pixels, seen)
        self._leave(self.first)
        return found._replace(masks=seen)

    def _again(self, place: int) -> Follower | None:
        """The follower as an earlier call left it, after the last photo before this one that it answered."""
        from regard.segmentation.following import Follower
        from regard.weights import read_state

        for before in range(place - 1, self.first - 1, -1):
            masks = self.answers(before)
            if masks is not None and self.states is not None:
                kept = read_state(self._state(before)) if masks.masks else {}
                logits = {int(number): values for number, values in kept.items()}
                blank = np.zeros((masks.height, masks.width, 3), np.uint8)
                return Follower(self.prompted.segmenter, blank, masks.masks, logits=logits)
        return None

    def _leave(self, place: int) -> None:
        """Keep what the next photo needs."""
        from regard.weights import save_state

        if self.states is None or self._follower is None or not self._follower.following:
            return
        self.states.mkdir(parents=True, exist_ok=True)
        path = self._state(place)
        save_state(path, {str(number): logits.cpu() for number, logits in self._follower.logits.items()})
        self._left.append(path)
        for old in self._left[:-KEPT]:
            old.unlink(missing_ok=True)
        del self._left[:-KEPT]

    def _state(self, place: int) -> Path:
        assert self.states is not None
        return self.states / f"{place:06d}.safetensors"
