"""Batches shared by several processes: every image and every mixed pair as in the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch

from regard.data.augment import Augment
from regard.data.loader import Batch, Batches, share
from regard.data.mixing import Mixing
from regard.data.transforms import Preprocess
from regard.errors import RegardError


@dataclass(frozen=True)
class Memory:
    sources: list[np.ndarray]
    labels: np.ndarray

    @property
    def ids(self) -> list[str]:
        return [str(number) for number in range(len(self.sources))]


def make(batch_size: int, mixing: Mixing | None) -> Batches:
    rng = np.random.default_rng(0)
    images = Memory([rng.integers(0, 255, (12, 12, 3)).astype(np.uint8) for _ in range(20)], rng.integers(0, 3, 20))
    augment = Augment(crop="resized", scale=(0.5, 1.0), flip=0.5, randaugment=(1, 5.0), erase=0.5)
    return Batches(
        images,
        range(18),
        Preprocess(size=8, crop_pct=1.0),
        augment,
        mixing,
        batch_size=batch_size,
        num_classes=3,
        threads=2,
    )


@pytest.mark.parametrize("count", [8, 12, 6, 5, 1])
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_parts_make_up_the_whole(count: int, parts: int):
    together = np.concatenate([share(count, part, parts) for part in range(parts)])
    assert sorted(together) == list(range(count))
    if count % (2 * parts) == 0:
        for part in range(parts):
            own = share(count, part, parts)
            assert (np.diff(own) > 0).all()
            assert set(count - 1 - own) == set(own)


def test_parts_of_parts_are_parts():
    for rank in range(2):
        own = share(24, rank, 2)
        for part in range(3):
            np.testing.assert_array_equal(own[share(12, part, 3)], share(24, 3 * rank + part, 6))


@pytest.mark.parametrize("mixing", [None, Mixing(0.8, 1.0, 1.0, 0.1), Mixing(smoothing=0.1)])
@pytest.mark.parametrize(("batch_size", "parts"), [(8, 2), (8, 4), (6, 2), (4, 4), (9, 3)])
def test_shares_hold_what_the_whole_batch_holds(mixing: Mixing | None, batch_size: int, parts: int):
    batches = make(batch_size, mixing)
    wholes = list(islice(batches.from_step(1), 4))
    shares = [list(islice(batches.from_step(1, part, parts), 4)) for part in range(parts)]
    for number, whole in enumerate(wholes):
        for part in range(parts):
            own: Batch = shares[part][number]
            expected = whole[share(batch_size, part, parts)]
            assert len(own) == batch_size // parts
            np.testing.assert_array_equal(own.rows, expected.rows)
            assert torch.equal(own.images, expected.images)
            assert torch.equal(own.targets, expected.targets)


def test_a_batch_that_cannot_be_shared_equally():
    with pytest.raises(RegardError, match="--batch-size 8: cannot be shared equally by 3 processes"):
        make(8, None).from_step(0, 1, 3)
