"""What digits stand on an image, in words: a ViT reads the image, the Transformer's decoder writes the caption.

    python examples/captions.py

One to four of scikit-learn's handwritten digits (8x8 pixels) lie from left to right, at different heights, on a canvas
of 32x32 pixels; the caption is "three one four". The digits of the test images are never trained on.
It printed, on one thread of a CPU shared with other work (seed 0; the losses left out):

    258,752 parameters, 157,440 of them the ViT's
    trained in 164 s
    captions exactly right: 83.9% of 1000 (by count of digits, %: 1: 94.2, 2: 86.0, 3: 81.8, 4: 73.4)
    with a beam of 4: 83.9%
      three five -> three five
      three seven zero five -> three seven zero five
      two nine eight -> two nine eight

The training loss ends at what label smoothing leaves (0.54): the mistakes are on digits that were not trained on, and
a caption is right only when each of its digits is. With digits that began at any pixel, and not only at the edges of
patches, 2,000 steps (--lr 1e-3) gave 28.5%.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from regard.inference.generation import beam_search, greedy
from regard.models import count_parameters
from regard.models.sequences import Vocabulary
from regard.models.transformer import Cache, Decoder, Memory
from regard.models.vit import ViT
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.sequences import SequenceBatch, sequence_loss

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOCABULARY = Vocabulary(NAMES)
SIDE, DIGIT, MOST = 32, 8, 4  # pixels of a canvas and of a digit; digits on a canvas
GRID = 4  # pixels: the patches of the ViT, and the places where a digit may begin
TEST_DIGITS = 397  # of scikit-learn's 1,797: the last ones


class Captioner(nn.Module):
    """Images (B, 3, 32, 32) to captions; a `SequenceModel` (regard.models.sequences) whose sources are images."""

    def __init__(self, vocabulary: int, dim: int = 64, depth: int = 3, num_heads: int = 4) -> None:
        super().__init__()
        self.vit = ViT(SIDE, patch_size=GRID, embed_dim=dim, depth=depth, num_heads=num_heads, num_classes=0)
        self.decoder = Decoder(vocabulary, dim, depth=2, num_heads=num_heads, hidden_dim=2 * dim, max_length=16)

    def encode(self, source: Tensor) -> Memory:
        return Memory(self.vit.features(source).tokens, mask=None)  # (B, 65, D): class token and patches

    def start(self, memory: Memory) -> Cache:
        return self.decoder.start(memory)

    def step(self, state: Cache, words: Tensor) -> tuple[Tensor, Cache]:
        return self.decoder.step(state, words)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.decoder(self.encode(source), target)


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images (N, 8, 8) in [0, 1] and labels (N,) to train on; the same to test on."""
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, DIGIT, DIGIT) / 16
    return (images[:-TEST_DIGITS], labels[:-TEST_DIGITS]), (images[-TEST_DIGITS:], labels[-TEST_DIGITS:])


def draw(
    images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[Tensor, list[list[str]]]:
    """Canvases (count, 3, 32, 32) in [-1, 1] and their captions."""
    canvases = np.zeros((count, SIDE, SIDE), np.float32)
    captions = []
    for canvas in canvases:
        chosen = rng.integers(len(labels), size=rng.integers(1, MOST + 1))
        room = (SIDE - DIGIT * len(chosen)) // GRID
        free = GRID * np.sort(rng.integers(room + 1, size=len(chosen)))  # empty columns before each
        for place, number in enumerate(chosen):
            top, left = GRID * rng.integers((SIDE - DIGIT) // GRID + 1), free[place] + place * DIGIT
            canvas[top : top + DIGIT, left : left + DIGIT] = images[number]
        captions.append([NAMES[labels[number]] for number in chosen])
    return torch.from_numpy(2 * canvases - 1)[:, None].expand(-1, 3, -1, -1).contiguous(), captions


def training_batches(
    images: np.ndarray, labels: np.ndarray, size: int, seed: int
) -> Callable[[int], Iterator[SequenceBatch]]:
    """Batch number n is a function of the seed and n."""

    def batches(number: int) -> Iterator[SequenceBatch]:
        while True:
            canvases, captions = draw(images, labels, size, np.random.default_rng([seed, number]))
            yield SequenceBatch(canvases, VOCABULARY.encode(captions))
            number += 1

    return batches


def main(steps: int = 2000, batch_size: int = 32, lr: float = 2e-3, tested: int = 1000, seed: int = 0) -> float:
    """Train, test, print; the share of test images whose caption is exactly right."""
    train, test = digits()
    torch.manual_seed(seed)
    model = Captioner(len(VOCABULARY))
    print(f"{count_parameters(model):,} parameters, {count_parameters(model.vit):,} of them the ViT's")

    def say(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] % max(1, steps // 5) == 0:
            print(f"  step {event['step']}: loss {event['loss']:.3f}", flush=True)

    began = time.perf_counter()
    fit(
        model,
        training_batches(*train, batch_size, seed),
        sequence_loss(smoothing=0.1),
        make_optimiser("adamw", parameter_groups(model, lr, weight_decay=0.05), lr),
        Plan(steps, batch_size, warmup=min(200, steps // 4), clip_norm=1.0, seed=seed),
        on_event=say,
    )
    print(f"trained in {time.perf_counter() - began:.0f} s")
    canvases, captions = draw(*test, tested, np.random.default_rng(1))
    by_beam: list[list[str]] = []
    by_greed: list[list[str]] = []
    for part in canvases.split(250):
        by_greed += [VOCABULARY.decode(found.words) for found in greedy(model, part, most=MOST + 1)]
        by_beam += [VOCABULARY.decode(found[0].words) for found in beam_search(model, part, most=MOST + 1)]
    right = np.array([a == b for a, b in zip(by_greed, captions, strict=True)])
    counts = np.array([len(caption) for caption in captions])
    shares = ", ".join(f"{n}: {100 * right[counts == n].mean():.1f}" for n in sorted(set(counts.tolist())))
    print(f"captions exactly right: {100 * right.mean():.1f}% of {tested} (by count of digits, %: {shares})")
    beam_right = np.mean([a == b for a, b in zip(by_beam, captions, strict=True)])
    print(f"with a beam of 4: {100 * beam_right:.1f}%")
    for place in range(3):
        print(f"  {' '.join(captions[place])} -> {' '.join(by_greed[place])}")
    return float(right.mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="updates of the weights")
    parser.add_argument("--batch-size", type=int, default=32, help="images per step")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    given = parser.parse_args()
    main(given.steps, given.batch_size, given.lr, seed=given.seed)
