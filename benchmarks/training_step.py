"""Ours against timm's model of the same name and weights, in the same plain loop: forward, training step.

    .venv/bin/python benchmarks/training_step.py [--rounds 9] [--batch 8] [--quick]

Both models hold the same weights, see the same batch and step with the same AdamW; they run in turn, round by
round, a different one first in every round, and the median round counts. `ratio` is timm's time divided by
ours: above 1 we are faster. `without taps` is the time of our model with every tap made a plain function,
divided by ours: 1 minus that is what taps cost while nobody listens. `MB kept` is what one forward pass of a training
step keeps for the backward pass, ours and timm's, weights aside. Losses over 3% are listed at the end.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.models import create_model, model_spec, timm_reference
from regard.taps import Tap

CASES = [
    ("vit_small_patch16_224", 224),
    ("vit_nano_patch4_32", 32),
    ("deit_small_distilled_patch16_224", 224),
    ("swin_tiny_patch4_window7_224", 224),
    ("resnet18", 224),
]
QUICK = CASES[1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def models(name: str, size: int) -> dict[str, nn.Module]:
    """Ours, timm's and ours without taps: same weights, in the layout that suits the family."""
    spec = model_spec(name)
    reference = timm_reference(spec, size)
    assert reference is not None, name
    torch.manual_seed(0)
    ours = create_model(name, 10, size)
    theirs = timm.create_model(reference[0], num_classes=10, **reference[1])
    theirs.load_state_dict(ours.state_dict())
    bare = copy.deepcopy(ours)
    for module in bare.modules():
        for child, tap in list(module.named_children()):
            if isinstance(tap, Tap):
                delattr(module, child)
                setattr(module, child, Bare())
    if hasattr(theirs, "set_distilled_training"):
        theirs.set_distilled_training(True)
    layout = torch.channels_last if spec.convolutional else torch.contiguous_format
    named = {"regard": ours, "timm": theirs} | ({"bare": bare} if spec.family == "vit" else {})
    return {key: model.to(DEVICE, memory_format=layout) for key, model in named.items()}


class Bare:
    """A tap that is no module: what calling it as a plain function would cost."""

    listening = False

    def __call__(self, x: Tensor) -> Tensor:
        return x


def step_of(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool, train: bool) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def autocast():
        return torch.autocast(DEVICE.type, torch.bfloat16) if bf16 else nullcontext()

    def training_step() -> None:
        with autocast():
            loss = loss_of(model(images), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def forward() -> None:
        with torch.inference_mode(), autocast():
            model(images)

    model.train(train)
    return training_step if train else forward


def loss_of(answers: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Cross-entropy of the one head, or the sum of both of a distilled DeiT: ours nests the second, timm's does not."""
    if isinstance(answers, Tensor):
        return F.cross_entropy(answers.float(), labels)
    return sum((loss_of(answer, labels) for answer in answers), torch.zeros((), device=labels.device))


def kept_megabytes(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool) -> float:
    """Bytes of all different tensors that autograd saves in one forward pass, weights aside, divided by 1e6."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other takes its place
        return tensor

    model.train()
    context = torch.autocast(DEVICE.type, torch.bfloat16) if bf16 else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), context:
        loss_of(model(images), labels)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 1e6


def seconds(step: Callable[[], None], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def measure(name: str, size: int, batch: int, bf16: bool, train: bool, rounds: int) -> dict[str, float]:
    """Median seconds of a step by model, and the megabytes that its forward pass keeps (NAME kept)."""
    layout = torch.channels_last if model_spec(name).convolutional else torch.contiguous_format
    images = torch.randn(batch, 3, size, size, device=DEVICE).contiguous(memory_format=layout)
    labels = torch.arange(batch, device=DEVICE) % 10
    made = models(name, size)
    kept = {f"{key} kept": kept_megabytes(m, images, labels, bf16) for key, m in made.items()} if train else {}
    steps = {key: step_of(m, images, labels, bf16, train) for key, m in made.items()}
    once = {key: min(seconds(step, 1) for _ in range(2)) for key, step in steps.items()}
    repeats = max(1, round(0.15 / once["regard"]))
    times: dict[str, list[float]] = {key: [] for key in steps}
    for number in range(rounds):
        keys = list(steps)
        for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
            times[key].append(seconds(steps[key], repeats))
    return {key: statistics.median(values) for key, values in times.items()} | kept


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="the small ViT in float32 only")
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.machine()
    print(f"torch {torch.__version__}, timm {timm.__version__}, {device}, {torch.get_num_threads()} threads")
    print("\n| model | batch | precision | what | regard ms | timm ms | ratio | without taps | MB kept |")
    print("|---|---|---|---|---|---|---|---|---|")
    losses: list[str] = []
    for name, size in [QUICK] if arguments.quick else CASES:
        batch = arguments.batch * (8 if size == 32 else 1)
        for precision in ["fp32"] if arguments.quick else ["fp32", "bf16"]:
            for what in ("forward", "training step"):
                bf16, train = precision == "bf16", what == "training step"
                found = measure(name, size, batch, bf16, train, arguments.rounds)
                ratio = found["timm"] / found["regard"]
                taps = f"{found['bare'] / found['regard']:.3f}" if "bare" in found else "no taps"
                row = f"| {name} | {batch} | {precision} | {what} | {1e3 * found['regard']:.1f} "
                kept = f"{found['regard kept']:.0f} / {found['timm kept']:.0f}" if train else ""
                print(row + f"| {1e3 * found['timm']:.1f} | {ratio:.2f} | {taps} | {kept} |", flush=True)
                if ratio < 0.97:
                    losses.append(f"{name} {precision} {what}: {ratio:.2f}")
    print("\nLost by more than 3%: " + ("; ".join(losses) if losses else "nowhere") + ".")


if __name__ == "__main__":
    main()
