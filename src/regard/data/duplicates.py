"""Exact and near duplicates among many images, without comparing all with all.

A near-duplicate is the same picture saved again: another size, another compression, a little brighter.
Candidates are pairs whose perceptual hashes (signs of 64 low DCT coefficients of a grey 32x32 thumbnail)
differ in few bits; a pair counts where the thumbnails correlate, as a whole and in their detail alone, since
photos of one kind (a shirt on a white sheet) agree in what is coarse. Mirrored, rotated and cropped copies
are not looked for.

Measured: 300 clothing photos saved at JPEG quality 30, at a third of their size or squashed to 224x224
correlate with their originals above 0.99, with 20% more light above 0.96; among 5.8 million pairs of
different clothing photos the most alike reach 0.96, and 0.90 in detail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from regard.data.groups import connected

SIDE = 32  # of the thumbnail, in pixels
BITS = 64
HASH_DISTANCE = 7  # bits; more would not be found with certainty by four bands and one flipped bit
PIXEL_CORRELATION = 0.95  # of whole thumbnails
DETAIL_CORRELATION = 0.92  # without the 21 lowest DCT coefficients
SMALL = 32  # images with a shorter side below this hold so little that strangers look alike:
SMALL_CORRELATION = 0.99  # then this is asked of both
LEAST_DETAIL = 2.0  # grey levels RMS; a blank wall resembles every other, so below it only exact copies count
COARSE = 21  # coefficients with u + v < 6, the mean included
REACH = 4  # images of one and the same hash are compared with this many that follow
CHUNK = 1 << 20  # candidate pairs looked at together

THRESHOLDS = (
    f"perceptual hashes within {HASH_DISTANCE} of {BITS} bits, thumbnails correlate >= {PIXEL_CORRELATION:g} "
    f"and in detail >= {DETAIL_CORRELATION:g} (images below {SMALL} px: both >= {SMALL_CORRELATION:g})"
)


class Duplicates(NamedTuple):
    """Groups of row numbers, two or more each, sorted. Every exact group lies inside one group of `near`."""

    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(32, 32) uint8 grey from HxWx3 uint8, squashed; antialiased: the original size hardly shows."""
    image = Image.fromarray(pixels).convert("L")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def find_duplicates(contents: Sequence[str], thumbnails: np.ndarray, small: np.ndarray) -> Duplicates:
    """Groups of equal and of nearly equal images.

    contents: N strings, equal where the files are; thumbnails: (N, 32, 32) uint8; small: (N,) bool, shorter
    side below SMALL. Time grows with N and the number of candidates, not with N squared.
    """
    content_of = (
        np.unique(np.asarray(contents, dtype=str), return_inverse=True)[1] if len(contents) else np.empty(0, int)
    )
    first, owner = _firsts(content_of)
    pairs = first[_near_pairs(thumbnails[first], small[first])]
    same = np.stack([np.arange(len(content_of)), first[owner]], axis=1)
    return Duplicates(connected(same, len(content_of)), connected(np.concatenate([same, pairs]), len(content_of)))


def _firsts(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows where a key occurs first, for each row its place among those)."""
    _, first, owner = np.unique(keys, return_index=True, return_inverse=True)
    return first, owner


def _near_pairs(thumbnails: np.ndarray, small: np.ndarray) -> np.ndarray:
    """(E, 2) rows of different files whose pictures are nearly the same."""
    pixels = thumbnails.reshape(len(thumbnails), SIDE * SIDE)
    coefficients = _coefficients(pixels)  # (N, 1 + BITS)
    energy = np.einsum("ij,ij->i", pixels, pixels, dtype=np.float64)  # (N,) sum of squares
    detail = energy - (coefficients[:, :COARSE].astype(np.float64) ** 2).sum(axis=1)
    usable = np.flatnonzero(detail > LEAST_DETAIL**2 * SIDE * SIDE)
    whole = energy - coefficients[:, 0].astype(np.float64) ** 2  # without the mean
    signs = (coefficients[usable, 1:] > 0).astype(np.uint64)
    codes = (signs << np.arange(BITS, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)  # (usable,)
    found = [np.empty((0, 2), dtype=np.int64)]
    for candidates in _candidates(codes):
        a, b = usable[candidates[:, 0]], usable[candidates[:, 1]]
        for start in range(0, len(a), 4096):  # 4,096 pairs of float32 thumbnails are 32 MB
            i, j = a[start : start + 4096], b[start : start + 4096]
            product = np.einsum("ij,ij->i", pixels[i].astype(np.float32), pixels[j].astype(np.float32))
            coarse = coefficients[i, :COARSE] * coefficients[j, :COARSE]
            alike = (product - coarse[:, 0]) / np.sqrt(whole[i] * whole[j])
            alike_in_detail = (product - coarse.sum(axis=1)) / np.sqrt(detail[i] * detail[j])
            strict = small[i] | small[j]
            keep = (alike >= np.where(strict, SMALL_CORRELATION, PIXEL_CORRELATION)) & (
                alike_in_detail >= np.where(strict, SMALL_CORRELATION, DETAIL_CORRELATION)
            )
            found.append(np.stack([i[keep], j[keep]], axis=1))
    return np.concatenate(found)


def _coefficients(pixels: np.ndarray) -> np.ndarray:
    """(N, 65) float32: the 2D DCT coefficients of lowest u + v (orthonormal), the mean first."""
    place = np.arange(SIDE)
    wave = np.cos(np.pi * np.outer(place, place + 0.5) / SIDE) * np.sqrt(2 / SIDE)  # (frequency, position)
    wave[0] /= np.sqrt(2)
    order = sorted((u + v, u, v) for u in range(SIDE) for v in range(SIDE))[: 1 + BITS]
    basis = np.stack([np.outer(wave[u], wave[v]).ravel() for _, u, v in order]).astype(np.float32)
    blocks = [pixels[start : start + 8192].astype(np.float32) @ basis.T for start in range(0, len(pixels), 8192)]
    return np.concatenate(blocks) if blocks else np.empty((0, 1 + BITS), dtype=np.float32)


def _candidates(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs (E, 2) of places whose codes differ in at most HASH_DISTANCE bits; a pair may come several times.

    Multi-index hashing (Norouzi, Punjani and Fleet, 2012): of four bands of 16 bits one differs in at most
    one bit where all 64 differ in at most seven, so each band is looked up as it is and with each bit
    flipped. Places of equal code are represented by the first.
    """
    order = np.argsort(codes, kind="stable")
    for step in range(1, REACH + 1):
        same = codes[order[step:]] == codes[order[:-step]]
        yield np.stack([order[:-step][same], order[step:][same]], axis=1)
    first, _ = _firsts(codes)
    codes = codes[first]
    for shift in range(0, BITS, 16):
        band = ((codes >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(band, kind="stable")
        ranked = band[order]
        for flip in (0, *(1 << bit for bit in range(16))):
            # A flipped bit is set in one of the two: looking from the other alone finds each pair once.
            seekers = np.flatnonzero(band & flip == 0)
            start = np.searchsorted(ranked, band[seekers] ^ flip, side="left")
            count = np.searchsorted(ranked, band[seekers] ^ flip, side="right") - start
            for i, places in _expand(seekers, start, count):
                j = order[places]
                near = np.bitwise_count(codes[i] ^ codes[j]) <= HASH_DISTANCE
                near &= i < j if flip == 0 else i != j
                yield np.stack([first[i[near]], first[j[near]]], axis=1)


def _expand(seekers: np.ndarray, start: np.ndarray, count: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each seeker beside each place of its run [start, start + count), about CHUNK pairs at a time."""
    ends = np.cumsum(count)
    borders = np.searchsorted(ends, np.arange(CHUNK, (ends[-1] if len(ends) else 0) + CHUNK, CHUNK))
    for low, high in zip([0, *(borders[:-1] + 1)], borders + 1, strict=True) if len(borders) else ():
        runs = count[low:high]
        begin = np.cumsum(runs) - runs
        places = np.arange(runs.sum()) + np.repeat(start[low:high] - begin, runs)
        yield np.repeat(seekers[low:high], runs), places
