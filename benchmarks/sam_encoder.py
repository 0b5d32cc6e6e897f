"""SAM's image encoder beside that of segment-anything: seconds of an embedding, memory, and what differs.

    python benchmarks/sam_encoder.py [--rounds 3] [--busy]

ViT-B at 1024 x 1024, one image, the same random weights in both; queries and keys are scaled up until attention is as
far from even as in trained models, positions and distances are drawn. One table in Markdown:

- seconds: medians over interleaved rounds after a first one, which has a column of its own (nothing is compiled)
- extra memory: the peak of tensors held at once, beyond weights and image
- largest difference, of the package's largest value, and cosine: from the package in float32

The package with autocast is what its users can have in bfloat16. --busy is for a machine on which others compute too:
one thread, and its own CPU seconds count, not the clock's. Losses are shown as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from segment_anything import sam_model_registry
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from regard.inference.precision import autocast
from regard.models import create_model
from regard.models.sam import SAM

SIDE = 1024
SHARPER = 2.5  # of queries and of keys: q.k / sqrt(d) then has a standard deviation of about 2

Way = Callable[[], Any]
Clock = Callable[[], float]


def same_models() -> tuple[Any, SAM]:
    """The package's model and ours, with the same weights."""
    torch.manual_seed(0)
    ours = create_model("sam_vit_b").eval()
    assert isinstance(ours, SAM)
    with torch.no_grad():
        for name, weight in ours.image_encoder.named_parameters():
            if "pos" in name:
                nn.init.normal_(weight, std=0.1)
            elif name.endswith("qkv.weight"):
                weight[: 2 * weight.shape[1]] *= SHARPER
    theirs = sam_model_registry["vit_b"]().eval()
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


def timed(ways: dict[str, Way], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of each way, the first round's at first; all run in turn, round after round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def watched(run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What it gives, and the most bytes of tensors that it holds at once beyond those that it found."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        found = run()
    events: list[Any] = profiled.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return found, max(accumulate(nbytes for _, nbytes in changes))


def start(busy: bool) -> Clock:
    """Says where and how it is measured; gives the clock."""
    if busy:
        torch.set_num_threads(1)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads of {os.cpu_count()}, torch {torch.__version__}")
    print("CPU seconds of one thread" if busy else "seconds by the clock")
    return time.process_time if busy else time.perf_counter


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="count the CPU seconds of one thread")
    options = parser.parse_args()
    clock = start(options.busy)
    theirs, ours = same_models()
    image = torch.randn(1, 3, SIDE, SIDE)

    def in_bfloat16(run: Callable[[Tensor], Tensor]) -> Way:
        def way() -> Tensor:
            with autocast("bf16", image.device):
                return run(image).float()

        return way

    ways: dict[str, Way] = {
        "segment-anything": lambda: theirs.image_encoder(image),
        "segment-anything, autocast bf16": in_bfloat16(theirs.image_encoder),
        "regard, float32": lambda: ours.embed(image),
        "regard, bf16": in_bfloat16(ours.embed),
    }
    print(f"\n### an embedding, ViT-B at {SIDE} x {SIDE}, {options.rounds} rounds\n")
    print("| way | seconds | first | times as fast | extra memory, MB | largest difference | cosine |")
    print("|---|---|---|---|---|---|---|")
    taken = timed(ways, options.rounds, clock)
    package = statistics.median(taken["segment-anything"][1:])
    wanted = None
    for name, run in ways.items():
        (found, extra), seconds = watched(run), statistics.median(taken[name][1:])
        wanted = found if wanted is None else wanted
        difference = float((found - wanted).abs().max() / wanted.abs().max())
        cosine = float(torch.cosine_similarity(found.double().flatten(), wanted.double().flatten(), dim=0))
        speed = f"{seconds:.2f} | {taken[name][0]:.2f} | {package / seconds:.2f}"
        print(f"| {name} | {speed} | {extra / 1e6:.0f} | {difference:.1e} | {cosine:.6f} |")


if __name__ == "__main__":
    main()
