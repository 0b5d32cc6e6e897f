"""Augmentation of one training image; every random number comes from the generator that is passed in.

RandAugment: Cubuk et al. 2020 (arXiv 1909.13719) with timm's table of 15 operations
("rand-mM-mstd0.5-inc1"). Random erasing: Zhong et al. 2020 (arXiv 1708.04896). Random resized crop:
torchvision's rule of ten tries.

Deviation: geometric operations resample bilinearly on uint8 tensors; timm takes bicubic or a random
filter, in Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as VF

from regard.data.decoding import ImageSource, open_image, reduction
from regard.data.transforms import Preprocess, resize_pixels
from regard.errors import RegardError


@dataclass(frozen=True)
class Augment:
    """What happens to a training image before (`__call__`) and after (`finish`) normalising.

    crop: "resized" takes a random box of `scale` (share of the area) and `ratio` (width / height) from the
    decoded source and resizes it; "pad" shifts the preprocessed image by up to `padding` pixels each way,
    black behind it; "centre" leaves the preprocessed image as it is. flip: probability of a left-right
    flip. randaugment: (operations per image, level 0..10) or None. erase: probability of filling a box
    with noise.
    """

    crop: Literal["resized", "pad", "centre"] = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 4
    flip: float = 0.5
    randaugment: tuple[int, float] | None = None
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "randaugment"):  # lists where the values come from a file
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.crop not in ("resized", "pad", "centre"):
            raise RegardError(f"crop {self.crop!r}: expected 'resized', 'pad' or 'centre'")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise RegardError(f"crop scale {self.scale}: expected 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise RegardError(f"crop ratio {self.ratio}: expected 0 < smallest <= largest")
        if self.padding < 0:
            raise RegardError(f"padding {self.padding}: expected 0 pixels or more")
        if not (0 <= self.flip <= 1 and 0 <= self.erase <= 1):
            raise RegardError(f"flip {self.flip}, erase {self.erase}: expected probabilities, 0 to 1")
        if self.randaugment is not None and not (self.randaugment[0] >= 0 and 0 <= self.randaugment[1] <= 10):
            raise RegardError(f"randaugment {self.randaugment}: expected (operations >= 0, level 0 to 10)")

    def __call__(self, source: ImageSource, preprocess: Preprocess, rng: np.random.Generator) -> Tensor:
        """(3, size, size) uint8. Raises ImageError."""
        if self.crop == "resized":
            return self._vary(self._random_crop(source, preprocess, rng), preprocess, rng)
        return self.of_pixels(preprocess.pixels(source).numpy(), preprocess, rng)

    def of_pixels(self, pixels: np.ndarray, preprocess: Preprocess, rng: np.random.Generator) -> Tensor:
        """The same from what `preprocess.pixels` gave, (3, size, size) uint8; not for crop "resized".

        The array is not written to; the result may share its memory.
        """
        if self.crop == "pad":
            down, right = rng.integers(-self.padding, self.padding + 1, size=2)
            pixels = shift(pixels, int(down), int(right))
        return self._vary(pixels, preprocess, rng)

    def mirrors(self, rng: np.random.Generator) -> bool:
        """Whether `of_pixels` with a generator in this state mirrors its image; for crop "centre" only.

        Without a crop the mirror is the first thing that is drawn. So labels that lie in the image (boxes) can
        follow it.
        """
        if self.crop != "centre":
            raise RegardError(f"crop {self.crop!r}: labels cannot follow it; use crop 'centre'")
        return bool(rng.random() < self.flip)

    def finish(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Random erasing of a normalised (3, H, W) float image, in place; returns it."""
        if self.erase > 0 and rng.random() < self.erase:
            erase_box(image, rng)
        return image

    def _random_crop(self, source: ImageSource, preprocess: Preprocess, rng: np.random.Generator) -> np.ndarray:
        opened = open_image(source)
        top, left, height, width = crop_box(opened.height, opened.width, self.scale, self.ratio, rng)
        decoded = opened.pixels(reduction(min(height, width), preprocess.size))
        rows, columns = decoded.shape[0] / opened.height, decoded.shape[1] / opened.width  # 1 if not scaled
        box = decoded[
            int(top * rows) : math.ceil((top + height) * rows),
            int(left * columns) : math.ceil((left + width) * columns),
        ]
        return resize_pixels(box, preprocess.size, preprocess.size, preprocess.interpolation).numpy()

    def _vary(self, pixels: np.ndarray, preprocess: Preprocess, rng: np.random.Generator) -> Tensor:
        if rng.random() < self.flip:
            pixels = pixels[:, :, ::-1]
        image = torch.from_numpy(np.ascontiguousarray(pixels))
        if self.randaugment is not None:
            image = rand_augment(image, *self.randaugment, fill_colour(preprocess.mean), rng)
        return image

    def to_config(self) -> dict:
        """Plain values for YAML or JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_config(cls, config: Mapping) -> Augment:
        """The reverse of `to_config`. An unknown key is a RegardError."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(config) - known):
            names = ", ".join(sorted(known))
            raise RegardError(f"augmentation has no {', '.join(unknown)}; expected {names}")
        return cls(**config)


# cropping


def crop_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width): area uniform in `scale`, ratio log-uniform; after ten misses centred."""
    logs = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*logs))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return top, left, box_height, box_width
    box_width = min(width, max(1, round(height * ratio[1])))
    box_height = min(height, max(1, round(width / ratio[0])))
    if ratio[0] <= width / height <= ratio[1]:
        box_height, box_width = height, width
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def shift(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    """(C, H, W) moved by whole pixels, zeros behind it: a random crop of the zero-padded image."""
    height, width = pixels.shape[1:]
    if abs(down) >= height or abs(right) >= width:
        return np.zeros_like(pixels)
    moved = np.zeros_like(pixels)
    moved[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = pixels[
        :, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    return moved


# erasing


def erase_box(image: Tensor, rng: np.random.Generator) -> None:
    """Fill a box of (3, H, W) with N(0, 1): area 2 to 33.3%, log-uniform aspect 0.3 to 1/0.3, ten tries."""
    height, width = image.shape[-2:]
    for _ in range(10):
        area = height * width * rng.uniform(0.02, 1 / 3)
        aspect = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_height < height and 0 < box_width < width:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            noise = rng.standard_normal((image.shape[0], box_height, box_width), dtype=np.float32)
            image[:, top : top + box_height, left : left + box_width] = torch.from_numpy(noise)
            return


# RandAugment

LEVELS = 10.0


def fill_colour(mean: tuple[float, float, float]) -> list[float]:
    """The mean colour in whole grey levels, shown where a geometric operation uncovers nothing."""
    return [float(round(255 * value)) for value in mean]


def rand_augment(image: Tensor, count: int, magnitude: float, fill: list[float], rng: np.random.Generator) -> Tensor:
    """`count` operations drawn with replacement, each applied with probability 0.5, level N(magnitude, 0.5).

    image (3, H, W) uint8 -> the same. Levels are clipped to 0..10; signs are fair coins.
    """
    for _ in range(count):
        operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        applied, sign = rng.random() < 0.5, 1.0 if rng.random() < 0.5 else -1.0
        level = min(max(rng.normal(magnitude, 0.5), 0.0), LEVELS)
        if applied:
            image = operation(image, level / LEVELS, sign, fill)
    return image


Operation = Callable[[Tensor, float, float, list[float]], Tensor]  # image, strength 0..1, sign, fill


def _affine(
    image: Tensor, fill: list[float], shear: tuple[float, float] = (0, 0), move: tuple[float, float] = (0, 0)
) -> Tensor:
    degrees = [math.degrees(math.atan(value)) for value in shear]
    height, width = image.shape[-2:]
    return VF.affine(
        image,
        angle=0.0,
        translate=[move[0] * width, move[1] * height],
        scale=1.0,
        shear=degrees,
        interpolation=InterpolationMode.BILINEAR,
        fill=fill,
        center=[0.0, 0.0],
    )


def _factor(strength: float, sign: float) -> float:
    return max(0.1, 1 + sign * 0.9 * strength)


def _auto_contrast(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return VF.autocontrast(image)


def _equalize(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return VF.equalize(image)


def _invert(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return VF.invert(image)


def _rotate(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return VF.rotate(image, sign * 30 * strength, interpolation=InterpolationMode.BILINEAR, fill=fill)


def _posterize(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return VF.posterize(image, 4 - int(4 * strength))


def _solarize(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    threshold = 256 - int(256 * strength)
    return image if threshold > 255 else VF.solarize(image, threshold)


def _solarize_add(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    added = min(128, int(110 * strength))
    return torch.where(image < 128, image + added, image)  # at most 127 + 110: no overflow


def _colour(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return VF.adjust_saturation(image, _factor(strength, sign))


def _contrast(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return VF.adjust_contrast(image, _factor(strength, sign))


def _brightness(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return VF.adjust_brightness(image, _factor(strength, sign))


def _sharpness(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return VF.adjust_sharpness(image, _factor(strength, sign))


def _shear_x(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return _affine(image, fill, shear=(sign * 0.3 * strength, 0))


def _shear_y(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return _affine(image, fill, shear=(0, sign * 0.3 * strength))


def _translate_x(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return _affine(image, fill, move=(sign * 0.45 * strength, 0))


def _translate_y(image: Tensor, strength: float, sign: float, fill: list[float]) -> Tensor:
    return _affine(image, fill, move=(0, sign * 0.45 * strength))


OPERATIONS: tuple[Operation, ...] = (
    _auto_contrast,
    _equalize,
    _invert,
    _rotate,
    _posterize,
    _solarize,
    _solarize_add,
    _colour,
    _contrast,
    _brightness,
    _sharpness,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)
