"""Prompts after the embedding beside segment-anything's: one click, and fifty, on a small and on a large photo.

    python benchmarks/sam_prompts.py [--rounds 5] [--busy]

SAM ViT-B with random weights, the same in both, on noise of 1200 x 800 (1 megapixel) and 4000 x 3000 (12); embeddings
are made before. Masks come out at the size of the photo, as NumPy, by the public classes of both. Tables in Markdown,
medians over interleaved rounds after one that does not count:

- one click, its three masks, on both photos
- fifty separate points on the small photo, the best of each three masks: the package takes them as one batch, as its
  everything mode does, and one by one

--busy is for a machine on which others compute too: one thread, and its own CPU seconds count, not the clock's. Losses
are shown as they are.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
import torch
from sam_encoder import same_models, start, timed
from segment_anything import SamPredictor

from regard.segmentation.segmenter import Segmenter

PHOTOS = {"1 megapixel": (800, 1200), "12 megapixels": (3000, 4000)}
BARS = {"1 megapixel": 0.1, "12 megapixels": 0.25, "fifty": 2.5}  # seconds, by the clock on two cores
POINTS = 50


def best(masks: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """(P, 3, H, W) and (P, 3) -> (P, H, W): of each prompt the mask of which the model expects most."""
    return masks[np.arange(len(masks)), estimates.argmax(1)]


def all_at_once(peer: Any, places: np.ndarray) -> np.ndarray:
    points = peer.transform.apply_coords_torch(torch.from_numpy(places), peer.original_size)
    masks, estimates, _ = peer.predict_torch(points, torch.ones(len(points), 1))
    return best(masks.numpy(), estimates.numpy())


def one_by_one(peer: Any, places: np.ndarray) -> np.ndarray:
    answers = [peer.predict(point_coords=place, point_labels=np.ones(1)) for place in places]
    return best(np.stack([masks for masks, *_ in answers]), np.stack([estimates for _, estimates, _ in answers]))


def ours_all(segmenter: Segmenter, places: np.ndarray) -> np.ndarray:
    return best(*segmenter.predict(point_coords=places, point_labels=np.ones(places.shape[:2]))[:2])


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """The least intersection over union of two masks."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return float(((a & b).sum(1) / np.maximum(1, (a | b).sum(1))).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="count the CPU seconds of one thread")
    options = parser.parse_args()
    clock = start(options.busy)
    theirs, ours = same_models()
    peer, segmenter = SamPredictor(theirs), Segmenter(ours)
    random = np.random.default_rng(0)
    print(f"\n### one click, three masks, {options.rounds} rounds\n")
    print("| photo | bar, s | segment-anything, s | regard, s | times as fast | least IoU with the package's masks |")
    print("|---|---|---|---|---|---|")
    for photo, (height, width) in PHOTOS.items():
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        segmenter.set_image(pixels)
        peer.set_image(pixels)
        peer.features = segmenter.image.embedding  # the same start for both, to the last digit
        click = {"point_coords": np.array([[width / 3, height / 2]]), "point_labels": np.ones(1)}
        ways = {
            "peer": lambda click=click: peer.predict(**click),
            "ours": lambda click=click: segmenter.predict(**click),
        }
        same = agreement(ways["peer"]()[0], ways["ours"]()[0])
        seconds = {name: statistics.median(taken[1:]) for name, taken in timed(ways, options.rounds, clock).items()}
        row = f"{seconds['peer']:.3f} | {seconds['ours']:.3f} | {seconds['peer'] / seconds['ours']:.2f} | {same:.5f}"
        print(f"| {photo} | {BARS[photo]} | {row} |")

    height, width = PHOTOS["1 megapixel"]
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    segmenter.set_image(pixels)
    peer.set_image(pixels)
    peer.features = segmenter.image.embedding
    places = random.random((POINTS, 1, 2)) * (width, height)
    ways = {
        "segment-anything, one batch": lambda: all_at_once(peer, places),
        "segment-anything, one by one": lambda: one_by_one(peer, places),
        "regard": lambda: ours_all(segmenter, places),
    }
    wanted = one_by_one(peer, places)
    rounds = max(1, options.rounds // 2)
    print(f"\n### {POINTS} points, the best mask of each, 1 megapixel, {rounds} rounds; bar: {BARS['fifty']} s\n")
    print("| way | seconds | a point, ms | least IoU with the masks of one by one |\n|---|---|---|---|")
    for name, taken in timed(ways, rounds, clock).items():
        seconds = statistics.median(taken[1:])
        same = agreement(ways[name](), wanted)
        print(f"| {name} | {seconds:.2f} | {1e3 * seconds / POINTS:.0f} | {same:.5f} |")


if __name__ == "__main__":
    main()
