"""From what a user gives to `Prompts`: shapes and counts are looked at here, and everything is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models.sam import BACKGROUND, FOREGROUND, PADDING, Prompts

LABELS = f"{FOREGROUND} (on the object), {BACKGROUND} (beside it) or {PADDING} (fills a row up)"


def as_prompts(
    height: int,
    width: int,
    mask_sides: tuple[int, int],
    point_coords: Any = None,
    point_labels: Any = None,
    box: Any = None,
    mask_input: Any = None,
) -> tuple[Prompts, bool]:
    """Prompts in pixels of an image of height x width, and whether there was one without an axis for several.

    point_coords: (n, 2) or (P, n, 2); point_labels: (n,) or (P, n); box: (4,) or (P, 4); mask_input: (1, 4h, 4w) or
    (P, 1, 4h, 4w) of mask_sides. Raises RegardError, one line that begins with the argument.
    """
    if point_labels is not None and point_coords is None:
        raise RegardError("point_labels: given without point_coords; give the points that they are of")
    if point_coords is not None and point_labels is None:
        raise RegardError("point_coords: given without point_labels; give 1 or 0 for each point")
    points = labels = boxes = masks = None
    single = []
    if point_coords is not None:
        points, labels = _points(point_coords, point_labels, single)
    if box is not None:
        boxes = _numbers("box", box)
        if boxes.shape[-1:] != (4,) or boxes.ndim not in (1, 2):
            raise RegardError(f"box: of shape {boxes.shape}; expected (4,) or (P, 4): x0, y0, x1, y1")
        boxes = _several("box", boxes, 1, single)
    if mask_input is not None:
        masks = _mask(mask_input, mask_sides, single)
    given = {
        name: part
        for name, part in (("point_coords", points), ("box", boxes), ("mask_input", masks))
        if part is not None
    }
    if not given:
        raise RegardError("predict: no prompt; give point_coords with point_labels, box, mask_input or text")
    counts = {name: len(part) for name, part in given.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RegardError(f"prompts: not as many of each ({listed}); give each prompt all of its parts")
    if points is not None and labels is not None:
        _check_points(points, labels, height, width, alone=len(given) == 1)
        points = np.where(labels[..., None] == PADDING, 0.0, points)
    if boxes is not None:
        _check_boxes(boxes, height, width)
    return Prompts(_tensor(points), _tensor(labels), _tensor(boxes), _tensor(masks)), bool(single)


def _points(coords: Any, kinds: Any, single: list[str]) -> tuple[np.ndarray, np.ndarray]:
    points, labels = _numbers("point_coords", coords), _numbers("point_labels", kinds)
    if points.ndim not in (2, 3) or points.shape[-1] != 2:
        raise RegardError(f"point_coords: of shape {points.shape}; expected (n, 2) or (P, n, 2): x, y of each point")
    if labels.shape != points.shape[:-1]:
        raise RegardError(
            f"point_labels: of shape {labels.shape}; expected one for each point, {points.shape[:-1]}: {LABELS}"
        )
    if not np.isin(labels, (FOREGROUND, BACKGROUND, PADDING)).all():
        wrong = labels[~np.isin(labels, (FOREGROUND, BACKGROUND, PADDING))].flat[0]
        raise RegardError(f"point_labels: {wrong:g} is no label; expected {LABELS}")
    return _several("point_coords", points, 2, single), _several("point_labels", labels, 1, single).astype(np.int64)


def _mask(given: Any, sides: tuple[int, int], single: list[str]) -> np.ndarray:
    masks = _numbers("mask_input", given)
    if masks.ndim not in (3, 4) or masks.shape[-3:] != (1, *sides):
        high, wide = sides
        raise RegardError(
            f"mask_input: of shape {masks.shape}; expected (1, {high}, {wide}) or (P, 1, {high}, {wide}): "
            "low-resolution logits as predict returned them"
        )
    if not np.isfinite(masks).all():
        raise RegardError("mask_input: holds NaN or infinity; give the logits as predict returned them")
    return _several("mask_input", masks, 3, single).astype(np.float32)


def _several(name: str, values: np.ndarray, axes: int, single: list[str]) -> np.ndarray:
    """With an axis of prompts in front; `single` notes those that had none."""
    if values.ndim == axes:
        single.append(name)
        values = values[None]
    if values.size == 0:
        raise RegardError(f"{name}: empty, of shape {values.shape}; give at least one, or leave it out")
    return values


def _check_points(points: np.ndarray, labels: np.ndarray, height: int, width: int, alone: bool) -> None:
    real = labels != PADDING
    if alone and not real.any(axis=1).all():
        raise RegardError(f"point_labels: a prompt of nothing but {PADDING}, which is no point; give it a point")
    _check_places("point_coords", points[real], height, width)


def _check_boxes(boxes: np.ndarray, height: int, width: int) -> None:
    _check_places("box", boxes.reshape(-1, 2), height, width)
    upside = (boxes[:, 0] >= boxes[:, 2]) | (boxes[:, 1] >= boxes[:, 3])
    if upside.any():
        corners = ", ".join(f"{value:g}" for value in boxes[upside][0])
        raise RegardError(f"box: {corners} is upside down or empty; expected x0, y0, x1, y1 with x0 < x1 and y0 < y1")


def _check_places(name: str, places: np.ndarray, height: int, width: int) -> None:
    """Refuses (n, 2) places that are no numbers or lie outside of the image, whose borders belong to it."""
    inside = (places >= 0) & (places <= (width, height))  # also false for not-a-number
    if not inside.all():
        x, y = places[~inside.all(axis=1)][0]
        raise RegardError(f"{name}: ({x:g}, {y:g}) is not in the image, which is {width} pixels wide and {height} high")


def _numbers(name: str, values: Any) -> np.ndarray:
    """As float64; masks of logits stay float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype is torch.bfloat16 else values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" and not (array.dtype.kind == "b" and name == "point_labels"):
        raise RegardError(f"{name}: expected an array of numbers, got {_told(values)}")
    return array if array.dtype == np.float32 else array.astype(np.float64)


def _told(values: Any) -> str:
    text = " ".join(repr(values).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def _tensor(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(np.ascontiguousarray(values))
