"""Everything mode beside the published package: seconds after the encoder, memory, and what bfloat16 keeps of masks.

    python benchmarks/sam_everything.py [--points 8] [--rounds 3] [--passing 0.15] [--side 1024] [--batches 2,4,8]
                                        [--trained RUN] [--images 8] [--least-iou 0.7] [--least-stability 0.8] [--busy]

SAM ViT-B with random weights on an image of side x side pixels, the same weights in both; `--points` clicks per side
(the full thing is `--points 32`: some minutes a round), from which 32 x 32 are extrapolated by the number of points.
The threshold of the estimated IoU is set so that the share `--passing` of masks passes it. Random weights leave no mask
stable and give all the same box: the filter of stability and NMS let all pass, in both. Tables in Markdown, medians
over interleaved rounds after one that does not count; embeddings are made before.

- seconds: the package with its 64 clicks at once, and ours in both precisions and by clicks at once
- peak memory of a process that does nothing else, image encoder included
- --trained: masks in bfloat16 and in float32, by a run of `regard train --task segment`, on synthetic scenes: of the
  same clicks, and of what stays after all filters, where of nearly equal masks another may have stayed

--busy is for a machine on which others compute too: one thread, and its own CPU seconds count, not the clock's. Losses
are shown as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from torch import nn

from regard.data.scenes import make_scenes
from regard.masks import RunLengths
from regard.models import create_model
from regard.models.sam import SAM, Prompts
from regard.segmentation.everything import Everything, Options, everything
from regard.segmentation.loading import load_segmenter
from regard.segmentation.segmenter import CHUNK, Segmenter

FULL = 32  # points per side of the original's default
THRESHOLD = 0.5
SPREAD = 8.0  # of the estimates of IoU: fresh weights give all masks nearly the same
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


def last_layer(model: SAM) -> nn.Linear:
    """What makes the estimates of IoU."""
    layer = model.mask_decoder.iou_prediction_head.layers[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def fresh_model() -> SAM:
    torch.manual_seed(0)
    model = create_model("sam_vit_b")
    assert isinstance(model, SAM)
    with torch.no_grad():
        last_layer(model).weight.mul_(SPREAD)
        model.image_encoder.pos_embed.normal_(std=0.5)  # fresh ones are 0: all places would look alike
    return model.eval()


def package_of(model: SAM) -> Any:
    theirs = sam_model_registry["vit_b"]()
    theirs.load_state_dict(model.state_dict())
    return theirs.eval()


def make_image(side: int) -> np.ndarray:
    """Patches of colour with noise on them."""
    random = np.random.default_rng(0)
    patches = np.kron(random.integers(0, 200, (side // 64 + 1, side // 64 + 1, 3)), np.ones((64, 64, 1)))
    image = patches[:side, :side] + random.integers(0, 56, (side, side, 3))
    return image.astype(np.uint8)


def threshold(model: SAM, image: np.ndarray, points: int, passing: float) -> tuple[float, float]:
    """Of the estimates of IoU, so that this share of masks passes; and the share of clicks with any that does."""
    segmenter = Segmenter(model)
    embedded = segmenter.embed(image)
    places = torch.from_numpy(Options(points_per_side=points).grid(0) * image.shape[1::-1])[:, None]
    estimates = []
    with torch.inference_mode():
        for some in places.split(CHUNK):
            prompts = segmenter.place(embedded.frame, Prompts(some, torch.ones(len(some), 1)))
            estimates.append(model.read(embedded.embedding, prompts).iou[:, 1:])
    found = torch.cat(estimates)
    limit = float(found.flatten().quantile(1 - passing))
    return limit, float((found > limit).any(dim=1).float().mean())


def shifted(model: SAM, by: float) -> None:
    """Moves all estimates of IoU, so that a threshold between 0 and 1 can be asked for."""
    with torch.no_grad():
        last_layer(model).bias.add_(by)


def generator_of(theirs: Any, options: Options) -> Any:
    return SamAutomaticMaskGenerator(
        theirs,
        points_per_side=options.points_per_side,
        pred_iou_thresh=options.pred_iou_thresh,
        stability_score_thresh=options.stability_score_thresh,
        box_nms_thresh=options.box_nms_thresh,
        output_mode="uncompressed_rle",
    )


def package_way(model: SAM, image: np.ndarray, options: Options) -> Callable[[], Any]:
    generator = generator_of(package_of(model), options)
    generator.predictor.set_image(image)
    generator.predictor.set_image = lambda image: None  # what it embedded stays
    generator.predictor.reset_image = lambda: None
    return lambda: generator.generate(image)


def our_way(segmenter: Segmenter, image: np.ndarray, options: Options) -> Callable[[], Everything]:
    segmenter.embed(image)  # found again by its content
    return lambda: everything(segmenter, image, options)


def medians(ways: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each way; all run in turn, round after round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            start = clock()
            run()
            if number:
                seconds[name].append(clock() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def runs_of(record: dict[str, Any]) -> RunLengths:
    height, width = record["segmentation"]["size"]
    return RunLengths(height, width, np.array(record["segmentation"]["counts"], np.int64))


def options_of(given: argparse.Namespace) -> Options:
    return Options(
        points_per_side=given.points, pred_iou_thresh=THRESHOLD, stability_score_thresh=0.0, box_nms_thresh=1.0
    )


def speed(given: argparse.Namespace, clock: Callable[[], float]) -> float:
    """Returns by how much estimates were moved."""
    model, image = fresh_model(), make_image(given.side)
    limit, clicks = threshold(model, image, given.points, given.passing)
    shifted(model, THRESHOLD - limit)
    options = options_of(given)
    ways: dict[str, Callable[[], Any]] = {"segment_anything, 64 at once": package_way(model, image, options)}
    for precision in PRECISIONS:
        segmenter = Segmenter(model, precision=precision)
        for batch in sorted({CHUNK, *map(int, given.batches.split(","))} - {0}):
            some = Options(**{**vars(options), "points_per_batch": batch})
            ways[f"regard {precision}, {batch} at once"] = our_way(segmenter, image, some)
    taken = medians(ways, given.rounds, clock)
    first = next(iter(taken.values()))
    count = given.points**2
    shares = f"{given.passing:.0%} of masks pass, {clicks:.0%} of clicks have one"
    how = "" if given.points == FULL else " (extrapolated)"
    print(f"\n### {count} clicks after the encoder: {shares}\n")
    print(f"| way | s | ms a click | {FULL} x {FULL} clicks, s{how} | x |")
    print("|---|---|---|---|---|")
    for name, seconds in taken.items():
        a_click = seconds / count
        print(f"| {name} | {seconds:.1f} | {1e3 * a_click:.1f} | {a_click * FULL**2:.0f} | {first / seconds:.2f} |")
    theirs = [runs_of(mask) for mask in ways["segment_anything, 64 at once"]()]
    found = ways[f"regard fp32, {CHUNK} at once"]().masks
    alike = [iou(mask.runs, other) for mask, other in zip(found, theirs, strict=False)]
    counts = f"{len(theirs)} and {len(found)}"
    print(f"\nMasks of the package and of ours in float32: {counts}; one by one, least IoU {min(alike):.6f}")
    return THRESHOLD - limit


def memory(given: argparse.Namespace, shift: float) -> None:
    """Each way in a process of its own, which calls this script with --only."""
    print("\n### Peak memory of the process, image encoder included, model and PyTorch included\n")
    print("| way | MB | share |\n|---|---|---|")
    first = 0.0
    for way in ("start", "segment_anything", *PRECISIONS):
        command = [sys.executable, __file__, "--only", way, "--shift", str(shift)]
        command += ["--points", str(given.points), "--side", str(given.side)]
        found = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        first = found if way == "segment_anything" else first
        share = f"{found / first:.2f}" if first else ""
        print(f"| {way if way in ('start', 'segment_anything') else f'regard {way}'} | {found:.0f} | {share} |")


def only(way: str, given: argparse.Namespace) -> None:
    """Prints the megabytes that this process has held at most."""
    model, image, options = fresh_model(), make_image(given.side), options_of(given)
    shifted(model, given.shift)
    if way == "segment_anything":
        theirs = package_of(model)
        del model
        generator_of(theirs, options).generate(image)
    elif way != "start":
        everything(Segmenter(model, precision="bf16" if way == "bf16" else "fp32"), image, options)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that started this one
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1000)


def kept_by_bfloat16(run: Path, images: int, least: tuple[float, float]) -> None:
    """least: estimate of IoU, and stability."""
    options = Options(points_per_side=16, pred_iou_thresh=least[0], stability_score_thresh=least[1])
    same: list[float] = []  # IoU of the masks of the same clicks
    nearest: list[float] = []  # of each mask that stays with the nearest that stays
    counts = {precision: 0 for precision in PRECISIONS}
    segmenters = {precision: load_segmenter(run, precision=precision) for precision in PRECISIONS}
    side = segmenters["fp32"].model.img_size
    for scene in make_scenes(10, images, side):
        full, half = (
            everything(segmenters[precision], scene.image, options, keep_clicks=True) for precision in PRECISIONS
        )
        counts["fp32"] += len(full.masks)
        counts["bf16"] += len(half.masks)
        assert full.clicks is not None and half.clicks is not None
        for click, other in zip(full.clicks.clicks, half.clicks.clicks, strict=True):
            pairs = zip(click.iou, click.masks, other.masks, strict=True)
            same += [iou(a, b) for estimate, a, b in pairs if estimate > options.pred_iou_thresh]
        nearest += [max((iou(a.runs, b.runs) for b in half.masks), default=0.0) for a in full.masks]
    if not nearest:
        print(f"\n{run.name}: no mask passes; lower --least-iou and --least-stability")
        return
    print(f"\n### What bfloat16 keeps of the masks of {run.name}, {images} scenes, 16 x 16 clicks\n")
    print("| masks that pass in float32 | mean IoU with those of the same clicks in bfloat16 | at least 0.95 |")
    print("|---|---|---|")
    print(f"| {len(same)} | {np.mean(same):.4f} | {np.mean(np.array(same) >= 0.95):.1%} |")
    print(
        "\n| masks that stay in float32 | in bfloat16 | mean IoU with the nearest | at least 0.95 |\n|---|---|---|---|"
    )
    share = np.mean(np.array(nearest) >= 0.95)
    print(f"| {counts['fp32']} | {counts['bf16']} | {np.mean(nearest):.4f} | {share:.1%} |")


def iou(one: RunLengths, other: RunLengths) -> float:
    a, b = one.decode(), other.decode()
    return float((a & b).sum() / max((a | b).sum(), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=8, help="clicks per side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passing", type=float, default=0.15, help="share of masks whose estimate passes")
    parser.add_argument("--side", type=int, default=1024, help="pixels of the image")
    parser.add_argument("--batches", default="0", help="clicks at once, beside the default")
    parser.add_argument("--trained", type=Path, help="a run of `regard train --task segment`")
    parser.add_argument("--images", type=int, default=8, help="scenes of the last table")
    parser.add_argument("--least-iou", type=float, default=0.7, help="of the masks of --trained")
    parser.add_argument("--least-stability", type=float, default=0.8)
    parser.add_argument("--busy", action="store_true", help="count the CPU seconds of one thread")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--shift", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        only(given.only, given)
        return
    clock = time.process_time if given.busy else time.perf_counter
    if given.busy:
        torch.set_num_threads(1)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads of {os.cpu_count()}, torch {torch.__version__}")
    print("seconds of CPU of one thread" if given.busy else "seconds by the clock")
    memory(given, speed(given, clock))
    if given.trained:
        kept_by_bfloat16(given.trained, given.images, (given.least_iou, given.least_stability))


if __name__ == "__main__":
    main()
