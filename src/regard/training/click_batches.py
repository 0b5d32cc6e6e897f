"""Batches of images with prompts for their objects: functions of (seed, step) alone, like all batches here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from regard.data.decoding import decode
from regard.data.loader import CACHE_BYTES, IMAGE, MIX, ORDER, generator
from regard.data.mask_sets import MaskSet
from regard.segmentation.frame import Frame
from regard.segmentation.segmenter import Segmenter
from regard.training.clicks import DRAWS, ClickBatch

BOXED = 0.25  # of the steps begin with boxes; half in the paper, but the corners of a box say nothing of what is inside


class Seen(NamedTuple):
    """An image as the model sees it, upright or mirrored.

    pixels: (h, w, 3) uint8, resized; truths: (n, 4h', 4w') uint8, the share of each square that an object covers, of
    255.
    """

    pixels: np.ndarray
    truths: np.ndarray


class ClickBatches:
    """Batches of `batch_size` images with `objects` of each, and `rounds` prompts in a row.

    flip: mirror half of the images; embedded: give embeddings, computed once, in place of images (never mirrored).
    """

    def __init__(
        self,
        masks: MaskSet,
        rows: np.ndarray,
        segmenter: Segmenter,
        *,
        batch_size: int,
        objects: int,
        rounds: int,
        seed: int,
        flip: bool,
        embedded: bool,
    ) -> None:
        self.masks, self.rows, self.segmenter = masks, np.asarray(rows, np.int64), segmenter
        self.batch_size, self.objects, self.rounds, self.seed = batch_size, objects, rounds, seed
        self.flip, self.embedded = flip and not embedded, embedded
        self.side, self.cells = segmenter.model.img_size, segmenter.model.mask_sides[0]
        self.kept: dict[int, Seen] | None = {} if self._bytes() < CACHE_BYTES else None

    def from_step(self, step: int = 0) -> Iterator[ClickBatch]:
        """The endless stream of training batches from number `step` on."""
        while True:
            places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
            drawn = [(int(place // len(self.rows)), int(place % len(self.rows))) for place in places]
            orders = {epoch: generator(self.seed, ORDER, epoch).permutation(self.rows) for epoch, _ in drawn}
            boxed = bool(generator(self.seed, MIX, step).random() < BOXED)
            yield self._batch([(epoch, int(orders[epoch][place])) for epoch, place in drawn], boxed)
            step += 1

    def seen(self, row: int, mirrored: bool = False) -> Seen:
        """An image of the set; kept, where memory allows."""
        if self.kept is None:
            return self._see(row, mirrored)
        number = 2 * row + mirrored
        if number not in self.kept:
            self.kept[number] = self._see(row, mirrored)
        return self.kept[number]

    def inputs(self, seen: Seen, row: int) -> Tensor:
        """(1, 3, S, S) normalised, or the embedding (1, C, h, w) of image `row`."""
        if self.embedded:
            return self.segmenter.embed(self.masks.images.sources[row]).embedding
        return Frame(len(seen.pixels), seen.pixels.shape[1], self.side).inputs(seen.pixels)

    def _batch(self, drawn: list[tuple[int, int]], boxed: bool) -> ClickBatch:
        images, truths, draws = [], [], []
        for epoch, row in drawn:
            rng = generator(self.seed, IMAGE, epoch, row)
            seen = self.seen(row, self.flip and rng.random() < 0.5)
            count = len(seen.truths)
            chosen = [rng.permutation(count) for _ in range(-(-self.objects // count))]
            truths.append(seen.truths[np.concatenate(chosen)[: self.objects]])
            draws.append(rng.random((self.objects, DRAWS + self.rounds - 1), np.float32))
            images.append(self.inputs(seen, row))
        return ClickBatch(
            torch.cat(images),
            torch.from_numpy(np.stack(truths)).float() / 255,
            torch.from_numpy(np.stack(draws)),
            np.array([row for _, row in drawn]),
            boxed,
        )

    def _see(self, row: int, mirrored: bool) -> Seen:
        pixels = decode(self.masks.images.sources[row])
        frame = Frame(len(pixels), pixels.shape[1], self.side)
        height, width = frame.resized
        resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        step = -1 if mirrored else 1
        truths = [covered(runs.decode()[:, ::step], frame, self.cells) for runs in self.masks.masks(row)]
        return Seen(np.ascontiguousarray(resized[:, ::step]), np.stack(truths))

    def _bytes(self) -> float:
        """What all images would take, by some of them."""
        sample = self.rows[:: max(1, len(self.rows) // 16)]
        counts = [len(self.masks.objects[int(row)]) for row in sample]
        sides = 2 if self.flip else 1
        return sides * len(self.rows) * (3 * self.side**2 + float(np.mean(counts)) * self.cells**2)


def covered(mask: np.ndarray, frame: Frame, cells: int) -> np.ndarray:
    """(cells, cells) uint8: the share of each square of the model's input that a (H, W) mask covers, of 255."""
    height, width = frame.resized
    shares = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
    if shares.shape[2:] != (height, width):
        shares = F.interpolate(shares, (height, width), mode="bilinear", antialias=True)
    whole = F.pad(shares, (0, frame.side - width, 0, frame.side - height))
    return F.avg_pool2d(whole, frame.side // cells)[0, 0].mul(255).round().byte().numpy()
