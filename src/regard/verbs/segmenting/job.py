"""The work of `segment`: photo after photo asked and written down, then the files that are made of all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent
from regard.verbs.segmenting.answers import Answer, Failure, failure
from regard.verbs.segmenting.expected import expected
from regard.verbs.segmenting.folder import Folder
from regard.verbs.segmenting.followed import Followed

if TYPE_CHECKING:
    from regard.verbs.segmenting.models import Models
    from regard.verbs.segmenting.outputs import Outputs
    from regard.verbs.segmenting.page import SegmentPages
    from regard.verbs.segmenting.photos import Photos
    from regard.verbs.segmenting.ways import Way


@dataclass
class InMemory:
    """Answers, where no folder keeps them."""

    kept: dict[int, Answer | Failure] = field(default_factory=dict)

    def lacks(self, place: int, again: bool) -> bool:
        """As `Folder.lacks`."""
        return place not in self.kept

    def keep(self, place: int, answer: Answer | Failure) -> None:
        """As `Folder.keep`."""
        self.kept[place] = answer

    def answers(self, photos: int) -> Iterator[tuple[int, Answer | Failure]]:
        """As `Folder.answers`."""
        return iter(sorted(self.kept.items()))


@dataclass(frozen=True)
class Done:
    """How many photos have masks, and how many of them; failed: photos without; continued: those that were answered
    before; seconds: of one of the others.
    """

    photos: int
    masks: int
    failed: int
    continued: int
    seconds: float = 0.0


@dataclass
class Job:
    """A call of `segment`, resolved.

    places: of the photos to ask; store: a folder's answers, or those in memory; outputs: what a folder is filled with;
    cache: whether embeddings are kept; page: to write of them all.
    """

    photos: Photos
    places: Sequence[int]
    models: Models
    way: Way
    store: Folder | InMemory
    on_event: OnEvent
    outputs: Outputs | None = None
    cache: bool = False
    page: SegmentPages | None = None
    _announced: bool = field(default=False, init=False)

    def run(self) -> Done:
        """Ask all photos that are left, and write what is made of all of them.

        A photo that cannot be read or asked keeps its place, with an error. RegardError is raised where none can.
        """
        folder = self.store if isinstance(self.store, Folder) else None
        if folder is not None and (before := folder.done) is not None:
            return Done(**before, continued=sum(before[name] for name in ("photos", "failed")))
        asked, seconds = self._ask_all()
        counts = {"photos": 0, "masks": 0, "failed": 0}
        first = None
        for _, answer in self.store.answers(len(self.photos)):
            if isinstance(answer, Failure):
                counts["failed"] += 1
                first = first or answer
            else:
                counts["photos"] += 1
                counts["masks"] += len(answer.masks.masks)
        if not counts["photos"]:
            self._clear()
            reason = first.message if first else "no photos"
            raise RegardError(f"photos: none of {counts['failed']:,} gives masks (first: {reason})")
        if self.outputs is not None:
            self.outputs.of_all()
        if self.page is not None:
            self._write_page(self.page)
        if folder is not None:
            folder.finish(counts)
        return Done(**counts, continued=len(self.places) - asked, seconds=seconds / max(asked, 1))

    def _ask_all(self) -> tuple[int, float]:
        """How many photos were left, and the seconds that they took."""
        again = not isinstance(self.way, Followed)  # whose photos depend on those before
        todo = [place for place in self.places if self.store.lacks(place, again)]
        before, start = len(self.places) - len(todo), time.perf_counter()
        for done, place in enumerate(todo):
            answer = self._answer(place, len(todo), _Share(self, done, len(todo), start))
            self.store.keep(place, answer)
            passed = time.perf_counter() - start
            left = passed / (done + 1) * (len(todo) - done - 1)
            if len(self.places) > 1:
                event = {"event": "progress", "title": "photos", "done": before + done + 1, "total": len(self.places)}
                self.on_event(event | {"seconds_left": left})
        return len(todo), time.perf_counter() - start

    def _answer(self, place: int, todo: int, on_event: OnEvent) -> Answer | Failure:
        """Ask a photo, and write what is made of it alone."""
        try:
            pixels = self._decoded(place)
            height, width = pixels.shape[:2]
            self.way.check(place, height, width)
        except RegardError as error:
            return self._failed(place, error)
        if not self._announced:
            self._announced = True
            self._note(expected(self.models.segmenter, self.way, pixels, todo, self.cache))
        self.models.segmenter.embed(pixels)  # what goes wrong here, as with a full cache, is no fault of the photo
        try:
            answer = self._asked(place, pixels, on_event)
        except RegardError as error:
            return self._failed(place, error)
        for line in answer.said:
            self._note(f"{self.photos.id(place)}: {line}" if len(self.places) > 1 else line)
        if self.outputs is not None:
            self.outputs.of_photo(place, pixels, answer.masks)
        return answer

    def _failed(self, place: int, error: RegardError) -> Failure:
        """Of several photos one that fails is named and left out; of a single one the error is the answer."""
        if len(self.places) == 1:
            self._clear()
            raise error
        self._note(f"left out: {_with_name(self.photos.id(place), str(error))}")
        return failure(self.photos.files[place], error)

    def _clear(self) -> None:
        """Leave nothing, where there is nothing to leave."""
        if isinstance(self.store, Folder):
            self.store.clear()

    def _write_page(self, page: SegmentPages) -> None:
        """Of all photos that have an answer."""
        for place, answer in self.store.answers(len(self.photos)):
            if isinstance(answer, Answer):
                page.add(answer.masks.image, self._decoded(place), answer.masks.masks, answer.clicks)
        page.write()

    def _decoded(self, place: int) -> np.ndarray:
        from regard.data.decoding import decode

        return decode(self.photos.path(place))

    def _asked(self, place: int, pixels: np.ndarray, on_event: OnEvent) -> Answer:
        from regard.segmentation.formats.record import ImageMasks

        found = self.way.ask(place, pixels, on_event)
        masks = found.masks
        if self.models.namer is not None and masks:
            nameless = [number for number, mask in enumerate(masks) if not mask.name]
            named = dict(zip(nameless, self.models.namer(pixels, [masks[number] for number in nameless]), strict=True))
            masks = tuple(named.get(number, mask) for number, mask in enumerate(masks))
        height, width = pixels.shape[:2]
        record = ImageMasks(self.photos.files[place], height, width, masks)
        return Answer(record, found.said, dict(found.measured), found.clicks)

    def _note(self, text: str) -> None:
        self.on_event({"event": "note", "text": text})


@dataclass(frozen=True)
class _Share:
    """Passes on how far a photo is: as it is where there is only one, else as a share of all photos."""

    job: Job
    done: int
    todo: int
    start: float

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress" and len(self.job.places) > 1:
            share = min(event["done"] / event["total"], 0.99)
            before = len(self.job.places) - self.todo + self.done
            passed = time.perf_counter() - self.start
            left = passed / (self.done + share) * (self.todo - self.done - share) if self.done + share else None
            about = {"title": "photos", "done": before + share, "total": len(self.job.places), "seconds_left": left}
            event = {**event, **about}
        self.job.on_event(event)


def _with_name(name: str, line: str) -> str:
    return line if name in line else f"{name}: {line}"
