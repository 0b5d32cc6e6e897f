"""Maps of an explanation drawn over the photo, and sheets of them: NumPy and Pillow, no torch.

A map may have both signs: what speaks for the class goes from dark to yellow, what speaks against it from dark to
light blue (matplotlib's `managua`, reversed: perceptually uniform, and told apart by colour-blind readers). The photo
below is grey, so that every colour is the map's. Full colour is the 99th percentile of the map's absolute values.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from regard.reporting.words import clip

FULL = 99.0  # percentile of |map| that gets the full colour; the pixels above would leave all others dark
SHADED = 0.4  # share of a colour's brightness that the photo decides
LIFT = 40  # grey levels by which the photo shows through where the map is 0
SIDE = 448  # pixels of an overlay's longer side
SMALL = 256  # the same, in a sheet
PIXELATED = 2.0  # photos enlarged more than this show their pixels
BOX_COLOUR = (0, 235, 190)  # bluish green, which neither half of the colour map has
TILE, MARGIN, TEXT = 208, 12, 15  # pixels of the contact sheet: pictures, between them, letters


@cache
def colours() -> np.ndarray:
    """(256, 3) uint8: the colours of -1 to 1."""
    from matplotlib import colormaps

    return np.round(255 * colormaps["managua_r"](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)


def scaled(values: np.ndarray) -> np.ndarray:
    """(h, w) float32 in -1..1: a map divided by the 99th percentile of its absolute values; 0 where it is flat or not
    finite.
    """
    finite = np.nan_to_num(np.asarray(values, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    full = float(np.percentile(np.abs(finite), FULL)) or float(np.abs(finite).max())
    return np.clip(finite / full, -1, 1) if full else finite


def enlarged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) float32: a map (h, w) that covers the same rectangle, bilinear between the middles of its cells
    and averaged where it shrinks.
    """
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def overlay(photo: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the map (h, w) over the grey photo (H, W, 3) uint8 that it covers."""
    level = enlarged(scaled(values), *photo.shape[:2])
    coloured = colours()[np.round((level + 1) * 127.5).astype(np.uint8)]
    light = np.asarray(Image.fromarray(photo).convert("L"), np.float32)[:, :, None] / 255
    shown = coloured * (1 - SHADED + SHADED * light) + LIFT * (1 - np.abs(level[:, :, None])) * light
    return np.round(shown.clip(0, 255)).astype(np.uint8)


def cut_out(
    photo: np.ndarray, window: tuple[float, float, float, float], scale: float = 1.0, side: int = SIDE
) -> np.ndarray:
    """(H, W, 3) uint8: what lies in a window of the photo (left, top, right, bottom in its pixels), which may begin
    within a pixel, brought to `side` pixels on its longer side; scale: the photo was shrunk by it before.
    """
    # Rounding may put the last edge a millionth of a pixel outside, which Pillow refuses.
    most = (photo.shape[1], photo.shape[0], photo.shape[1], photo.shape[0])
    left, top, right, bottom = (min(max(edge * scale, 0.0), float(end)) for edge, end in zip(window, most, strict=True))
    grown = side / max(right - left, bottom - top)
    size = (max(1, round((right - left) * grown)), max(1, round((bottom - top) * grown)))
    way = Image.Resampling.NEAREST if grown > PIXELATED else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(photo).resize(size, way, box=(left, top, right, bottom)))


def framed(picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A picture with boxes (n, 4) drawn on it: left, top, right, bottom as shares of its sides, cut at its edges."""
    if not len(boxes):
        return picture
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    line = max(2, round(max(height, width) / 150))
    for left, top, right, bottom in np.clip(boxes, 0, 1).tolist():
        x0, y0 = left * width, top * height
        x1, y1 = max(right * width - 1, x0 + 2), max(bottom * height - 1, y0 + 2)
        draw.rectangle((x0, y0, x1, y1), outline=(0, 0, 0), width=line + 2)
        draw.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline=BOX_COLOUR, width=line)
    return np.asarray(image)


def png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=4)
    return out.getvalue()


def small(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a WebP file of at most `SMALL` pixels on its longer side."""
    image = Image.fromarray(picture)
    image.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=82, method=2)
    return out.getvalue()


def colour_bar(width: int = 256, height: int = 12) -> bytes:
    """The colours from -1 to 1 as a PNG file."""
    row = colours()[np.round(np.linspace(0, 255, width)).astype(int)]
    return png(np.repeat(row[None], height, axis=0))


def contact_sheet(heads: Sequence[str], rows: Sequence[tuple[Sequence[bytes | None], Sequence[str]]]) -> bytes:
    """A PNG file: pictures in rows under the names of the columns, each with a line of text below.

    heads: C names; rows: (C pictures as files, None for an empty place; C lines of text) each.
    """
    step, line = TILE + MARGIN, TEXT + 7
    font = letters(TEXT)
    image = Image.new("RGB", (MARGIN + step * len(heads), 2 * MARGIN + line + (step + line) * len(rows)), "white")
    draw = ImageDraw.Draw(image)
    for column, head in enumerate(heads):
        draw.text((MARGIN + step * column, MARGIN), _fitting(head, font), fill=(20, 20, 20), font=font)
    for number, (pictures, lines) in enumerate(rows):
        top = 2 * MARGIN + line + (step + line) * number
        for column, (picture, text) in enumerate(zip(pictures, lines, strict=True)):
            left = MARGIN + step * column
            if picture is not None:
                tile = Image.open(io.BytesIO(picture)).convert("RGB")
                tile.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
                image.paste(tile, (left, top + TILE - tile.height))
            draw.text((left, top + TILE + 3), _fitting(text, font), fill=(70, 70, 70), font=font)
    return png(np.asarray(image))


@cache
def letters(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: names come in many alphabets."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def _fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    """As much of a line as a tile is wide, shortened in the middle."""
    lines = (clip(text, length) for length in range(60, 1, -1))
    return next((line for line in lines if font.getlength(line) <= TILE), "")
