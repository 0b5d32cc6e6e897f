"""Scenes of overlapping, textured shapes with the mask of each: something to learn segmenting from, made on the spot.

Some shapes carry a part of another colour on one side, so that one click is as ambiguous as on a photo: the whole, or
its part. A scene is a function of (seed, number) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

WHOLES = (2, 4)  # fewest and most shapes with no shape around them
RADII = (0.20, 0.36)  # of these shapes, as shares of the image's side
PART_CHANCE = 0.3  # that a shape has a part
PART_RADII = (0.4, 0.6)  # of a part, as shares of the radius of what it lies on
PART_OFFSET = 0.75  # of its middle from the middle of that, likewise: whose own middle stays free of it
DEPTH = 2  # of shapes in each other
SMALLEST = 0.015  # visible share of the image from which a shape counts as an object
VISIBLE = 0.5  # share of a shape that others must leave visible
CONTRAST = 110.0  # grey levels between neighbours' colours, as a distance in RGB
ANGLES = 512  # entries of an outline


@dataclass(frozen=True)
class Scene:
    """image: (S, S, 3) uint8; masks: (n, S, S) bool, what is visible of each object, its parts included.

    wholes: for each object the number of the one it is a part of, or -1.
    """

    image: np.ndarray
    masks: np.ndarray
    wholes: tuple[int, ...]


@dataclass(frozen=True)
class _Shape:
    radius: float
    centre: np.ndarray  # x, y
    window: tuple[slice, slice]  # rows and columns beyond which it does not reach
    full: np.ndarray  # (S, S) bool, where nothing covers it
    colour: np.ndarray  # (3,)
    whole: int  # number of the shape it is a part of, or -1


def make_scene(seed: int, number: int, side: int = 128) -> Scene:
    """Scene `number` of the series `seed`, `side` pixels high and wide; at least one object is visible."""
    rng = np.random.Generator(np.random.Philox(key=[seed, number]))
    grid = np.mgrid[:side, :side].astype(np.float32)  # y, x
    while True:
        ground = rng.uniform(0, 255, 3)
        shapes: list[_Shape] = []
        for _ in range(int(rng.integers(WHOLES[0], WHOLES[1] + 1))):
            radius, centre = side * rng.uniform(*RADII), rng.uniform(0.1 * side, 0.9 * side, 2)
            colour = _colour(rng, [ground, *(shape.colour for shape in shapes)])
            whole = _Shape(radius, centre, *_inside(rng, radius, centre, grid), colour, -1)
            shapes += _with_parts(rng, whole, len(shapes), grid)
        masks, wholes = _visible(shapes, side)
        if len(masks):
            break
    image = _textured(rng, ground, grid)
    for shape in shapes:
        inside = shape.full[shape.window]
        image[shape.window][inside] = _textured(rng, shape.colour, grid[:, *shape.window])[inside]
    image += 4 * rng.standard_normal(image.shape, np.float32)
    return Scene(image.clip(0, 255).astype(np.uint8), masks, wholes)


def make_scenes(seed: int, count: int, side: int = 128, first: int = 0) -> Iterator[Scene]:
    """Scenes number `first` to `first + count - 1` of a series."""
    return (make_scene(seed, number, side) for number in range(first, first + count))


def _with_parts(rng: np.random.Generator, whole: _Shape, number: int, grid: np.ndarray) -> list[_Shape]:
    """The shape and what lies in it, one in the other; `number` is that of the first."""
    family = [whole]
    while len(family) < DEPTH and rng.random() < PART_CHANCE:
        around = family[-1]
        radius = around.radius * rng.uniform(*PART_RADII)
        angle = rng.uniform(0, 2 * np.pi)
        centre = around.centre + PART_OFFSET * around.radius * np.array([np.cos(angle), np.sin(angle)])
        window, full = _inside(rng, radius, centre, grid)
        colour = _colour(rng, [around.colour])
        family.append(_Shape(radius, centre, window, full & around.full, colour, number + len(family) - 1))
    return family


def _visible(shapes: list[_Shape], side: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Masks (n, S, S) of what later shapes leave visible, of those that count; and the number of each one's whole."""
    masks: list[np.ndarray] = []
    place: dict[int, int] = {}
    wholes: list[int] = []
    for number, shape in enumerate(shapes):
        mask = shape.full.copy()
        for later in range(number + 1, len(shapes)):
            if not _belongs(shapes, later, number):
                mask &= ~shapes[later].full
        if mask.sum() < max(SMALLEST * side * side, VISIBLE * shape.full.sum()):
            continue
        whole = shape.whole
        while whole >= 0 and whole not in place:
            whole = shapes[whole].whole
        place[number] = len(masks)
        masks.append(mask)
        wholes.append(place.get(whole, -1))
    return np.array(masks, bool).reshape(-1, side, side), tuple(wholes)


def _belongs(shapes: list[_Shape], number: int, to: int) -> bool:
    """Whether a shape is a part of another, at any depth."""
    while number > to:
        number = shapes[number].whole
    return number == to


def _colour(rng: np.random.Generator, others: list[np.ndarray]) -> np.ndarray:
    """A colour that differs from others, as far as a few tries find one."""
    tries = rng.uniform(0, 255, (12, 3))
    distances = np.linalg.norm(tries[:, None] - np.array(others), axis=2).min(axis=1)
    far = np.flatnonzero(distances > CONTRAST)
    return tries[far[0] if len(far) else distances.argmax()]


def _inside(
    rng: np.random.Generator, radius: float, centre: np.ndarray, grid: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray]:
    """A shape whose outline is a distance from the centre for each direction: its window, and where it is, (S, S)."""
    angles = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    kind = rng.integers(4)
    if kind == 0:  # ellipse
        squeeze = rng.uniform(0.55, 1.0)
        outline = 1 / np.hypot(np.cos(angles), np.sin(angles) / squeeze)
    elif kind == 1:  # regular polygon of 3 to 6 sides
        half = np.pi / int(rng.integers(3, 7))
        outline = 1.15 * np.cos(half) / np.cos(angles % (2 * half) - half)
    elif kind == 2:  # rectangle
        flat = rng.uniform(0.5, 1.0)
        outline = 1 / np.maximum(np.abs(np.cos(angles)), np.abs(np.sin(angles)) / flat)
    else:  # blob
        waves = np.arange(2, 6)
        heights, phases = rng.normal(0, 0.25, 4) / waves, rng.uniform(0, 2 * np.pi, 4)
        outline = 0.95 + (heights[:, None] * np.cos(waves[:, None] * angles + phases[:, None])).sum(axis=0)
    turn = rng.uniform(0, 2 * np.pi)
    side, reach = grid.shape[1], radius * outline.max()
    first = (centre - reach).clip(0, side).astype(int)
    last = (centre + reach + 2).clip(0, side).astype(int)
    window = slice(first[1], last[1]), slice(first[0], last[0])
    dy, dx = grid[0][window] - centre[1], grid[1][window] - centre[0]
    place = ((np.arctan2(dy, dx) + turn) * (ANGLES / (2 * np.pi))).astype(np.int64) % ANGLES
    full = np.zeros((side, side), bool)
    full[window] = np.hypot(dx, dy) < radius * outline[place]
    return window, full


def _textured(rng: np.random.Generator, colour: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32: a colour with light across it and plain, stripes, checks or specks on it."""
    y, x = grid
    kind, turn = rng.integers(4), rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = cos * x + sin * y, cos * y - sin * x
    wave = np.float32(2 * np.pi / rng.uniform(4, 12))
    if kind == 0:
        pattern = np.zeros_like(x)
    elif kind == 1:
        pattern = np.sin(wave * along)
    elif kind == 2:
        pattern = np.sign(np.sin(wave * along) * np.sin(wave * across))
    else:
        pattern = rng.standard_normal(x.shape, np.float32)
    light = np.float32(rng.uniform(-0.1, 0.1)) * along
    tint = (rng.uniform(0.5, 1.0, 3) * rng.uniform(4, 14)).astype(np.float32)
    return colour.astype(np.float32) + light[..., None] + pattern[..., None] * tint
