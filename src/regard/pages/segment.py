"""The page in which an image's masks are looked at, named and taken along: what it is made of, and its file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from regard.masks import Mask, RunLengths
from regard.pages.build import build, write_page
from regard.pages.data import PLAIN, Coded, Store, plain

STYLES = ("base.css", "segment.css")
MODULES = "segment.js"
LONGEST = 1600  # pixels of the longer side of the picture on the page; masks keep the image's own
SMALL = 300_000  # bytes up to which that picture stays lossless
QUALITY = 88  # of JPEG, above


@dataclass(frozen=True)
class Clicks:
    """What a click answers without a model: for each of G places, k masks.

    places: (G, 2) x, y in pixels of the image; runs: G rows of k, all of one size, which may be smaller than the
    image's: the page makes them as large again, with smooth edges; iou: (G, k), the model's estimates.
    """

    places: np.ndarray
    runs: Sequence[Sequence[RunLengths]] = field(repr=False)
    iou: np.ndarray


@dataclass(frozen=True)
class SegmentedImage:
    """One image of the page, packed: words, as JSON; blobs, by what they hold."""

    words: dict[str, Any] = field(repr=False)
    index: dict[str, dict[str, list[Any]]] = field(repr=False)
    blobs: dict[str, str] = field(repr=False)

    @property
    def bytes(self) -> int:
        """What it adds to the page, nearly."""
        return sum(map(len, self.blobs.values()))


@dataclass(frozen=True)
class SegmentPage:
    """All of the page.

    model: its name and weights; asked: what was prompted, in words; command: what makes the page again.
    """

    model: str
    images: Sequence[SegmentedImage]
    asked: str = ""
    notes: Sequence[str] = ()
    command: str = ""


def segmented_image(
    name: str, pixels: np.ndarray, masks: Sequence[Mask], clicks: Clicks | None = None
) -> SegmentedImage:
    """Packs one image, so that of many only what the page holds stays in memory.

    pixels: (H, W, 3) uint8 as the user sees them; masks of the same size.
    """
    height, width = pixels.shape[:2]
    store = Store()
    store.add(
        "masks",
        **_packed([mask.runs for mask in masks]),
        number=plain(np.array([mask.number for mask in masks], np.int32)),
        iou=plain(np.array([mask.predicted_iou for mask in masks])),
        stability=plain(np.array([np.nan if mask.stability is None else mask.stability for mask in masks])),
        score=plain(np.array([np.nan if mask.score is None else mask.score for mask in masks])),
    )
    if clicks is not None:
        store.add(
            "clicks",
            **_packed([one for row in clicks.runs for one in row]),
            places=plain(np.asarray(clicks.places, np.float32)),
            iou=plain(np.asarray(clicks.iou, np.float32)),
        )
    words = {
        "name": name,
        "height": height,
        "width": width,
        "names": [mask.name for mask in masks],
        "points": [[[round(x, 1), round(y, 1)] for x, y in mask.points] for mask in masks],
        "clicks": None if clicks is None or not len(clicks.places) else _grid(clicks),
    }
    return SegmentedImage(words, store.index, {**store.texts, "picture": _picture(pixels)})


def write_segment(page: SegmentPage, path: str | Path) -> Path:
    """Writes the page as one file that needs no other. Raises RegardError where it cannot be written."""
    return write_page(path, render_segment(page))


def render_segment(page: SegmentPage) -> str:
    """The page as HTML text."""
    index: dict[str, dict[str, list[Any]]] = {}
    blobs: dict[str, str] = {}
    for number, image in enumerate(page.images):
        index |= {f"{kind}-{number}": arrays for kind, arrays in image.index.items()}
        blobs |= {f"{kind}-{number}": text for kind, text in image.blobs.items()}
    words = {
        "title": _title(page),
        "model": page.model,
        "asked": page.asked,
        "images": [image.words for image in page.images],
        "clicks": any(image.words["clicks"] for image in page.images),
        "notes": list(page.notes),
        "command": page.command,
        "index": index,
    }
    return build("segment.html", MODULES, STYLES, words, blobs)


def _grid(clicks: Clicks) -> dict[str, int]:
    """How many places there are, and the size of their masks."""
    first = clicks.runs[0][0]
    return {"count": len(clicks.places), "height": first.height, "width": first.width}


def _title(page: SegmentPage) -> str:
    first = page.images[0].words["name"] if page.images else "nothing"
    more = f" and {len(page.images) - 1} more" if len(page.images) > 1 else ""
    return f"Masks of {first}{more}"


def _packed(runs: Iterable[RunLengths]) -> dict[str, Coded]:
    """COCO's compressed strings one after another, and where each begins: (n + 1,)."""
    texts = [one.text.encode("ascii") for one in runs]
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return {"runs": Coded(PLAIN, np.frombuffer(b"".join(texts), np.uint8)), "starts": plain(starts)}


def _picture(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8, made smaller where its longer side is above LONGEST, as a data: URL."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS, reducing_gap=3.0)
    if picture.width * picture.height <= SMALL:  # else a lossless file would surely be larger
        content = _encoded(picture, "PNG", optimize=True)
        if len(content) <= SMALL:
            return f"data:image/png;base64,{base64.b64encode(content).decode()}"
    content = _encoded(picture, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _encoded(picture: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
