"""Batches whose content is a function of (seed, step) alone, not of threads, timing or the point of resuming.

The stream is an endless chain of permutations, one per epoch, cut into batches of exactly `batch_size`
that run across the borders, so that equal steps are equal images seen. Each image draws its augmentation
from a generator of its own, keyed by (seed, epoch, row, view): Philox is counter-based, so a key and a start
of the counter are enough. The view counts the times that a row has come in its epoch, where it comes more
than once: classes drawn equally often, or each image several times in a row (Hoffer et al. 2020).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.data.augment import Augment
from regard.data.decoding import ImageError, decode, open_image
from regard.data.mixing import Mixing
from regard.data.transforms import Preprocess
from regard.errors import RegardError

CACHE_BYTES = 3 * 2**29  # 1.5 GiB
AHEAD = 2  # batches under way besides the one in the consumer's hands

ORDER, IMAGE, MIX = 1, 2, 3  # what a generator is for: the second word of its key


@dataclass(frozen=True)
class Batch:
    """images (B, 3, H, W) float32; targets (B,) int64, or (B, K) float32: soft, or as the labels are; rows (B,)."""

    images: Tensor
    targets: Tensor
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: np.ndarray) -> Batch:
        """The images at these places of the batch."""
        index = torch.from_numpy(places)
        return Batch(self.images[index], self.targets[index], self.rows[places])


class Images(Protocol):
    """What is needed of an `ImageSet`."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def sources(self) -> Sequence[Any]: ...


class Plan(NamedTuple):
    """Which images make up one batch."""

    step: int
    rows: np.ndarray
    epochs: np.ndarray | None  # of each row; None: not augmented, not mixed
    views: np.ndarray | None = None  # of each row in its epoch, from 0; None as for the epochs
    kept: np.ndarray | None = None  # places that remain once mixed; the other rows are only mixed in. None: all


def share(count: int, part: int, parts: int) -> np.ndarray:
    """Ascending places of one of `parts` equal parts of a batch of `count` images.

    Place i and its mirror count - 1 - i, which MixUp and CutMix blend, lie in one part where its size is even, and the
    parts of a part are parts of the whole. Where `parts` does not divide, sizes differ by one.
    """
    half, odd = divmod(count, 2 * parts)
    if odd:
        return np.array_split(np.arange(count), parts)[part]
    low = np.arange(part * half, (part + 1) * half)
    return np.concatenate([low, count - 1 - low[::-1]])


def generator(seed: int, purpose: int, major: int, minor: int = 0, view: int = 0) -> np.random.Generator:
    """The generator of one purpose at one place of the stream; those of different places never overlap."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, view, major, minor]))


def times_before(rows: np.ndarray) -> np.ndarray:
    """(N,) how often each element occurs before its own place."""
    order = np.argsort(rows, kind="stable")
    new = np.append(True, rows[order][1:] != rows[order][:-1])[: len(rows)]
    starts = np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))
    before = np.empty(len(rows), np.int64)
    before[order] = np.arange(len(rows)) - starts
    return before


def mirrored_boxes(boxes: Tensor) -> Tensor:
    """(B, 4) x0, y0, x1, y1 in shares of the image -> those of its mirror image."""
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([1 - x1, y0, 1 - x0, y1], dim=1)


class Batches:
    """Deterministic batches of the chosen rows of an image set.

    rows: row numbers of `images`, in the order that `once` follows. augment None: the preprocessed image.
    mixing: soft targets where it is active (num_classes needed for labels (N,)), else labels as they are.
    strata: (N,) a class per image of `images`; those of the rows are then drawn equally often in each epoch
    of `from_step`. repeats: times that it gives each drawn image in a row, augmented anew each time. boxes:
    the labels are x0, y0, x1, y1 in shares of the image and follow its mirroring. cache_bytes: where the
    decoded pixels of all rows fit, they are kept in memory after their first use; pass 0 for a single
    pass. An unreadable image is an ImageError that names it; none is ever replaced.
    """

    def __init__(
        self,
        images: Images,
        rows: Iterable[int] | np.ndarray,
        preprocess: Preprocess,
        augment: Augment | None = None,
        mixing: Mixing | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        num_classes: int = 0,
        strata: np.ndarray | None = None,
        repeats: int = 1,
        boxes: bool = False,
        threads: int | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.images, self.preprocess = images, preprocess
        self.rows = np.array(list(rows), dtype=np.int64)
        self.labels = np.asarray(images.labels, np.int64 if np.ndim(images.labels) == 1 else np.float32)
        self.augment, self.mixing = augment, mixing if mixing is not None and mixing.active else None
        self.batch_size, self.seed, self.num_classes = batch_size, seed, num_classes
        self.strata, self.repeats, self.boxes = strata, repeats, boxes
        self.threads = threads or min(8, os.cpu_count() or 1)
        if batch_size < 1:
            raise RegardError(f"batch size {batch_size}: expected 1 or more")
        if not 0 <= seed < 2**63:
            raise RegardError(f"seed {seed}: expected 0 or more, below 2^63")
        if repeats < 1:
            raise RegardError(f"repeats {repeats}: expected 1 or more")
        if self.mixing and self.labels.ndim == 1 and num_classes <= self.labels[self.rows].max(initial=0):
            raise RegardError(f"num_classes {num_classes}: soft targets need the number of classes")
        self._source: Callable[[int], Any] = images.sources.__getitem__
        self._pixels: Callable[[int], np.ndarray] = self._preprocessed
        if augment is not None and augment.crop == "resized":
            if self._decoded_bytes() <= cache_bytes:
                self._source = Kept(self._decoded)
        elif 3 * preprocess.size**2 * len(self.rows) <= cache_bytes:
            self._pixels = Kept(self._preprocessed)

    def __len__(self) -> int:
        """Batches of one pass by `once`."""
        return -(-len(self.rows) // self.batch_size)

    def from_step(self, step: int = 0, part: int = 0, parts: int = 1) -> Generator[Batch, None, None]:
        """The endless training stream from batch number `step` on: as if all before had been drawn.

        parts: gives only this `share` of each batch, the same images as in the whole one, mixed as there.
        """
        if len(self.rows) == 0:
            raise RegardError("no training images are left; at least one is needed")
        if self.batch_size % parts:
            raise RegardError(f"--batch-size {self.batch_size}: cannot be shared equally by {parts} processes")
        plans = self._steps(step)
        return self._stream(plans if parts == 1 else (self._shared(plan, part, parts) for plan in plans))

    def once(self) -> Generator[Batch, None, None]:
        """One pass in the given order: not augmented, not mixed, labels as they are, a smaller last batch."""
        return self._stream(self._ordered())

    def order(self, epoch: int) -> np.ndarray:
        """The rows in the order of one epoch of `from_step`, as many as there are.

        With strata each class gives its equal part: what it has in a random order, again and again where that
        is fewer.
        """
        rng = generator(self.seed, ORDER, epoch)
        if self.strata is None:
            return rng.permutation(self.rows)
        own = self.strata[self.rows]
        classes = np.unique(own)
        quotas = np.full(len(classes), len(self.rows) // len(classes))
        quotas[rng.permutation(len(classes))[: len(self.rows) % len(classes)]] += 1
        drawn = [self.rows[:0]]
        for class_, quota in zip(classes, quotas, strict=True):
            members = self.rows[own == class_]
            turns = [rng.permutation(members) for _ in range(-(-quota // len(members)))]
            drawn.append(np.concatenate([*turns, members[:0]])[:quota])
        return rng.permutation(np.concatenate(drawn))

    # which rows come when

    def _steps(self, step: int) -> Iterator[Plan]:
        count = len(self.rows)
        orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # epoch -> rows, times that each came before
        while True:
            places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
            draws, copies = places // self.repeats, places % self.repeats
            epochs = draws // count
            needed = range(int(epochs[0]), int(epochs[-1]) + 1)
            orders = {epoch: orders.get(epoch) or self._epoch(epoch) for epoch in needed}
            parts = [(orders[epoch], draws[epochs == epoch] % count) for epoch in needed]
            rows = np.concatenate([order[chosen] for (order, _), chosen in parts])
            views = np.concatenate([before[chosen] for (_, before), chosen in parts]) * self.repeats + copies
            yield Plan(step, rows, epochs, views)
            step += 1

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = self.order(epoch)
        return order, times_before(order)

    def _shared(self, plan: Plan, part: int, parts: int) -> Plan:
        own = share(len(plan.rows), part, parts)
        mixes = self.mixing is not None and self.mixing.mixes
        needed = np.union1d(own, len(plan.rows) - 1 - own) if mixes else own
        assert plan.epochs is not None and plan.views is not None
        kept = None if len(needed) == len(own) else np.searchsorted(needed, own)
        return Plan(plan.step, plan.rows[needed], plan.epochs[needed], plan.views[needed], kept)

    def _ordered(self) -> Iterator[Plan]:
        for step in range(len(self)):
            yield Plan(step, self.rows[step * self.batch_size : (step + 1) * self.batch_size], None)

    # pixels of one row

    def _preprocessed(self, row: int) -> np.ndarray:
        """(3, size, size) uint8."""
        with self._naming(row):
            return self.preprocess.pixels(self.images.sources[row]).numpy()

    def _decoded(self, row: int) -> np.ndarray:
        """HxWx3 uint8."""
        with self._naming(row):
            return decode(self.images.sources[row])

    def _augmented(self, augment: Augment, row: int, rng: np.random.Generator) -> Tensor:
        """(3, size, size) uint8."""
        if augment.crop == "resized":
            with self._naming(row):
                return augment(self._source(row), self.preprocess, rng)
        return augment.of_pixels(self._pixels(row), self.preprocess, rng)

    @contextmanager
    def _naming(self, row: int) -> Iterator[None]:
        """The id joins a complaint about an image that is no file and so has no name of its own."""
        try:
            yield
        except ImageError as error:
            name = self.images.ids[row]
            raise error if name in str(error) else ImageError(f"{name}: {error}", error.code) from error

    def _decoded_bytes(self) -> float:
        """Memory that all decoded rows would take, from the headers of up to 64 of them."""
        sample = self.rows[:: max(1, len(self.rows) // 64)]
        sizes = []
        for row in sample:
            with self._naming(row):
                opened = open_image(self.images.sources[row])
            sizes.append(3 * opened.height * opened.width)
        return len(self.rows) * float(np.mean(sizes)) if sizes else 0.0

    # batches

    def _fill(self, out: Tensor, plan: Plan, cut: slice) -> None:
        """A part of a batch, by one thread: out is (n, 3, size, size) float32."""
        rows = plan.rows[cut]
        if self.augment is None or plan.epochs is None:
            pixels = np.stack([self._pixels(int(row)) for row in rows])
            out.copy_(self.preprocess.normalise(torch.from_numpy(pixels)))
            return
        rngs = self._generators(plan, cut)
        varied = [self._augmented(self.augment, int(row), rng) for row, rng in zip(rows, rngs, strict=True)]
        out.copy_(self.preprocess.normalise(torch.stack(varied)))
        if self.augment.erase > 0:
            for image, rng in zip(out, rngs, strict=True):
                self.augment.finish(image, rng)

    def _generators(self, plan: Plan, cut: slice = slice(None)) -> list[np.random.Generator]:
        """One for each image of a part of a training batch, as it is before the first draw."""
        assert plan.epochs is not None and plan.views is not None
        places = zip(plan.epochs[cut].tolist(), plan.rows[cut].tolist(), plan.views[cut].tolist(), strict=True)
        return [generator(self.seed, IMAGE, *place) for place in places]

    def _finish(self, plan: Plan, images: Tensor) -> Batch:
        targets = torch.from_numpy(self.labels[plan.rows])
        if self.boxes and self.augment is not None and plan.epochs is not None:
            mirrored = torch.tensor([self.augment.mirrors(rng) for rng in self._generators(plan)])
            targets = torch.where(mirrored[:, None], mirrored_boxes(targets), targets)
        if self.mixing is not None and plan.epochs is not None:
            soft = F.one_hot(targets, self.num_classes).float() if targets.ndim == 1 else targets
            images, targets = self.mixing(images, soft, generator(self.seed, MIX, plan.step))
        batch = Batch(images, targets, plan.rows)
        return batch if plan.kept is None else batch[plan.kept]

    def _stream(self, plans: Iterator[Plan]) -> Generator[Batch, None, None]:
        """Fill batches ahead of the consumer; whatever ends the iteration, the threads end with it."""
        size = self.preprocess.size
        part = max(1, -(-self.batch_size // (2 * self.threads)))
        waiting: deque[tuple[Plan, Tensor, list[Future]]] = deque()
        pool = start_threads(self.threads)

        def filled() -> Batch:
            plan, images, parts = waiting.popleft()
            for future in parts:
                future.result()
            return self._finish(plan, images)

        try:
            for plan in plans:
                images = torch.empty(len(plan.rows), 3, size, size)
                cuts = [slice(start, start + part) for start in range(0, len(plan.rows), part)]
                parts = [pool.submit(self._fill, images[cut], plan, cut) for cut in cuts]
                waiting.append((plan, images, parts))
                if len(waiting) > AHEAD:
                    yield filled()
            while waiting:
                yield filled()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Kept:
    """Results of `make` by row, computed once. Two threads may both compute one: the results are equal."""

    def __init__(self, make: Callable[[int], np.ndarray]) -> None:
        self.make = make
        self.results: dict[int, np.ndarray] = {}

    def __call__(self, row: int) -> np.ndarray:
        result = self.results.get(row)
        if result is None:
            result = self.results[row] = self.make(row)
        return result


def start_threads(count: int) -> ThreadPoolExecutor:
    """A pool whose threads run torch operations alone instead of each calling in a team of their own."""
    before = torch.get_num_threads()
    ready = threading.Barrier(count + 1)

    def alone() -> None:
        torch.get_num_threads()  # takes over the process-wide number, which would undo the next line later
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="regard-images", initializer=alone)
    for _ in range(count):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)  # the call above also changed what threads started later would take over
    return pool
