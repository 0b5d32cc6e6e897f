"""Run lengths against pycocotools, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from regard.errors import RegardError
from regard.masks import Mask, RunLengths


def shapes() -> list[np.ndarray]:
    """Masks of every kind: empty, full, one pixel, edges, noise, discs."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:37, :53]
    return [
        np.zeros((4, 6), bool),
        np.ones((4, 6), bool),
        np.eye(5, dtype=bool),
        np.pad(np.ones((1, 1), bool), ((0, 6), (0, 3))),
        np.pad(np.ones((1, 1), bool), ((6, 0), (3, 0))),
        (y - 20) ** 2 + (x - 30) ** 2 < 150,
        *(random.random((37, 53)) < share for share in (0.01, 0.2, 0.5, 0.99)),
        *(random.random((int(h), int(w))) < 0.5 for h, w in random.integers(1, 9, (30, 2))),
    ]


@pytest.mark.parametrize("mask", shapes(), ids=lambda mask: f"{mask.shape[0]}x{mask.shape[1]}")
def test_run_lengths_are_cocos(mask: np.ndarray) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = RunLengths.of(mask)
    assert ours.text == theirs["counts"].decode()
    assert ours.area == coco.area(theirs) == mask.sum()
    x, y, width, height = coco.toBbox(theirs)
    if ours.area:
        assert ours.box == (x, y, x + width, y + height)
    else:
        assert ours.box == (0, 0, 0, 0)
    assert np.array_equal(ours.decode(), mask)
    back = RunLengths.of_text(ours.text, *mask.shape)
    assert np.array_equal(back.decode(), mask)


@pytest.mark.parametrize("mask", shapes(), ids=lambda mask: f"{mask.shape[0]}x{mask.shape[1]}")
def test_a_part_is_encoded_at_its_place(mask: np.ndarray) -> None:
    height, width = mask.shape
    for above, below, left, right in ((0, 0, 0, 0), (0, 0, 2, 1), (3, 0, 0, 2), (0, 1, 1, 0), (2, 3, 4, 5)):
        whole = np.pad(mask, ((above, below), (left, right)))
        ours = RunLengths.of_part(mask, left, above, *whole.shape)
        assert np.array_equal(ours.decode(), whole)
        assert (ours.counts[1:] > 0).all()
        assert np.array_equal(ours.counts, RunLengths.of(whole).counts)
        assert (ours.height, ours.width) == (above + height + below, left + width + right)


def test_long_runs_take_many_letters() -> None:
    mask = np.zeros((2000, 3000), bool)
    mask[1, 1] = mask[-1, -1] = True
    ours = RunLengths.of(mask)
    assert np.array_equal(RunLengths.of_text(ours.text, 2000, 3000).counts, ours.counts)


@pytest.mark.parametrize("text", ["", "é", "a\x10", "PPPPPPPPPPPP0", "04", "o"])
def test_damaged_strings_are_refused_in_a_line(text: str) -> None:
    with pytest.raises(RegardError, match="run lengths"):
        RunLengths.of_text(text, 3, 3)


def test_a_mask_knows_its_place() -> None:
    pixels = np.zeros((10, 20), bool)
    pixels[2:5, 3:9] = True
    mask = Mask(1, RunLengths.of(pixels), predicted_iou=0.9)
    assert (mask.area, mask.box) == (18, (3, 2, 9, 5))
