"""How an image lies in SAM's square input: its longest side fills it, from the top left; the rest is zero."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from regard.data.transforms import Preprocess

THRESHOLD = 0.0  # logits above are the mask
AT_ONCE = 1 << 20  # logits at the size of the image that are held at once: 4 MB, which stay in the caches
_NORMALISE = Preprocess(1).normalise  # ImageNet's mean and std, which are SAM's


@dataclass(frozen=True)
class Frame:
    """An image of height x width pixels in an input of side x side.

    The rules are those of the published code (facebookresearch/segment-anything, utils/transforms.py, modeling/sam.py):
    uint8 pixels resized by Pillow's bilinear filter and normalised, then zeros at the right and the bottom.
    """

    height: int
    width: int
    side: int

    @cached_property
    def resized(self) -> tuple[int, int]:
        """Height and width of the image in the input, at least 1 each."""
        scale = self.side / max(self.height, self.width)
        return max(1, int(self.height * scale + 0.5)), max(1, int(self.width * scale + 0.5))

    def inputs(self, image: np.ndarray) -> Tensor:
        """(height, width, 3) uint8 -> (1, 3, side, side) float32, normalised."""
        height, width = self.resized
        # Pillow itself: `resize_pixels` rounds a few pixels of a thousand to the neighbouring level.
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        pixels = _NORMALISE(torch.from_numpy(np.array(resized)).permute(2, 0, 1))
        return F.pad(pixels, (0, self.side - width, 0, self.side - height))[None]

    def points(self, places: Tensor) -> Tensor:
        """(..., 2) x, y in pixels of the image -> float32, in pixels of the input."""
        height, width = self.resized
        scale = torch.tensor([width / self.width, height / self.height], dtype=torch.float64, device=places.device)
        return (places.double() * scale).float()

    def boxes(self, boxes: Tensor) -> Tensor:
        """(..., 4) x0, y0, x1, y1 in pixels of the image -> float32, in pixels of the input."""
        return self.points(boxes.unflatten(-1, (2, 2))).flatten(-2)

    def upsample(self, logits: Tensor) -> Tensor:
        """(..., 4h, 4w) logits of the input -> (..., height, width) of the image: bilinear to the input, cut, again."""
        shape = logits.shape[:-2]
        # One channel each, so that torch rounds alike however many there are: from four channels on it may not.
        planes = self._at_input(logits.float().reshape(-1, 1, *logits.shape[-2:]))
        if planes.shape[2:] != (self.height, self.width):
            planes = F.interpolate(planes, (self.height, self.width), mode="bilinear", align_corners=False)
        return planes.reshape(*shape, self.height, self.width)

    def masks(self, logits: Tensor) -> Tensor:
        """(..., n, 4h, 4w) logits of the input -> (..., n, height, width) bool, few logits of that size at a time."""
        planes = logits.flatten(0, -3)
        masks = torch.empty(len(planes), self.height, self.width, dtype=torch.bool, device=logits.device)
        step = max(1, AT_ONCE // (self.height * self.width))
        for start in range(0, len(planes), step):
            part = slice(start, start + step)
            torch.gt(self.upsample(planes[part]), THRESHOLD, out=masks[part])
        return masks.unflatten(0, logits.shape[:-2])

    def _at_input(self, planes: Tensor) -> Tensor:
        """(n, 1, 4h, 4w) -> (n, 1, *resized): as if the whole input had been filled and the image cut out.

        Rows and columns that only the filling needs are left out before, but for the neighbours of the border.
        """
        height, width = self.resized
        rows, columns = (-(-length * planes.shape[2] // self.side) + 2 for length in (height, width))
        near = planes[..., :rows, :columns]
        scale = self.side / planes.shape[2]
        return F.interpolate(near, scale_factor=scale, mode="bilinear", align_corners=False)[..., :height, :width]
