"""Synthetic scenes: functions of (seed, number), with masks that fit what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from regard.data.scenes import SMALLEST, make_scene, make_scenes


def test_a_scene_is_a_function_of_seed_and_number() -> None:
    one, again = make_scene(3, 7), make_scene(3, 7)
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.masks, again.masks)
    assert one.wholes == again.wholes
    for other in (make_scene(3, 8), make_scene(4, 7)):
        assert not np.array_equal(one.image, other.image)


def test_a_series_can_begin_anywhere() -> None:
    images = [scene.image for scene in make_scenes(0, 4, side=32)]
    assert np.array_equal(images[3], next(iter(make_scenes(0, 1, side=32, first=3))).image)


@pytest.mark.parametrize("side", [32, 128])
def test_objects_are_visible_parts_lie_in_wholes_and_others_apart(side: int) -> None:
    parts = 0
    for scene in make_scenes(0, 30, side):
        assert scene.image.shape == (side, side, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.wholes), side, side)
        assert len(scene.masks) > 0
        assert (scene.masks.sum(axis=(1, 2)) >= SMALLEST * side * side).all()
        for number, whole in enumerate(scene.wholes):
            assert whole < number
            if whole >= 0:
                parts += 1
                assert not (scene.masks[number] & ~scene.masks[whole]).any()
                assert scene.masks[number].sum() < scene.masks[whole].sum()
        tops = scene.masks[[whole < 0 for whole in scene.wholes]]
        assert tops.sum(axis=0).max() <= 1  # of two that overlap, the upper one has the pixel
    assert parts > 10  # one click is ambiguous often enough


def test_an_object_differs_from_what_is_around_it() -> None:
    contrasts = []
    for scene in make_scenes(1, 20):
        ground = ~scene.masks.any(axis=0)
        for mask, whole in zip(scene.masks, scene.wholes, strict=True):
            around = ground if whole < 0 else scene.masks[whole] & ~mask
            if around.sum() > 50:
                contrasts.append(np.linalg.norm(scene.image[mask].mean(axis=0) - scene.image[around].mean(axis=0)))
    assert np.median(contrasts) > 60
