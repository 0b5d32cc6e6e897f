"""MixUp, CutMix and label smoothing of a batch: all in soft targets, so that the loss is plain cross-entropy.

mixup: Zhang et al. 2018, arXiv 1710.09412, section 2. CutMix: Yun et al. 2019, arXiv 1905.04899, section
3.1. As in DeiT's recipe the partner of image i is image B-1-i and one lambda serves the whole batch. Targets
of several labels are mixed by the same share: a label of both images stays at 1, one of a single image gets
that image's share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from regard.errors import RegardError


@dataclass(frozen=True)
class Mixing:
    """mixup, cutmix: parameter of the Beta distribution, 0 is off; with both on, a coin decides per batch.

    probability: share of batches that are mixed at all. smoothing: label mass spread evenly over all
    classes; with `several` labels an image, each of them is a question of its own and moves towards 1/2.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    smoothing: float = 0.0
    several: bool = False

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0:
            raise RegardError(f"mixup {self.mixup}, cutmix {self.cutmix}: expected 0 (off) or more")
        if not 0 <= self.probability <= 1:
            raise RegardError(f"mixing probability {self.probability}: expected 0 to 1")
        if not 0 <= self.smoothing < 1:
            raise RegardError(f"label smoothing {self.smoothing}: expected 0 to below 1")

    @property
    def mixes(self) -> bool:
        """Images are blended."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    @property
    def active(self) -> bool:
        """Targets have to be soft; where False a call returns what it was given."""
        return self.mixes or self.smoothing > 0

    def __call__(self, images: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W), targets (B, K), float with rows that sum to 1 -> the same shapes and sums.

        With `several` labels rows have any sum, and NaN (unknown) stays NaN, in the partner too. The inputs
        are left as they were. Where nothing is on (`active`), they are returned, integers too.
        """
        if not self.active:
            return images, targets
        targets = targets * (1 - self.smoothing) + self.smoothing / (2 if self.several else targets.shape[1])
        if not self.mixes or rng.random() >= self.probability:
            return images, targets
        if self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5):
            images, share = cut_and_paste(images, rng.beta(self.cutmix, self.cutmix), rng)
        else:
            share = rng.beta(self.mixup, self.mixup)
            images = images.lerp(images.flip(0), 1 - share)
        return images, targets.lerp(targets.flip(0), 1 - share)


def cut_and_paste(images: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a box of the partner image into each of (B, C, H, W); returns the images and the share kept.

    The box has sides sqrt(1 - share) of the image's and a uniform centre, and is clipped at the border.
    """
    height, width = images.shape[-2:]
    ratio = math.sqrt(1 - share)
    half_height, half_width = int(height * ratio) // 2, int(width * ratio) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, y - half_height), min(height, y + half_height)
    left, right = max(0, x - half_width), min(width, x + half_width)
    pasted = images.clone()
    pasted[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)
