"""The one preprocessing object: made from a catalogue entry or a run, used by every verb."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.data.decoding import ImageSource, open_image, reduction
from regard.errors import RegardError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resize = Literal["short", "squash"]
Interpolation = Literal["bicubic", "bilinear"]

_CROP_MODES: dict[Resize, str] = {"short": "center", "squash": "squash"}  # our word -> timm's
_RESIZES: dict[str, Resize] = {theirs: ours for ours, theirs in _CROP_MODES.items()}


@dataclass(frozen=True)
class Preprocess:
    """From an image to the tensor that a model was trained to see.

    The image is resized so that its shorter side ("short") or each side ("squash") is floor(size /
    crop_pct) pixels, by an antialiased bicubic or bilinear filter on uint8, then the middle size x size
    pixels are cut out (timm's rule). mean and std, per RGB channel, are in units of 0..1.
    """

    size: int
    crop_pct: float = 0.875
    resize: Resize = "short"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.size < 1:
            raise RegardError(f"size {self.size}: expected at least 1 pixel")
        if not 0 < self.crop_pct <= 1:
            raise RegardError(f"crop_pct {self.crop_pct}: expected a share in (0, 1]")
        if self.resize not in _CROP_MODES:
            raise RegardError(f"resize {self.resize!r}: expected 'short' or 'squash'")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise RegardError(f"interpolation {self.interpolation!r}: expected 'bicubic' or 'bilinear'")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise RegardError(f"mean {self.mean}, std {self.std}: expected three values each, std above 0")

    @property
    def resized_side(self) -> int:
        """Pixels of the shorter side after resizing, before the crop."""
        return math.floor(self.size / self.crop_pct)

    def pixels(self, source: ImageSource) -> Tensor:
        """(3, size, size) uint8, contiguous: decoded, resized, centre-cropped. Raises ImageError."""
        opened = open_image(source)
        reduce = reduction(min(opened.height, opened.width), self.resized_side)
        decoded = opened.pixels(reduce)
        height, width, top, left = self._placed(opened.height, opened.width)
        extent = (opened.height / reduce, opened.width / reduce) if reduce > 1 else None
        if decoded.shape[:2] == (opened.height, opened.width):
            extent = None  # not every format can be decoded smaller
        resized = resize_pixels(decoded, height, width, self.interpolation, extent)
        return resized[:, top : top + self.size, left : left + self.size].contiguous()

    def seen(self, height: int, width: int) -> tuple[float, float, float, float]:
        """What the model sees of an upright image, in pixels of it: left, top, right, bottom."""
        tall, wide, top, left = self._placed(height, width)
        down, across = height / tall, width / wide
        return left * across, top * down, (left + self.size) * across, (top + self.size) * down

    def _placed(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Height and width after resizing, and the top and left of the crop in that.

        Of the full size, so that scaled decoding cannot shift the crop.
        """
        tall = wide = self.resized_side
        if self.resize == "short":
            if height <= width:
                wide = int(wide * width / height)
            else:
                tall = int(tall * height / width)
        return tall, wide, round((tall - self.size) / 2), round((wide - self.size) / 2)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 in 0..255 -> float32, (pixels / 255 - mean) / std."""
        scale, shift = _affine_constants(self.mean, self.std)
        result = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return result.mul_(scale.to(result.device)).add_(shift.to(result.device))

    def __call__(self, source: ImageSource) -> Tensor:
        """(3, size, size) float32, ready for the model. Raises ImageError."""
        return self.normalise(self.pixels(source))

    def to_config(self) -> dict:
        """The keys of timm's pretrained_cfg: plain lists and numbers, for JSON."""
        return {
            "input_size": [3, self.size, self.size],
            "crop_pct": self.crop_pct,
            "crop_mode": _CROP_MODES[self.resize],
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_config(cls, config: Mapping) -> Preprocess:
        """From timm's pretrained_cfg: other keys are left alone, missing ones get timm's default."""
        try:
            return cls._from_config(config)
        except (TypeError, ValueError, AttributeError) as error:
            raise RegardError(f"preprocessing: not as it is written ({error}); restore it") from None

    @classmethod
    def _from_config(cls, config: Mapping) -> Preprocess:
        channels, height, width = config.get("input_size", (3, 224, 224))
        if channels != 3 or height != width:
            raise RegardError(f"input_size {(channels, height, width)}: expected 3 channels and a square")
        mode = config.get("crop_mode", "center")
        if mode not in _RESIZES:
            raise RegardError(f"crop_mode {mode!r}: expected 'center' or 'squash'")
        return cls(
            size=height,
            crop_pct=config.get("crop_pct", 0.875),
            resize=_RESIZES[mode],
            interpolation=config.get("interpolation", "bicubic"),
            mean=tuple(config.get("mean", IMAGENET_MEAN)),
            std=tuple(config.get("std", IMAGENET_STD)),
        )


@lru_cache(maxsize=64)
def _affine_constants(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """scale and shift, (3, 1, 1) each, with pixels * scale + shift == (pixels / 255 - mean) / std."""
    deviation = torch.tensor(std, dtype=torch.float64).view(3, 1, 1)
    middle = torch.tensor(mean, dtype=torch.float64).view(3, 1, 1)
    return (1 / (255 * deviation)).float(), (-middle / deviation).float()


def resize_pixels(
    pixels: np.ndarray,
    height: int,
    width: int,
    interpolation: str,
    extent: tuple[float, float] | None = None,
) -> Tensor:
    """HxWx3 uint8 -> (3, height, width) uint8, antialiased, rounded as Pillow does with the same filter.

    extent: rows and columns that the pixels really span, where the last are partial (a JPEG of 1501 columns
    decoded at a half spans 750.5 of its 751); without it the picture would be stretched.
    """
    writable = pixels if pixels.flags.writeable else pixels.copy()  # torch warns about the others
    image = torch.from_numpy(writable).permute(2, 0, 1)
    if image.shape[1:] == (height, width):
        return image
    if extent is None:
        return F.interpolate(image[None], (height, width), mode=interpolation, antialias=True)[0]
    nudge = 1 + 1e-9  # the size is the floor of pixels times scale
    scale = (height / extent[0] * nudge, width / extent[1] * nudge)
    return F.interpolate(image[None], scale_factor=scale, mode=interpolation, antialias=True)[0]
