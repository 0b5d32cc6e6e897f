"""What `segment` will take, said when the first photo has been embedded, which is measured with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from regard.segmentation.segmenter import Segmenter
    from regard.verbs.segmenting.ways import Way

MEASURED = 4  # prompts that are timed


def expected(segmenter: Segmenter, way: Way, pixels: np.ndarray, photos: int, cache: bool) -> str:
    """A line for people; pixels: the first photo, whose embedding stays in memory for what follows."""
    from regard.inference.precision import wait
    from regard.reporting.words import duration, plural, short
    from regard.segmentation.options import Options
    from regard.segmentation.pace import expected_bytes
    from regard.segmentation.prompts import as_prompts

    start = time.perf_counter()
    embedded = segmenter.embed(pixels)
    wait(segmenter.device)
    embedding = time.perf_counter() - start
    height, width = pixels.shape[:2]
    points = np.full((MEASURED, 1, 2), (width / 2, height / 2))
    prompts, _ = as_prompts(height, width, segmenter.model.mask_sides, points, np.ones((MEASURED, 1)))
    seconds = []
    for _ in range(2):  # the first time pays for set-up
        start = time.perf_counter()
        masks = segmenter.decode(embedded, prompts)
        embedded.frame.masks(masks.logits[:, :1])
        wait(segmenter.device)
        seconds.append((time.perf_counter() - start) / MEASURED)
    prompt = min(seconds)
    total = photos * (way.cost.embeddings * embedding + way.cost.prompts * prompt)
    looked = plural(way.cost.embeddings, "embedding")
    text = f"{plural(photos, 'photo')}: about {duration(total)} ({looked} of {_short(embedding)}, "
    text += f"{plural(way.cost.prompts, 'prompt')} of {_short(prompt)} each"
    memory = expected_bytes(segmenter.model, height, width, Options())
    text += f"), up to {short(memory, 'B')} of memory beside the models"
    disk = (
        f", the cache grows by {short(photos * way.cost.embeddings * embedded.embedding.nbytes, 'B')}" if cache else ""
    )
    return f"{text}{disk}"


def _short(seconds: float) -> str:
    from regard.reporting.words import duration

    return duration(seconds) if seconds >= 1 else f"{1000 * seconds:.0f} ms"
