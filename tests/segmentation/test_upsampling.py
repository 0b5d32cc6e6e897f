"""Logits where they can matter, against those of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regard.segmentation.frame import Frame
from regard.segmentation.upsampling import Upsampler

SIDES = (32, 32)


def blob(seed: int, share: float) -> torch.Tensor:
    """(32, 32) logits: noise, above 0 in about this share of the places around one of them."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    middle = random.uniform(0, 32, 2)
    far = np.hypot(y - middle[0], x - middle[1])
    return torch.from_numpy(32 * share - far + random.standard_normal(SIDES)).float()


@pytest.mark.parametrize("size", [(64, 64), (97, 141), (200, 31), (13, 20), (1, 90)])
def test_a_part_is_what_the_whole_would_be_and_the_rest_is_below_the_floor(size: tuple[int, int]) -> None:
    frame = Frame(*size, side=64)
    upsampler = Upsampler(frame, SIDES)
    smaller = 0
    for seed in range(12):
        logits, floor = blob(seed, (0.05, 0.2, 0.6)[seed % 3]), (-1.0, 0.0)[seed % 2]
        whole = frame.upsample(logits[None])[0].numpy()
        part = upsampler.part(logits, floor)
        if part is None:
            assert (whole <= floor).all()
            continue
        width, height = part.values.shape
        place = (slice(part.y, part.y + height), slice(part.x, part.x + width))
        assert np.abs(whole[place] - part.values.T).max() < 1e-5 * np.abs(whole).max()
        smaller += part.values.size < whole.size
        whole[place] = floor
        assert (whole <= floor).all()
    assert smaller > 2


def test_nothing_above_the_floor_is_no_part() -> None:
    upsampler = Upsampler(Frame(50, 70, side=64), SIDES)
    assert upsampler.part(torch.full(SIDES, -3.0), -1.0) is None
    below = torch.full(SIDES, -3.0)
    below[-1, :] = 5.0  # where the input is padded: no pixel of the image is made of it
    assert upsampler.part(below, -1.0) is None


def test_another_size_is_the_same_at_a_smaller_scale() -> None:
    frame, small = Frame(100, 140, side=64), (50, 70)
    logits = blob(3, 0.6)
    part = Upsampler(frame, SIDES, height=small[0], width=small[1]).part(logits, -100.0)
    assert part is not None and part.values.shape == small[::-1]
    whole = frame.upsample(logits[None])[0]
    middles = torch.nn.functional.avg_pool2d(whole[None, None], 2)[0, 0].numpy()
    assert np.abs(middles - part.values.T)[2:-2, 2:-2].max() < 0.35
