"""A stand-in for CLIP that knows colours: an image is how much of each it shows, a text is the one that it names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from regard.data.transforms import Preprocess
from regard.inference.image_text import ImageText
from regard.masks import Mask, RunLengths

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 30)}
GREY = (128, 128, 128)  # of which a background is
SIDE = 32
END = 9
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class Colours(nn.Module):
    """encode_image: (B, 5), the share of pixels nearest to each colour, grey a tenth as important; encode_text: the
    unit vector of the colour that the text names, of grey where it names none.
    """

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(scale).log())
        self.register_buffer("colours", torch.tensor([*COLOURS.values(), GREY]).float())
        self.images = self.texts = 0

    def encode_image(self, images: Tensor) -> Tensor:
        self.images += len(images)
        pixels = images.flatten(2).transpose(1, 2) * 255  # (B, N, 3)
        nearest = torch.cdist(pixels, self.colours[None]).argmin(dim=-1)
        shares = nn.functional.one_hot(nearest, len(self.colours)).float().mean(dim=1)
        return shares * torch.tensor([1.0, 1.0, 1.0, 1.0, 0.1])

    def encode_text(self, tokens: Tensor) -> Tensor:
        self.texts += len(tokens)
        return torch.eye(len(self.colours))[tokens[:, 0]]


def tokens(texts: Sequence[str]) -> Tensor:
    """(N, 3): the number of the colour in each, the end, and what fills up."""
    names = list(COLOURS)
    found = [next((names.index(word) for word in text.strip(".").split() if word in names), 4) for text in texts]
    return torch.tensor([[number, END, 0] for number in found])


def colour_clip(scale: float = 20.0) -> ImageText:
    preprocess = Preprocess(SIDE, 1.0, "short", "bilinear", BLACK, WHITE)
    return ImageText(Colours(scale).eval(), tokens, preprocess, "colours")  # type: ignore[arg-type]


def square(number: int, box: tuple[int, int, int, int], height: int, width: int) -> Mask:
    """A mask that fills a box."""
    x0, y0, x1, y1 = box
    inside = np.zeros((height, width), bool)
    inside[y0:y1, x0:x1] = True
    return Mask(number, RunLengths.of(inside), 0.9)


def scene() -> tuple[np.ndarray, dict[str, Mask]]:
    """(120, 160, 3) uint8, grey with squares of colour, and a mask of each; also of nothing but grey."""
    pixels = np.full((120, 160, 3), GREY, np.uint8)
    boxes = {"red": (10, 10, 50, 50), "blue": (90, 20, 130, 60), "green": (20, 80, 44, 104)}
    for name, (x0, y0, x1, y1) in boxes.items():
        pixels[y0:y1, x0:x1] = COLOURS[name]
    masks = {name: square(number, box, 120, 160) for number, (name, box) in enumerate(boxes.items(), start=1)}
    return pixels, {**masks, "nothing": square(4, (120, 90, 150, 115), 120, 160)}
