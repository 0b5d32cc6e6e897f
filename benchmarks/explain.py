"""What every method of explanation costs, beside the passes it is made of.

    .venv/bin/python benchmarks/explain.py [--images 4] [--rounds 5] [--model vit_small_patch16_224] [--methods a,b]

Random weights and random images (time does not depend on the values). Beside each method, in the same round and right
after it, runs what it is measured against, on the same images; which of both comes first changes from round to round.
The figures are medians, the ratio is the median of the rounds' ratios:

- a method that needs one backward pass, against one forward and backward pass of the same batch (the gradient of a
  logit with respect to the images): at most 3
- a method of many passes (integrated gradients, occlusion), against just these passes, as many as `Method.passes`
  says before it starts, in batches of 16, as Captum is given them: at most 1.1
- a method of one forward pass, against a forward pass of the same batch: no bar here (benchmarks/rollout.py has one)

Prints Markdown. Losses are shown as they are.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.explanation.asking import PASS
from regard.explanation.method import Method, Passes
from regard.explanation.methods import applicable, method
from regard.models import create_model, model_spec

ONE_BACKWARD, MANY_PASSES = 3.0, 1.1  # the bars
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def forward(model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        model(images)


def forward_backward(model: nn.Module, images: Tensor) -> None:
    images = images.clone().requires_grad_()
    torch.autograd.grad(model(images)[:, 0].sum(), images)


def plain(model: nn.Module, images: Tensor, passes: Passes) -> tuple[str, float, Callable[[], None]]:
    """(what a method of so many passes is measured against, the bar or 0, the same as a function)."""
    run, what = (forward_backward, "forward + backward") if passes.backward else (forward, "forward")
    if passes.forward <= 2:  # one pass, and at most one image more to find a layer
        return what, ONE_BACKWARD if passes.backward else 0.0, lambda: run(model, images)
    count = round(passes.forward * len(images))

    def many() -> None:
        for start in range(0, count, PASS):
            run(model, images[torch.arange(start, min(start + PASS, count)) % len(images)])

    return f"{passes.forward:g} x {what}", MANY_PASSES, many


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(
    explain: Method, model: nn.Module, images: Tensor, rounds: int
) -> tuple[str, float, list[float], list[float]]:
    """(what it is measured against, the bar or 0, seconds of the method by round, and of the other)."""
    what, bar, other = plain(model, images, explain.passes(model, images))
    classes = torch.zeros(len(images), dtype=torch.int64, device=DEVICE)

    def own() -> Tensor:
        return explain.explain(model, images, classes)

    times: dict[Callable[[], object], list[float]] = {own: [], other: []}
    for number in range(rounds):
        for run in (own, other) if number % 2 else (other, own):
            times[run].append(seconds(run))
    return what, bar, times[own], times[other]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--methods", default="", help="names, separated by commas; all that apply by default")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = create_model(arguments.model).to(DEVICE).eval()
    side = model_spec(arguments.model).img_size
    images = torch.randn(arguments.images, 3, side, side, device=DEVICE)
    names = arguments.methods.split(",") if arguments.methods else applicable(model)
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.machine()
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, float32")
    print(f"\n### {arguments.model}, {arguments.images} images, {arguments.rounds} rounds\n")
    print("| method | s per image | against | s per image | ratio | bar |\n|---|---|---|---|---|---|")
    for run in (forward, forward_backward):
        run(model, images)  # pays for what is made once
    lost: list[str] = []
    for name in names:
        what, bar, own, other = measure(method(name), model, images, arguments.rounds)
        ratio = statistics.median(mine / theirs for mine, theirs in zip(own, other, strict=True))
        took, plainly = (statistics.median(times) / len(images) for times in (own, other))
        print(
            f"| {name} | {took:.3f} | {what} | {plainly:.3f} | {ratio:.2f} | {f'<= {bar:g}' if bar else ''} |",
            flush=True,
        )
        lost += [f"{name} {ratio:.2f}"] if bar and ratio > bar else []
    print(f"\nOver the bar: {'; '.join(lost) or 'none'}.")


if __name__ == "__main__":
    main()
