"""A small training for `test_resume.py`, run in processes of its own: `python interrupted.py` forks one per
line of input.

Input lines: FOLDER RESUME. Output lines: "pid N" when a process has begun, "exit N CODE" when it has ended.
The process writes FOLDER/weights.safetensors, the last thing it does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from regard.runs.atomic import write_atomic
from regard.runs.run import Run
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.state import States

STEPS = 60
PLAN = Plan(
    STEPS,
    16,
    warmup=5,
    accumulation=2,
    clip_norm=1.0,
    ema=0.9,
    evaluate_every=7,
    watch="val/error",
    lower_is_better=True,
    save_every=0.01,
)


def batches(start: int) -> Iterator[Tensor]:
    """Random images with their own number as seed."""
    while True:
        yield torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(start))
        start += 1


def loss(model: nn.Module, images: Tensor) -> Tensor:
    """Predict the mean brightness."""
    return nn.functional.mse_loss(model(images).squeeze(1), images.mean((1, 2, 3)))


def evaluator(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Slow enough to be hit by a signal."""
    time.sleep(0.01)
    yield "val/error", loss(model, next(batches(10**6))).item()


def make() -> nn.Module:
    """Convolution, batch norm, dropout: weights, buffers and random numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(288, 1)
    ).to(memory_format=torch.channels_last)


def train(folder: Path, resume: bool, listen: Callable[[dict], None] = lambda event: None) -> None:
    """The whole job."""
    run = Run(folder)
    model = make()
    outcome = fit(
        model,
        batches,
        loss,
        make_optimiser("adamw", parameter_groups(model, 1e-3, 0.05), 1e-3),
        PLAN,
        [evaluator],
        States(folder),
        resume,
        on_row=run.append_metrics,
        on_resume=run.truncate_metrics,
        on_event=listen,
    )
    write_atomic(
        folder / "weights.safetensors",
        save({name: value.contiguous() for name, value in outcome.weights.items()}),
    )


def warm_up() -> None:
    """One step, so that what torch imports at its first step is imported before the first fork."""
    model = make()
    loss(model, next(batches(0))).backward()
    make_optimiser("adamw", parameter_groups(model, 1e-3, 0.05), 1e-3).step()


def serve() -> None:
    """Fork one process per line: torch is imported once."""
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # processes are killed here, not the machine
    warm_up()
    for line in sys.stdin:
        folder, resume = line.split()
        child = os.fork()
        if child == 0:
            try:
                train(Path(folder), resume == "True")
            except SystemExit as stop:
                os._exit(int(stop.code or 0))
            os._exit(0)
        print("pid", child, flush=True)
        _, status = os.waitpid(child, 0)
        print("exit", child, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
