"""Small copies of photos for the report: each once, without metadata, together within a byte budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

LADDER = (
    (96, 72),
    (96, 55),
    (80, 50),
    (72, 40),
    (64, 32),
    (56, 24),
    (48, 16),
    (40, 8),
    (32, 1),
)  # (longer side, quality)
TINY = 16  # sides up to this are kept pixel for pixel
SAMPLE = 48  # photos that decide the first rung tried


@dataclass(frozen=True)
class Thumbnails:
    """Base64 WebP per photo id, '' where it could not be read; `side` is the longer side in pixels."""

    side: int
    data: dict[str, str]

    @property
    def size(self) -> int:
        """Characters of all pictures together."""
        return sum(map(len, self.data.values()))


def encode_thumbnail(pixels: np.ndarray, side: int, quality: int) -> bytes:
    """HxWx3 uint8 -> WebP bytes, longer side at most `side`; made from pixels alone: no metadata survives."""
    image = Image.fromarray(np.ascontiguousarray(pixels[..., :3], dtype=np.uint8))
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=quality, method=2, lossless=max(image.size) <= TINY)
    return out.getvalue()


def make_thumbnails(
    ids: Sequence[str], pixels: Callable[[str], np.ndarray | None], budget: int = 7_500_000
) -> Thumbnails:
    """Thumbnails of `ids`, at the largest size and quality whose base64 stays within `budget` characters.

    A sample chooses the size; where the rest turns out heavier, smaller sizes follow. Photos that do not fit
    even then are left out from the end of `ids`, so callers put what matters first.
    """
    kept = {id_: _shrunk(pixels(id_)) for id_ in ids}
    readable = [id_ for id_ in ids if kept[id_] is not None]
    sample = readable[:: max(1, len(readable) // SAMPLE)]
    encoded: dict[str, str] = {}
    side, quality = LADDER[-1]
    for side, quality in LADDER:
        expected = sum(len(_base64(kept[id_], side, quality)) for id_ in sample) / max(1, len(sample)) * len(readable)
        if expected > budget:
            continue
        encoded = {id_: _base64(kept[id_], side, quality) for id_ in ids}
        if sum(map(len, encoded.values())) <= budget:
            return Thumbnails(side, encoded)
    return Thumbnails(side, _as_many_as_fit(encoded or {i: _base64(kept[i], side, quality) for i in ids}, budget))


def _shrunk(pixels: np.ndarray | None) -> np.ndarray | None:
    """At most LADDER's first side, so that a thousand decoded photos fit into memory."""
    if pixels is None:
        return None
    image = Image.fromarray(np.ascontiguousarray(pixels[..., :3], dtype=np.uint8))
    image.thumbnail((LADDER[0][0], LADDER[0][0]), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(image)


def _base64(pixels: np.ndarray | None, side: int, quality: int) -> str:
    return "" if pixels is None else base64.b64encode(encode_thumbnail(pixels, side, quality)).decode("ascii")


def _as_many_as_fit(encoded: dict[str, str], budget: int) -> dict[str, str]:
    kept, used = {}, 0
    for id_, text in encoded.items():
        used += len(text)
        kept[id_] = text if used <= budget else ""
    return kept
