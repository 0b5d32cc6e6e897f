"""Explanations made of attention: rollout beside the fused pass and jacobgil/vit-explain, relevance beside a backward.

    python benchmarks/rollout.py [--vit-explain FOLDER] [--images 32] [--batches 1,8,32] [--gradients 100] [--rounds 3]
                                 [--busy]

FOLDER is a clone of github.com/jacobgil/vit-explain (which needs opencv-python); without it its rows are left out.
Three tables in Markdown, medians over interleaved rounds after one that does not count:

- rollout of `--images` images on ViT-B/16 in batches, against the pass with fused attention over the same batches: what
  `regard explain --method rollout` costs beyond predicting. Extra memory: the peak of tensors held at once, an image
- the same images by vit-explain on timm's model of the same weights, one at a time and fused attention off (it finds
  no attention otherwise), in float32 (in bfloat16 it stops with an error), mean over heads, nothing discarded; with
  what each result differs from vit-explain's, both divided by their maximum
- relevance and gradient rollout of `--gradients` images on ViT-S/16 against a pass there and back (`loss.backward()`)

--busy is for a machine on which others compute too: one thread, and its own CPU seconds count, not the clock's.
Random weights; queries and keys are scaled up until attention is as far from even as in trained models. Losses are
shown as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from timm.layers.config import set_fused_attn
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from regard.explanation.gradient_rollout import gradient_rollout
from regard.explanation.relevance import relevance
from regard.explanation.rollout import rollout
from regard.inference.precision import Precision, autocast
from regard.models import create_model

BASE, SMALL = "vit_base_patch16_224", "vit_small_patch16_224"
CLASSES = 10
SHARPER = 2.5  # of queries and of keys: q.k / sqrt(d) then has a standard deviation of about 2
GRADIENT_BATCH = 10
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

Way = Callable[[], Any]
Clock = Callable[[], float]


def sharp(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(name, CLASSES).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("qkv.weight"):
                parameter[: 2 * parameter.shape[1]] *= SHARPER
    return model


def medians(ways: dict[str, Way], rounds: int, clock: Clock) -> dict[str, float]:
    """Seconds of each way; all run in turn, round after round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            start = clock()
            run()
            if number:
                seconds[name].append(clock() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def peak(run: Way) -> int:
    """The most bytes of tensors that it holds at once beyond those that it found."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events: list[Any] = profiled.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(nbytes for _, nbytes in changes))


def in_batches(run: Callable[[Tensor], Any], images: Tensor, batch: int) -> Way:
    return lambda: [run(part) for part in images.split(batch)]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def beside_the_pass(model: nn.Module, images: Tensor, batches: list[int], rounds: int, clock: Clock) -> None:
    print(f"\n### rollout of {len(images)} images, {BASE}, {rounds} rounds\n")
    print(
        "| batch | precision | fused pass, img/s | rollout, img/s | rollout / pass, time | extra memory, MB an image |"
    )
    print("|---|---|---|---|---|---|")
    for batch in batches:
        for precision in PRECISIONS:
            with torch.no_grad(), autocast(precision, images.device):
                ways = {"pass": in_batches(model, images, batch)}
                ways["rollout"] = in_batches(lambda part: rollout(model, part), images, batch)
                taken = medians(ways, rounds, clock)
                one = images[:batch]
                extra = peak(lambda one=one: rollout(model, one)) - peak(lambda one=one: model(one))
            speed = [f"{len(images) / taken[way]:.1f}" for way in ways]
            ratio = taken["rollout"] / taken["pass"]
            print(f"| {batch} | {precision} | {' | '.join(speed)} | {ratio:.2f} | {extra / batch / 1e6:.2f} |")


def beside_vit_explain(folder: Path, model: nn.Module, images: Tensor, rounds: int, clock: Clock) -> None:
    sys.path.insert(0, str(folder))
    from vit_rollout import VITAttentionRollout  # pyright: ignore[reportMissingImports]

    set_fused_attn(False)
    theirs = timm.create_model(BASE, num_classes=CLASSES).eval()
    theirs.load_state_dict(model.state_dict())
    peer = VITAttentionRollout(theirs, head_fusion="mean", discard_ratio=0.0)
    maps: dict[str, np.ndarray] = {}
    ways: dict[str, Way] = {}

    def add(name: str, precision: Precision, run: Callable[[], np.ndarray]) -> None:
        def way() -> None:
            with autocast(precision, images.device):
                maps[name] = run()

        ways[name] = way

    def ours(batch: int) -> Callable[[], np.ndarray]:
        return lambda: torch.cat([rollout(model, part) for part in images.split(batch)]).numpy()

    def of_peer() -> np.ndarray:
        return np.stack([peer(image[None]) for image in images])

    add("vit-explain", "fp32", of_peer)
    for precision in PRECISIONS:
        add(f"regard {precision}, one at a time", precision, ours(1))
        add(f"regard {precision}, all at once", precision, ours(len(images)))
    taken = medians(ways, rounds, clock)
    print(f"\n### rollout of {len(images)} images, {BASE}, beside vit-explain, {rounds} rounds\n")
    print("| way | img/s | / vit-explain | largest difference | rank correlation, least of an image |")
    print("|---|---|---|---|---|")
    wanted = maps["vit-explain"]
    for name, seconds in taken.items():
        found = maps[name] / maps[name].max((1, 2), keepdims=True)
        ranks = min(rank_correlation(a, b) for a, b in zip(found, wanted, strict=True))
        speed = f"{len(images) / seconds:.1f} | {taken['vit-explain'] / seconds:.2f}"
        print(f"| {name} | {speed} | {np.abs(found - wanted).max():.1e} | {ranks:.4f} |")


def beside_a_backward(images: Tensor, rounds: int, clock: Clock) -> None:
    model = sharp(SMALL)
    classes = torch.zeros(len(images), dtype=torch.long)

    def there_and_back() -> None:
        for part, labels in zip(images.split(GRADIENT_BATCH), classes.split(GRADIENT_BATCH), strict=True):
            F.cross_entropy(model(part), labels).backward()
            model.zero_grad()

    def explained(method: Callable[..., Tensor]) -> Way:
        parts = list(zip(images.split(GRADIENT_BATCH), classes.split(GRADIENT_BATCH), strict=True))
        return lambda: [method(model, *part) for part in parts]

    ways = {"forward + backward": there_and_back}
    ways |= {method.__name__: explained(method) for method in (relevance, gradient_rollout)}
    taken = medians(ways, rounds, clock)
    print(f"\n### {len(images)} images, {SMALL}, batches of {GRADIENT_BATCH}, {rounds} rounds\n")
    print("| way | img/s | / forward + backward, time |\n|---|---|---|")
    for name, seconds in taken.items():
        print(f"| {name} | {len(images) / seconds:.1f} | {seconds / taken['forward + backward']:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vit-explain", type=Path, help="a clone of github.com/jacobgil/vit-explain")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--gradients", type=int, default=100, help="images of the third table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="count the CPU seconds of one thread")
    options = parser.parse_args()
    clock = time.process_time if options.busy else time.perf_counter
    if options.busy:
        torch.set_num_threads(1)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads of {os.cpu_count()}, torch {torch.__version__}")
    print("img/s of the CPU seconds of one thread" if options.busy else "img/s by the clock")
    model, images = sharp(BASE), torch.randn(options.images, 3, 224, 224)
    beside_the_pass(model, images, [int(batch) for batch in options.batches.split(",")], options.rounds, clock)
    if options.vit_explain and (options.vit_explain / "vit_rollout.py").is_file():
        beside_vit_explain(options.vit_explain, model, images, options.rounds, clock)
    else:
        print("\nvit-explain: left out; --vit-explain FOLDER names a clone of github.com/jacobgil/vit-explain")
    beside_a_backward(torch.randn(options.gradients, 3, 224, 224), options.rounds, clock)


if __name__ == "__main__":
    main()
