"""A head on a frozen model: what it costs beside plain inference, and beside timm with scikit-learn.

    python benchmarks/head.py --model vit_small_patch16_224 --images 400 --rounds 3

Random weights and synthetic JPEG files of 500x375 pixels (time does not depend on what they show); 80%
train in two views (image and mirror), 20% validate. The ways take turns within a round, the figures are
medians:

- pass: decode and forward, once per image and view, at the precision that the head run chose
- cold: `fit_head` with an empty cache, its precision measurement included; bar: at most 1.15 passes
- again: `fit_head` with other strengths and a warm cache; bar: below 2% of a pass
- peer: timm's transform and model in float32, PIL, the same two views, `LogisticRegression` over the same
grid

Prints a table in Markdown. Losses are shown as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from regard.data.sources import ImageSet, open_images
from regard.data.splits import Split
from regard.inference.loaded import LoadedModel, fresh_model
from regard.inference.precision import Precision
from regard.inference.rows import decoded_batches, run_batch
from regard.training.heads import fit_head
from regard.training.solvers import STRENGTHS

CLASSES = 10


def write_photos(folder: Path, count: int) -> None:
    """Synthetic JPEG files: coarse colours under fine noise, about 100 kB each, in class folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % CLASSES}"
        place.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.asarray(coarse, np.int16) + rng.normal(0, 18, (375, 500, 3)).astype(np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number:05d}.jpg", quality=90)


def plain_pass(loaded: LoadedModel, images: ImageSet, split: Split, precision: Precision, batch: int) -> None:
    """Logits of the training images in two views and of the validation images in one."""
    for rows, mirror in ((split.train, False), (split.train, True), (split.val, False)):
        for decoded in decoded_batches((images.sources[int(row)] for row in rows), loaded.preprocess, batch):
            pixels = decoded.pixels.flip(-1) if mirror else decoded.pixels
            run_batch(loaded, loaded.model, pixels, precision)


def peer(model: torch.nn.Module, images: ImageSet, split: Split, batch: int) -> float:
    """The usual way; returns the best validation accuracy."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    def features(rows: np.ndarray, mirror: bool) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(rows), batch):
                chosen = rows[start : start + batch]
                x = torch.stack([transform(Image.open(images.sources[int(row)]).convert("RGB")) for row in chosen])
                x = x.flip(-1) if mirror else x
                found.append(model.forward_head(model.forward_features(x), pre_logits=True).numpy())
        return np.concatenate(found)

    train = np.concatenate([features(split.train, False), features(split.train, True)])
    scaler = StandardScaler().fit(train)
    train, val = scaler.transform(train), scaler.transform(features(split.val, False))
    labels = np.tile(images.labels[split.train], 2)
    scores = []
    for strength in STRENGTHS:
        solver = LogisticRegression(C=1 / (strength * len(train)), max_iter=1000).fit(train, labels)
        scores.append(solver.score(val, images.labels[split.val]))
    return max(scores)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """(wall seconds, seconds of all cores together): the second still means something on a busy machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {"pass": [], "cold": [], "again": [], "peer": []}
    with tempfile.TemporaryDirectory() as name:
        photos, cache = Path(name) / "photos", Path(name) / "cache"
        photos.mkdir()
        write_photos(photos, options.images)
        images = open_images(photos)
        order = np.random.default_rng(0).permutation(len(images))
        cut = len(images) * 4 // 5
        split = Split(np.sort(order[:cut]), np.sort(order[cut:]), np.arange(0), ())
        loaded = fresh_model(options.model, images.classes)
        theirs = timm.create_model(options.model, num_classes=CLASSES).eval()
        chosen: Precision = "fp32"
        for number in range(options.rounds):
            where = cache / str(number)

            def cold(where: Path = where) -> None:
                nonlocal chosen
                chosen = fit_head(loaded, images, split, where, batch_size=options.batch).precision

            def again(where: Path = where) -> None:
                others = [strength * 1.5 for strength in STRENGTHS]
                fit_head(loaded, images, split, where, strengths=others, batch_size=options.batch)

            taken["cold"].append(seconds(cold))
            precision = chosen
            taken["pass"].append(seconds(lambda p=precision: plain_pass(loaded, images, split, p, options.batch)))
            taken["again"].append(seconds(again))
            if not options.no_peer:
                taken["peer"].append(seconds(lambda: peer(theirs, images, split, options.batch)))
    passes = 2 * len(split.train) + len(split.val)
    print(f"{options.model}, {options.images} images, {passes} passes in {chosen}, {options.rounds} rounds")
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads of {os.cpu_count()}, torch {torch.__version__}\n")
    print("| way | wall s (median) | ratio to pass | core s (median) | ratio to pass |")
    print("|---|---|---|---|---|")
    medians = {way: np.median(values, axis=0) for way, values in taken.items() if values}
    for way, (wall, cpu) in medians.items():
        base_wall, base_cpu = medians["pass"]
        print(f"| {way} | {wall:.2f} | {wall / base_wall:.3f} | {cpu:.2f} | {cpu / base_cpu:.3f} |")


if __name__ == "__main__":
    main()
