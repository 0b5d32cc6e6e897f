"""Photos as models see them, and as people do: decoded ahead by threads, in order, in constant memory."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from regard.data.decoding import ImageError
    from regard.data.transforms import Preprocess

LONGEST = 60  # letters of a photo's name in the names of its files


@dataclass(frozen=True)
class View:
    """What one model sees of a photo.

    pixels: (3, S, S) uint8. window: left, top, right, bottom in pixels of the upright photo; picture: what lies in it,
    (H, W, 3) uint8, for drawing.
    """

    pixels: Tensor
    window: tuple[float, float, float, float]
    picture: np.ndarray


@dataclass(frozen=True)
class Photo:
    """A photo: its size in pixels, upright, and what each model sees of it."""

    height: int
    width: int
    views: tuple[View, ...]


def look_at(file: Path, preprocesses: Sequence[Preprocess]) -> Photo | ImageError:
    """The photo, or why it cannot be read."""
    from regard.data.decoding import ImageError, open_image, reduction
    from regard.reporting.overlays import SIDE, cut_out

    try:
        opened = open_image(file)
        windows = [preprocess.seen(opened.height, opened.width) for preprocess in preprocesses]
        shortest = min(max(right - left, bottom - top) for left, top, right, bottom in windows)
        reduce = reduction(int(shortest), SIDE)
        decoded = opened.pixels(reduce)
        scale = 1 if decoded.shape[:2] == (opened.height, opened.width) else 1 / reduce
        views = tuple(
            View(preprocess.pixels(file), window, cut_out(decoded, window, scale))
            for preprocess, window in zip(preprocesses, windows, strict=True)
        )
    except ImageError as error:
        return error
    return Photo(opened.height, opened.width, views)


def batches(
    files: Sequence[Path], preprocesses: Sequence[Preprocess], batch_size: int
) -> Iterator[list[Photo | ImageError]]:
    """Photos in order, `batch_size` at a time; at most three batches are held."""
    from regard.inference.rows import usable_cores

    remaining = iter(files)
    with ThreadPoolExecutor(min(usable_cores(), 16), thread_name_prefix="decode") as pool:
        waiting: deque[Future[Photo | ImageError]] = deque()
        try:
            while True:
                needed = 2 * batch_size - len(waiting)
                waiting.extend(pool.submit(look_at, file, preprocesses) for file in islice(remaining, needed))
                if not waiting:
                    return
                yield [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def safe_names(ids: Sequence[str]) -> list[str]:
    """A name for the files of each photo: its number, which makes it unique and keeps the order, and its own name in
    plain letters.
    """
    digits = len(str(len(ids)))
    names = [plain(Path(id_).stem)[:LONGEST].strip("._-+=") for id_ in ids]
    return [f"{number:0{digits}d}-{name}".rstrip("-") for number, name in enumerate(names, start=1)]


def plain(text: str) -> str:
    """With an underscore for whatever a file's name should not have."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", text)
