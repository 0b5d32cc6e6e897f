"""The masks drawn over their photo: colours as in the label map, dark outlines, names where there are some."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from regard.reporting.overlays import letters
from regard.reporting.words import clip
from regard.segmentation.formats.png import colours
from regard.segmentation.formats.record import ImageMasks

SIDE = 1024  # pixels of the picture's longer side, at most
COVER = 0.5  # of the colour; the rest is the photo
EDGE = 0.25  # brightness of outlines
QUALITY = 90  # of JPEG
LONGEST = 40  # letters of a name


def overlay(photo: np.ndarray, record: ImageMasks, labels: np.ndarray) -> bytes:
    """A JPEG file of (H, W, 3) uint8 pixels with their masks; labels: (H, W), their label map."""
    picture = Image.fromarray(photo)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    width, height = picture.size
    rows = (np.arange(height) + 0.5) * labels.shape[0] / height
    columns = (np.arange(width) + 0.5) * labels.shape[1] / width
    shown = labels[rows.astype(np.int64)[:, None], columns.astype(np.int64)].astype(np.int64)
    pixels = np.asarray(picture, np.float32)
    tint = colours()[np.where(shown > 0, (shown - 1) % 255 + 1, 0)]
    drawn = np.where(shown[:, :, None] > 0, (1 - COVER) * pixels + COVER * tint, pixels)
    drawn[_edges(shown)] *= EDGE
    image = Image.fromarray(np.round(drawn).astype(np.uint8))
    _write_names(image, record)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _edges(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of masks beside another mask or none."""
    found = np.zeros(labels.shape, bool)
    found[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    found[1:] |= labels[1:] != labels[:-1]
    return found & (labels > 0)


def _write_names(image: Image.Image, record: ImageMasks) -> None:
    """Each name at the top left of its mask's box, light on dark."""
    size = max(12, round(max(image.size) / 56))
    font, draw = letters(size), ImageDraw.Draw(image)
    for mask in record.masks:
        if mask.name and mask.area:
            x, y = mask.box[0] * image.width / record.width, mask.box[1] * image.height / record.height
            text = clip(mask.name, LONGEST)
            left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
            x = min(max(x, 0), max(0, image.width - right - 8))
            y = min(max(y, 0), max(0, image.height - bottom - 8))
            draw.rectangle((x, y, x + right - left + 8, y + bottom - top + 8), fill=(25, 25, 25))
            draw.text((x + 4 - left, y + 4 - top), text, fill=(255, 255, 255), font=font)
