"""What everything mode needs: memory, said before, and time, said on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from regard.models.sam import SAM
from regard.segmentation.options import Options

OnEvent = Callable[[dict[str, Any]], object]

# Measured at their peaks, in float32 (bfloat16 takes less): maps of all places that are held at once.
ENCODER_MAPS = 15  # of the encoder's width
DECODER_MAPS = 5  # of the decoder's width, for each click
IMAGE_MAPS = 3  # of the image's pixels: logits of a mask, their halves, its pixels at several thresholds
MASK_PIXELS = 64  # of four masks, for each place and click
TILES = 1 << 21  # logits of attention, as they are and with what distances add


def expected_bytes(model: SAM, height: int, width: int, options: Options) -> int:
    """What everything mode holds at most beside the model, for an image of height x width pixels; an upper estimate.

    The masks themselves are not counted: a few kilobytes each.
    """
    places = model.grid[0] * model.grid[1]
    encoder = ENCODER_MAPS * places * model.image_encoder.pos_embed.shape[-1] + TILES
    a_place = DECODER_MAPS * model.prompt_encoder.no_mask_embed.embedding_dim + MASK_PIXELS
    decoder = a_place * places * options.points_per_batch
    return 4 * max(encoder, decoder + IMAGE_MAPS * height * width)


class Progress:
    """Says how many points are done, and how long the rest takes at the pace so far.

    points: how many each crop has.
    """

    def __init__(self, on_event: OnEvent, points: list[int]) -> None:
        self._on_event, self._points = on_event, points
        self._crops = self._done = 0
        self._embedding = self._decoding = 0.0  # seconds
        self._last = time.perf_counter()

    def embedded(self) -> None:
        """One more crop was."""
        self._crops += 1
        self._embedding += self._lap()

    def decoded(self, points: int) -> None:
        """So many more points were."""
        self._done += points
        self._decoding += self._lap()
        total = sum(self._points)
        left = self._decoding / self._done * (total - self._done)
        left += self._embedding / self._crops * (len(self._points) - self._crops)
        self._on_event(
            {"event": "progress", "title": "segmenting", "done": self._done, "total": total, "seconds_left": left}
        )

    def _lap(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last
