"""One mask's logits at the size of the image, only where they can matter.

Bilinear interpolation from the decoder's grid to the input and from there to the image (`Frame.upsample`) is linear and
separable: values = A logits B^T, with a few neighbours in each row of A and B. The weights are not negative and sum to
1, so that no pixel exceeds the largest of its neighbours: where all of these are at or below a floor, it is, too. Only
the rectangle that can hold values above the floor is computed, in blocks that multiply neighbours alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regard.segmentation.frame import Frame

BLOCK = 64  # rows of the weights multiplied at once: their neighbours are few
ROUNDING = 1e-3  # below the floor, of its size and at least absolute: far more than float32 rounds


class Part(NamedTuple):
    """Logits (w, h) float32 of a rectangle of the image, column after column, whose first pixel is (x, y)."""

    x: int
    y: int
    values: np.ndarray


class Upsampler:
    """From logits (4h, 4w) of a frame's input to `height` x `width` pixels: the image's by default."""

    def __init__(
        self,
        frame: Frame,
        sides: tuple[int, int],
        device: torch.device | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        self.height, self.width = height or frame.height, width or frame.width
        self._rows = _Axis(sides[0], frame.side, frame.resized[0], self.height, device)
        self._columns = _Axis(sides[1], frame.side, frame.resized[1], self.width, device)

    def part(self, logits: Tensor, floor: float) -> Part | None:
        """The rectangle outside of which no pixel exceeds `floor`; None where none does at all. logits: float32."""
        above = logits > floor - ROUNDING * max(1.0, abs(floor))
        rows = self._rows.reach(above.any(dim=1))
        columns = self._columns.reach(above.any(dim=0))
        if rows is None or columns is None:
            return None
        sources = self._columns.sources(columns)
        tall = self._rows.apply(logits[:, sources], rows)  # (h, sources)
        values = self._columns.apply(tall.T.contiguous(), columns, sources.start)  # (w, h)
        return Part(columns.start, rows.start, values.cpu().numpy())


class _Axis:
    """The weights (length, low) of one axis, and which of the `low` places each of `length` pixels is made of."""

    def __init__(self, low: int, side: int, resized: int, length: int, device: torch.device | None) -> None:
        weights = torch.eye(low, device=device)[None, None]
        for size, kept in ((side, resized), (length, length)):
            weights = F.interpolate(weights, (size, low), mode="bilinear", align_corners=False)[:, :, :kept]
        self.weights = weights[0, 0]
        used = (self.weights != 0).cpu().numpy()
        self.first = used.argmax(axis=1)
        self.last = low - 1 - used[:, ::-1].argmax(axis=1)

    def reach(self, places: Tensor) -> slice | None:
        """The pixels into which any of the marked places (low,) goes; None where there is no such pixel."""
        found = np.flatnonzero(places.cpu().numpy())
        if not len(found):
            return None
        start = int(np.searchsorted(self.last, found[0]))
        stop = int(np.searchsorted(self.first, found[-1], side="right"))
        return slice(start, stop) if start < stop else None

    def sources(self, pixels: slice) -> slice:
        """The places that these pixels are made of."""
        return slice(int(self.first[pixels.start]), int(self.last[pixels.stop - 1]) + 1)

    def apply(self, values: Tensor, pixels: slice, offset: int = 0) -> Tensor:
        """(places, n), the first of them place `offset` -> (pixels, n)."""
        made = values.new_empty(pixels.stop - pixels.start, values.shape[1])
        for start in range(pixels.start, pixels.stop, BLOCK):
            block = slice(start, min(start + BLOCK, pixels.stop))
            places = self.sources(block)
            near = values[places.start - offset : places.stop - offset]
            torch.mm(self.weights[block, places], near, out=made[start - pixels.start :][: block.stop - start])
        return made
