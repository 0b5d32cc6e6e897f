"""Saved-again pictures are found, strangers are not, and the search equals comparing all with all."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from regard.data import duplicates
from regard.data.decoding import decode
from regard.data.duplicates import BITS, HASH_DISTANCE, find_duplicates, thumbnail
from regard.data.sources import open_images

CLOTHING = Path(__file__).parents[2].parent / "shared" / "data" / "clothing"


def scene(seed: int, height: int = 120, width: int = 90) -> np.ndarray:
    """Smooth random colours with some edges: HxWx3 uint8."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(size=(height, width, 3)), (height / 12, width / 12, 0))
    pixels = 128 + 45 * noise / noise.std()
    for _ in range(3):
        top, left = rng.integers(0, height - 20), rng.integers(0, width - 20)
        pixels[top : top + 20, left : left + 20] += rng.uniform(-60, 60, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def saved_again(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return decode(file.getvalue())


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def groups_of(pictures: list[np.ndarray], contents: list[str] | None = None) -> tuple[tuple[int, ...], ...]:
    thumbnails = np.stack([thumbnail(picture) for picture in pictures])
    small = np.array([min(picture.shape[:2]) < duplicates.SMALL for picture in pictures])
    return find_duplicates(contents or [str(row) for row in range(len(pictures))], thumbnails, small).near


@pytest.mark.parametrize(
    "again",
    [
        lambda pixels: saved_again(pixels, 60),
        lambda pixels: saved_again(pixels, 30),
        lambda pixels: resized(pixels, 60, 45),
        lambda pixels: resized(pixels, 200, 200),
        lambda pixels: np.clip(pixels * 1.1 + 5.0, 0, 255).astype(np.uint8),
    ],
    ids=["quality 60", "quality 30", "half", "squashed", "brighter"],
)
def test_a_picture_saved_again_is_found_among_strangers(again) -> None:
    pictures = [scene(seed) for seed in range(40)]
    assert groups_of(pictures) == ()
    assert groups_of([*pictures, again(pictures[7])]) == ((7, 40),)


def test_exact_copies_are_told_from_near_ones() -> None:
    first, second = scene(0), scene(1)
    pictures = [first, second, first, saved_again(first, 60), second]
    thumbnails = np.stack([thumbnail(picture) for picture in pictures])
    found = find_duplicates(["x", "y", "x", "z", "y"], thumbnails, np.zeros(5, dtype=bool))
    assert found.exact == ((0, 2), (1, 4))
    assert found.near == ((0, 2, 3), (1, 4))


def test_blank_pictures_are_duplicates_only_where_the_files_are_equal() -> None:
    walls = [np.full((50, 50, 3), level, dtype=np.uint8) for level in (0, 250, 255, 255)]
    assert groups_of(walls, ["black", "grey", "white", "white"]) == ((2, 3),)


def test_nothing_at_all() -> None:
    empty = find_duplicates([], np.empty((0, 32, 32), dtype=np.uint8), np.empty(0, dtype=bool))
    assert empty.exact == () and empty.near == ()


def test_small_pictures_are_held_to_more() -> None:
    tiny = resized(scene(0), 8, 8)
    noisy = np.clip(tiny + np.random.default_rng(0).normal(0, 8, tiny.shape), 0, 255).astype(np.uint8)
    large, large_noisy = resized(tiny, 64, 64), resized(noisy, 64, 64)
    assert groups_of([large, large_noisy]) == ((0, 1),)
    assert groups_of([tiny, noisy]) == ()
    assert groups_of([tiny, np.clip(tiny, 1, 254)]) == ((0, 1),)


def test_handwritten_digits_have_no_near_duplicates() -> None:
    assert groups_of(list(open_images("digits").sources)) == ()


def test_the_search_finds_what_comparing_all_with_all_finds() -> None:
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2**63, 60, dtype=np.uint64)
    codes = np.repeat(centres, 8)
    for _ in range(10):  # up to ten flipped bits: pairs on both sides of the limit
        codes ^= np.where(
            rng.random(len(codes)) < 0.6,
            np.uint64(1) << rng.integers(0, 64, len(codes), dtype=np.uint64),
            np.uint64(0),
        )
    codes = np.unique(codes)
    found = {tuple(sorted(pair)) for pairs in duplicates._candidates(codes) for pair in pairs.tolist()}
    distance = np.bitwise_count(codes[:, None] ^ codes[None, :])
    i, j = np.nonzero(np.triu(distance <= HASH_DISTANCE, 1))
    assert len(i) > 100
    assert found == set(zip(i.tolist(), j.tolist(), strict=True))


def test_the_search_in_small_portions_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).integers(0, 2**16, 500, dtype=np.uint64) & np.uint64(0x1F1F)
    whole = {tuple(sorted(pair)) for pairs in duplicates._candidates(codes) for pair in pairs.tolist()}
    monkeypatch.setattr(duplicates, "CHUNK", 64)
    portions = {tuple(sorted(pair)) for pairs in duplicates._candidates(codes) for pair in pairs.tolist()}
    assert portions == whole


def test_equal_codes_are_chained() -> None:
    codes = np.array([5, 9, 5, 5, 9], dtype=np.uint64)
    found = {tuple(sorted(pair)) for pairs in duplicates._candidates(codes) for pair in pairs.tolist()}
    assert {(0, 2), (2, 3), (1, 4)} <= found


def test_coefficients_are_those_of_the_cosine_transform() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32), dtype=np.uint8)
    full = dctn(pixels.astype(np.float64), axes=(1, 2), norm="ortho")
    low = sorted((u + v, u, v) for u in range(32) for v in range(32))[: 1 + BITS]
    expected = np.stack([full[:, u, v] for _, u, v in low], axis=1)
    assert np.allclose(duplicates._coefficients(pixels.reshape(3, -1)), expected, rtol=1e-4, atol=0.1)


def test_time_does_not_grow_with_the_square() -> None:
    """20,000 strangers in seconds; comparing all with all would be 200 million correlations."""
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.normal(size=(20_000, 32, 32)).astype(np.float32), (0, 3, 3))
    thumbnails = np.clip(128 + 250 * noise, 0, 255).astype(np.uint8)
    thumbnails[-1] = np.clip(thumbnails[0].astype(int) + 3, 0, 255)
    start = time.perf_counter()
    found = find_duplicates([str(row) for row in range(20_000)], thumbnails, np.zeros(20_000, dtype=bool))
    assert found.near == ((0, 19_999),)
    assert time.perf_counter() - start < 20


@pytest.mark.skipif(not CLOTHING.is_dir(), reason="the clothing photos are not on this machine")
def test_clothing_photos_saved_again_are_found() -> None:
    images = open_images(CLOTHING)
    photos = [decode(images.sources[row], 64) for row in range(0, len(images), 40)]
    assert groups_of(photos) == ()
    again = [saved_again(resized(photo, photo.shape[0] // 2, photo.shape[1] // 2), 60) for photo in photos]
    found = groups_of([*photos, *again])
    assert len(found) == len(photos)
    assert all(group == (row, row + len(photos)) for row, group in enumerate(found))
