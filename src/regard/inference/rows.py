"""Many photos through one model, in order and in constant memory: decode in threads, batch, infer."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from regard.data.decoding import ImageError
from regard.inference.memory import InParts
from regard.inference.precision import Precision, autocast, device_of

if TYPE_CHECKING:
    from regard.data.transforms import Preprocess
    from regard.inference.loaded import LoadedModel


@dataclass(frozen=True)
class Row:
    """One photo's answer: logits (K,) float32, or None with an error code and a line that explains it."""

    id: str
    logits: np.ndarray | None
    error: str = ""
    message: str = ""


@dataclass(frozen=True)
class Decoded:
    """Some photos of a sequence: pixels (G, 3, S, S) uint8 of the good ones, errors by place."""

    good: list[int]  # places in this group, ascending
    pixels: Tensor
    errors: dict[int, ImageError]

    def __len__(self) -> int:
        return len(self.good) + len(self.errors)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoded_batches(
    sources: Iterable[Any], preprocess: Preprocess, batch_size: int, threads: int | None = None
) -> Iterator[Decoded]:
    """Groups of `batch_size` photos in order, decoded ahead by threads; at most three groups are held."""
    remaining = iter(sources)
    with ThreadPoolExecutor(threads or min(usable_cores(), 16), thread_name_prefix="decode") as pool:
        waiting: deque[Future[Tensor]] = deque(
            pool.submit(preprocess.pixels, source) for source in islice(remaining, 2 * batch_size)
        )
        try:
            while waiting:
                group = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                decoded = _gather(group, preprocess.size)
                waiting.extend(pool.submit(preprocess.pixels, source) for source in islice(remaining, len(group)))
                yield decoded
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _gather(group: list[Future[Tensor]], size: int) -> Decoded:
    pixels, errors = {}, {}
    for place, future in enumerate(group):
        try:
            pixels[place] = future.result()
        except ImageError as error:
            errors[place] = error
    empty = torch.empty(0, 3, size, size, dtype=torch.uint8)
    return Decoded(list(pixels), torch.stack(list(pixels.values())) if pixels else empty, errors)


def run_batch(
    loaded: LoadedModel, function: Callable[[Tensor], Tensor], pixels: Tensor, precision: Precision
) -> np.ndarray:
    """float32 (B, ...): `function` of normalised pixels (B, 3, S, S), which travel to the device as bytes.

    Where memory does not suffice, the photos pass in parts; RegardError where it does not for a single one.
    """
    device = device_of(loaded.model)
    with torch.inference_mode():
        images = loaded.preprocess.normalise(pixels.to(device, non_blocking=True))
        with autocast(precision, device):
            output = InParts(function)(images)
        return output.float().cpu().numpy()


def output_batches(
    run: Callable[[Tensor], np.ndarray],
    sources: Iterable[Any],
    preprocess: Preprocess,
    batch_size: int = 32,
    threads: int | None = None,
) -> Iterator[tuple[Decoded, np.ndarray | None]]:
    """Groups of `batch_size` photos in order, with what `run` says of the good ones (G, ...); None without any.

    run: pixels (G, 3, S, S) uint8 -> float32. What goes through it together depends on the order alone.
    """
    for decoded in decoded_batches(sources, preprocess, batch_size, threads):
        yield decoded, run(decoded.pixels) if decoded.good else None


def outputs(
    loaded: LoadedModel,
    function: Callable[[Tensor], Tensor],
    ids: Iterable[str],
    sources: Iterable[Any],
    batch_size: int = 32,
    precision: Precision = "fp32",
    threads: int | None = None,
) -> Iterator[tuple[str, np.ndarray | None, ImageError | None]]:
    """(id, float32 `function` of the normalised image, None) per photo in order; (id, None, error) if bad."""

    def run(pixels: Tensor) -> np.ndarray:
        return run_batch(loaded, function, pixels, precision)

    names = iter(ids)
    loaded.model.eval()
    for decoded, found in output_batches(run, sources, loaded.preprocess, batch_size, threads):
        answers = dict(zip(decoded.good, found, strict=True)) if found is not None else {}
        for place in range(len(decoded)):
            yield next(names), answers.get(place), decoded.errors.get(place)


def predict_rows(
    loaded: LoadedModel,
    ids: Iterable[str],
    sources: Iterable[Any],
    batch_size: int = 32,
    precision: Precision = "fp32",
    threads: int | None = None,
) -> Iterator[Row]:
    """One row per photo, in order.

    A photo that cannot be decoded keeps its row, with an error code and no logits.
    """
    for name, logits, error in outputs(loaded, loaded.model, ids, sources, batch_size, precision, threads):
        yield Row(name, logits) if error is None else Row(name, None, error.code, str(error))
