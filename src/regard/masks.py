"""Masks as the parts hand them to each other: lengths of runs, and what is known of the object under them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from regard.errors import RegardError

DIGITS = 7  # of five bits: as many as a length of 32 bits with its sign takes
LETTER_0 = 48


@dataclass(frozen=True, eq=False)
class RunLengths:
    """A binary mask as lengths of runs, column after column, the first of zeros: COCO's run-length encoding.

    height, width: pixels; counts: (n,) int64, zeros, ones, zeros, ..., summing to height * width. COCO's definition:
    cocodataset/cocoapi, common/maskApi.h.
    """

    height: int
    width: int
    counts: np.ndarray

    def __post_init__(self) -> None:
        if self.counts.ndim != 1 or self.counts.min(initial=0) < 0 or self.counts.sum() != self.height * self.width:
            raise RegardError(
                f"run lengths: sum to {int(self.counts.sum()):,}, the mask has {self.height} x {self.width} pixels"
            )

    @classmethod
    def of(cls, mask: np.ndarray) -> RunLengths:
        """Of a boolean (H, W) mask."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls.of_part(mask[:0, :0], 0, 0, *mask.shape)
        top, left = rows[0], columns[0]
        return cls.of_part(mask[top : rows[-1] + 1, left : columns[-1] + 1], left, top, *mask.shape)

    @classmethod
    def of_part(cls, part: np.ndarray, x: int, y: int, height: int, width: int) -> RunLengths:
        """Of a mask of height x width pixels, 0 but in a boolean (h, w) part whose first pixel is (x, y).

        Fastest where the columns of `part` lie in memory one after another.
        """
        rows, columns = part.shape
        ended = np.zeros((columns, rows + 1), bool)  # after each column a 0, so that no run goes on into the next
        ended[:, :-1] = part.T
        flat = ended.ravel()
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        if flat[:1].any():
            changes = np.concatenate([[0], changes])
        column, row = np.divmod(changes, rows + 1)
        places = (x + column) * height + y + row
        if rows == height:  # a run over the end of a column is one: its first half ends where the second begins
            twice = np.flatnonzero(places[1:] == places[:-1])
            places = np.delete(places, np.concatenate([twice, twice + 1]))
        size = height * width
        if not len(places) or places[-1] < size:
            places = np.append(places, size)
        return cls(height, width, np.diff(places, prepend=0).astype(np.int64))

    @classmethod
    def of_text(cls, text: str, height: int, width: int) -> RunLengths:
        """Of COCO's compressed string. Raises RegardError for one that is none, or of another size."""
        letters = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - LETTER_0
        last = (letters & 32) == 0  # of the five-bit digits of one number
        if letters.size == 0 or letters.min() < 0 or letters.max() > 63 or not last[-1]:
            raise RegardError("run lengths: no compressed run-length string as COCO files have it")
        ends = np.flatnonzero(last)
        starts = np.concatenate([[0], ends[:-1] + 1])
        place = np.arange(letters.size) - np.repeat(starts, ends - starts + 1)
        if place.max() >= DIGITS:
            raise RegardError("run lengths: a number of the compressed string is too long; the file is damaged")
        counts = np.add.reduceat((letters & 31) << (5 * place), starts)
        negative = (letters[ends] & 16) != 0
        counts = np.where(negative, counts - (np.int64(1) << (5 * (ends - starts + 1))), counts)
        for first in (1, 2):  # from the fourth on, each is the difference to the one before the last
            counts[first::2] = np.cumsum(counts[first::2])
        return cls(height, width, counts)

    @property
    def text(self) -> str:
        """COCO's compressed string."""
        values = self.counts.copy()
        values[3:] -= self.counts[1:-2]
        places = 5 * np.arange(DIGITS)
        digits = (values[:, None] >> places) & 31  # (n, DIGITS), the lowest first
        left = values[:, None] >> (places + 5)
        more = left != np.where(digits & 16, -1, 0)
        more[:, -1] = False
        used = np.ones_like(more)
        used[:, 1:] = np.logical_and.accumulate(more, axis=1)[:, :-1]
        return ((digits | (more << 5)) + LETTER_0)[used].astype(np.uint8).tobytes().decode("ascii")

    def decode(self) -> np.ndarray:
        """The boolean (H, W) mask."""
        values = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(values, self.counts).reshape(self.width, self.height).T

    @cached_property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.counts[1::2].sum())

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels, x1 and y1 just outside; all 0 where the mask is empty."""
        ends = np.cumsum(self.counts)
        starts, ends = ends[:-1:2], ends[1::2]  # of the runs of ones
        filled = ends > starts
        starts, ends = starts[filled], ends[filled]
        if not len(starts):
            return 0, 0, 0, 0
        first, last = starts // self.height, (ends - 1) // self.height
        across = bool((first != last).any())  # a run over a column's end reaches both edges
        top = 0 if across else int((starts % self.height).min())
        bottom = self.height if across else int(((ends - 1) % self.height).max()) + 1
        return int(first.min()), top, int(last.max()) + 1, bottom


@dataclass(frozen=True)
class Mask:
    """One object: its pixels and what is known of it.

    number: from 1, its own among those of an image (of all frames, where it is followed); predicted_iou: the model's
    estimate; stability: IoU of the mask at a stricter and a looser threshold, None where it was not asked; points:
    (x, y) that asked for it, in pixels; crop: x0, y0, x1, y1 of the part of the image in which it was found, None for
    the whole; name: what it is called, "" where nobody said; score: of the name, in 0..1, or None.
    """

    number: int
    runs: RunLengths = field(repr=False)
    predicted_iou: float
    stability: float | None = None
    points: tuple[tuple[float, float], ...] = ()
    crop: tuple[int, int, int, int] | None = None
    name: str = ""
    score: float | None = None

    @property
    def area(self) -> int:
        """Pixels."""
        return self.runs.area

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels, x1 and y1 just outside."""
        return self.runs.box
