"""A small training for `test_resume.py` and the reliability rows: `python interrupted.py` forks one per line of input.

Input lines: FOLDER RESUME. Output lines: "pid N" when a process has begun, "exit N CODE" when it has ended.
The process writes FOLDER/weights.safetensors, the last thing it does. `Server` starts it from a test.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from regard.runs.atomic import write_atomic
from regard.runs.run import Run
from regard.training.interrupts import Interrupts
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.state import States

STEPS = 60
NOTHING_TO_SAVE = 99  # exit code of a process that SIGINT reached in its first milliseconds
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
        yield torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(start))
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


def train(
    folder: Path,
    resume: bool,
    listen: Callable[[dict], None] = lambda event: None,
    interrupts: Interrupts | None = None,
) -> None:
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
        interrupts=interrupts,
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
                with Interrupts() as interrupts:
                    train(Path(folder), resume == "True", interrupts=interrupts)
            except SystemExit as stop:
                os._exit(int(stop.code or 0))
            except KeyboardInterrupt:  # before there were handlers
                os._exit(NOTHING_TO_SAVE)
            os._exit(0)
        print("pid", child, flush=True)
        _, status = os.waitpid(child, 0)
        print("exit", child, os.waitstatus_to_exitcode(status), flush=True)


class Server:
    """Starts trainings in processes of their own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout

    def start(self, folder: Path, resume: bool) -> int:
        folder.mkdir(exist_ok=True)
        self.input.write(f"{folder} {resume}\n")
        self.input.flush()
        word, pid = self.output.readline().split()
        assert word == "pid"
        return int(pid)

    def wait(self) -> int:
        word, _, code = self.output.readline().split()
        assert word == "exit"
        return int(code)

    def train(self, folder: Path, resume: bool = True) -> int:
        self.start(folder, resume)
        return self.wait()

    def close(self) -> None:
        self.input.close()
        self.process.wait()
        self.output.close()


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def rows(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def check(folder: Path, undisturbed: tuple[Path, float]) -> None:
    assert weights_hash(folder) == weights_hash(undisturbed[0])
    assert rows(folder) == rows(undisturbed[0])
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


if __name__ == "__main__":
    serve()
