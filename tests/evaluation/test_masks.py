"""Agreement of masks against loops over pixels, and against pycocotools where it says something."""

from __future__ import annotations

import math

import numpy as np
import pytest

from regard.evaluation.masks import boundary, boundary_iou, iou, mean_by_image

SHAPES = ((1, 1), (5, 9), (40, 30), (64, 64))


def random_mask(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Half noise, half one rectangle, which touches the edge now and then."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.3 if seed % 2 else np.zeros(shape, bool)
    y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
    mask[y : y + 1 + shape[0] // 2, x : x + 1 + shape[1] // 2] = True
    return mask


def plain_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Erode by 3 x 3, `width` times, with nothing beyond the edge."""
    height, across = mask.shape
    core = mask.copy()
    for _ in range(width):
        before = core.copy()
        for y in range(height):
            for x in range(across):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        inside = 0 <= y + dy < height and 0 <= x + dx < across
                        if not inside or not before[y + dy, x + dx]:
                            core[y, x] = False
    return mask & ~core


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_the_boundary_is_what_erosion_step_by_step_takes_away(shape: tuple[int, int], seed: int) -> None:
    mask = random_mask(shape, seed)
    width = max(1, round(0.02 * math.hypot(*shape)))
    assert np.array_equal(boundary(mask), plain_boundary(mask, width))
    assert np.array_equal(boundary(mask, 0.06), plain_boundary(mask, max(1, round(0.06 * math.hypot(*shape)))))


def test_iou_counts_pixels() -> None:
    mask, truth = random_mask((40, 30), 1), random_mask((40, 30), 3)
    both = sum(bool(a and b) for a, b in zip(mask.ravel(), truth.ravel(), strict=True))
    either = sum(bool(a or b) for a, b in zip(mask.ravel(), truth.ravel(), strict=True))
    assert iou(mask, truth) == both / either
    assert iou(mask, mask) == boundary_iou(mask, mask) == 1
    nothing = np.zeros_like(mask)
    assert iou(mask, nothing) == boundary_iou(mask, nothing) == 0
    assert iou(nothing, nothing) == boundary_iou(nothing, nothing) == 1


def test_iou_is_that_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    masks = [random_mask((40, 30), seed) for seed in range(6)]
    encoded = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    theirs = coco.iou(encoded, encoded, [0] * len(masks))
    ours = [[iou(mask, other) for other in masks] for mask in masks]
    assert np.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_shift_costs_a_large_object_more_at_its_boundary() -> None:
    truth = np.zeros((200, 200), bool)
    truth[20:180, 20:180] = True
    shifted = np.roll(truth, 4, axis=1)
    assert iou(shifted, truth) > 0.94
    assert boundary_iou(shifted, truth) < 0.75


def test_the_interval_of_a_mean_counts_images() -> None:
    rng = np.random.default_rng(0)
    one_each = rng.uniform(0.5, 1.0, 50)
    images = [f"image/{number}" for number in range(50)]
    single = mean_by_image(one_each, images)
    # Ten equal masks of an image say no more than one of them.
    repeated = mean_by_image(np.repeat(one_each, 10), [name for name in images for _ in range(10)])
    assert single.low is not None and single.high is not None
    assert single.value == pytest.approx(one_each.mean(), abs=1e-12)
    assert repeated == pytest.approx(single, abs=1e-9)
    error = one_each.std(ddof=1) / math.sqrt(50)
    assert single.high - single.low == pytest.approx(2 * 2.01 * error, rel=0.1)


def test_one_image_has_no_interval() -> None:
    assert mean_by_image([0.5, 0.7], ["a", "a"]) == (0.6, None, None)
