"""New handwritten digits, drawn pixel by pixel: a small Image GPT on scikit-learn's 8x8 digits of 17 grey levels.

    python examples/generate_digits.py --out digits.png [--classes]

Trains on 1,200 digits, stops by 200 more, and tells how many bits a pixel of 397 others costs: under the model, where
each pixel knows those before it; where each pixel is drawn on its own, by how often each level stood there in training;
and where all levels are as likely. With --classes the model is told the digit (and so is what draws pixels on their
own), and each row of the picture is one.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from regard.models import count_parameters
from regard.models.pixel_gpt import DIGIT_LEVELS, PixelGPT
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups

SIDE, CLASSES = 8, 10
TRAIN, VALIDATION = 1200, 200  # in the order of the data set, so that the last digits are of other writers
ROWS, ZOOM, GAP = 10, 5, 2  # of the picture: rows and columns of digits, pixels per pixel, pixels between digits


@dataclass
class Digits:
    """Grey levels (N, 64), integers 0 to 16, and classes (N,), -1 where the model is not told."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, places: Any) -> Digits:
        return Digits(self.pixels[places], self.labels[places])


class Bits(NamedTuple):
    """Bits per pixel of the test digits: under the model with its standard error, and under the two baselines."""

    model: float
    error: float
    independent: float
    uniform: float


def split_digits(told: bool) -> tuple[Digits, Digits, Digits]:
    """Training, validation and test digits; told: with their classes."""
    pixels, labels = (torch.from_numpy(array.astype(np.int64)) for array in load_digits(return_X_y=True))
    digits = Digits(pixels, labels if told else torch.full_like(labels, -1))
    end = TRAIN + VALIDATION
    return digits[:TRAIN], digits[TRAIN:end], digits[end:]


def training_batches(digits: Digits, size: int, seed: int) -> Callable[[int], Iterator[Digits]]:
    """Batch number n is a function of the seed and n."""

    def batches(number: int) -> Iterator[Digits]:
        while True:
            yield digits[np.random.default_rng([seed, number]).choice(len(digits), size, replace=False)]
            number += 1

    return batches


def nats(model: nn.Module, digits: Digits) -> Tensor:
    """Negative log-likelihood of each pixel, (N, 64)."""
    logits = model(digits.pixels, digits.labels)  # (N, 64, levels)
    return F.cross_entropy(logits.float().transpose(1, 2), digits.pixels, reduction="none")


def mean_nats(model: nn.Module, digits: Digits) -> Tensor:
    return nats(model, digits).mean()


@torch.no_grad()
def bits_of_images(model: nn.Module, digits: Digits) -> Tensor:
    """Bits per pixel of each image, (N,)."""
    return torch.cat([nats(model, digits[part]) for part in torch.arange(len(digits)).split(200)]).mean(1) / math.log(2)


def independent_bits(train: Digits, test: Digits) -> float:
    """Bits per pixel where each pixel's level has the share that it had in training, each level seen once more.

    As much is told as the model is told: the shares are those of the digit's class, or of all digits.
    """
    bits = 0.0
    for label in test.labels.unique():
        counts = F.one_hot(train.pixels[train.labels == label], DIGIT_LEVELS).sum(0) + 1  # (64, levels)
        log_p = (counts / counts.sum(1, keepdim=True)).log2()
        bits -= log_p[torch.arange(SIDE**2), test.pixels[test.labels == label]].sum().item()
    return bits / test.pixels.numel()


def draw_picture(pixels: Tensor) -> Image.Image:
    """Digits (ROWS * ROWS, 64), row after row, dark on light."""
    step = SIDE * ZOOM + GAP
    canvas = np.full((ROWS * step + GAP, ROWS * step + GAP), 200, np.uint8)
    for place, digit in enumerate(pixels.reshape(-1, SIDE, SIDE).numpy()):
        top, left = (GAP + step * index for index in divmod(place, ROWS))
        grey = 255 - np.round(digit * 255 / (DIGIT_LEVELS - 1)).astype(np.uint8)
        canvas[top : top + SIDE * ZOOM, left : left + SIDE * ZOOM] = grey.repeat(ZOOM, 0).repeat(ZOOM, 1)
    return Image.fromarray(canvas)


def main(
    out: Path,
    told: bool = False,
    steps: int = 600,
    batch_size: int = 64,
    lr: float = 3e-3,
    temperature: float = 0.9,
    seed: int = 0,
) -> Bits:
    """Train, test, draw, print; told: the model is told the class."""
    train, validation, test = split_digits(told)
    torch.manual_seed(seed)
    model = PixelGPT(SIDE, DIGIT_LEVELS, embed_dim=64, depth=4, num_heads=4, num_classes=CLASSES, drop_rate=0.1)
    print(f"{count_parameters(model):,} parameters, {len(train):,} digits to train on")

    def say(event: dict[str, Any]) -> None:
        if event["event"] == "evaluation":
            print(f"  step {event['step']}: {event['val/bits']:.3f} bits per pixel in validation", flush=True)

    began = time.perf_counter()
    fit(
        model,
        training_batches(train, batch_size, seed),
        mean_nats,
        make_optimiser("adamw", parameter_groups(model, lr, weight_decay=0.1), lr),
        Plan(
            steps,
            batch_size,
            warmup=min(100, steps // 4),
            clip_norm=1.0,
            seed=seed,
            evaluate_every=max(1, steps // 8),
            watch="val/bits",
            lower_is_better=True,
        ),
        [lambda model: [("val/bits", bits_of_images(model, validation).mean().item())]],
        on_event=say,
    )
    print(f"trained in {time.perf_counter() - began:.0f} s")

    each = bits_of_images(model, test)
    error = (each.std() / math.sqrt(len(each))).item()
    bits = Bits(each.mean().item(), error, independent_bits(train, test), math.log2(DIGIT_LEVELS))
    print(f"bits per pixel of {len(test)} test digits:")
    print(f"  the model           {bits.model:.3f} (standard error over digits {bits.error:.3f})")
    print(f"  independent pixels  {bits.independent:.3f}")
    print(f"  uniform             {bits.uniform:.3f}")

    labels = torch.arange(ROWS).repeat_interleave(ROWS) if told else None
    began = time.perf_counter()
    drawn = model.generate(ROWS * ROWS, labels, temperature, torch.Generator().manual_seed(seed))
    print(f"{len(drawn)} digits drawn in {time.perf_counter() - began:.1f} s")
    draw_picture(drawn).save(out, format="PNG")
    print(f"wrote {out}")
    return bits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="picture to write, a PNG")
    parser.add_argument("--classes", action="store_true", help="tell the model which digit it is")
    parser.add_argument("--steps", type=int, default=600, help="updates of the weights")
    parser.add_argument("--batch-size", type=int, default=64, help="digits per step")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--temperature", type=float, default=0.9, help="below 1: likelier pixels")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and drawing")
    given = parser.parse_args()
    main(given.out, given.classes, given.steps, given.batch_size, given.lr, given.temperature, given.seed)
