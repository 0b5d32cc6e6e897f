"""Trainings by several processes, for `test_processes.py` and the reliability rows: `python together.py` forks the
processes of one training per line of input, in the place of torchrun, so that torch is imported once.

Input lines: a `Job` as JSON. Output lines: {"pids"} when they have begun, {"codes", "seconds", "first"} when all have
ended; codes by rank, first: the rank that ended first in failure. Each rank writes its stderr to FOLDER/said-RANK.txt
and the rows of its batches to FOLDER/rows-RANK.txt; the first writes FOLDER/weights.safetensors at its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from regard.data.augment import Augment
from regard.data.loader import Batch, Batches
from regard.data.mixing import Mixing
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.models import create_model
from regard.runs.atomic import write_atomic
from regard.runs.run import Run
from regard.training.interrupts import Interrupts, Stopped
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.processes import PeerFailed, explain, join
from regard.training.state import States

GRACE = 30.0  # torchrun's, between its SIGTERM and its SIGKILL
SIZE, CLASSES = 16, 4


@dataclass(frozen=True)
class Job:
    """One training. fault: what happens to which rank at which step: see `Fault`."""

    folder: str
    world: int = 2
    resume: bool = False
    steps: int = 10
    batch_size: int = 8
    accumulation: int = 1
    dropout: float = 0.0
    mixing: bool = True
    model: str = "vit"
    evaluate_every: int = 4
    save_every: float = 300.0
    threads: int = 1
    fault: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """Random images in memory with their ids and labels."""

    sources: list[np.ndarray]
    labels: np.ndarray

    @property
    def ids(self) -> list[str]:
        return [f"photo-{number:03}.png" for number in range(len(self.sources))]


class Fault:
    """What goes wrong when a rank reads or uses the batch of a step, each once: raise, file, kill, stop, slow, exit,
    memory (in `where`: forward, backward; `times` times), nan, signal (`number`).
    """

    def __init__(self, wanted: dict[str, Any], rank: int):
        self.kind = wanted.get("kind", "") if wanted.get("rank") in (rank, None) else ""
        self.step, self.times, self.where = wanted.get("step", 0), wanted.get("times", 1), wanted.get("where", "")
        self.number = wanted.get("number", signal.SIGTERM)

    def strikes(self, step: int, *kinds: str) -> bool:
        if self.kind not in kinds or step < self.step or self.times < 1:
            return False
        self.times -= 1
        return True

    def before(self, step: int) -> None:
        """On reading the batch."""
        if self.strikes(step, "raise"):
            raise ValueError("a mistake in the code")
        if self.strikes(step, "file"):
            raise RegardError("photos/cat.jpg: truncated, 1,000 bytes of 4,000; leave it out")
        if self.strikes(step, "kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.strikes(step, "stop"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.strikes(step, "slow"):
            time.sleep(1.0)
        if self.strikes(step, "signal"):
            os.kill(os.getpid(), self.number)

    def loss(self, step: int, value: Tensor) -> Tensor:
        """On the loss of a part."""
        if self.kind == "memory" and self.where == "backward":
            if self.strikes(step, "memory"):
                value.register_hook(no_memory)
        elif self.strikes(step, "memory"):
            no_memory()
        return value * float("nan") if self.strikes(step, "nan") else value


def no_memory(*_: Any) -> Tensor:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: (code 12)")


def images(count: int = 40) -> Memory:
    rng = np.random.default_rng(0)
    return Memory(
        [rng.integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8) for _ in range(count)],
        rng.integers(0, CLASSES, count),
    )


def make(job: Job) -> nn.Module:
    torch.manual_seed(0)
    name = {"vit": "vit_nano_patch4_32", "resnet": "resnet20_32"}[job.model]
    return create_model(name, num_classes=CLASSES, img_size=SIZE, drop_rate=job.dropout, drop_path_rate=job.dropout)


def stream_of(job: Job) -> Batches:
    preprocess = Preprocess(size=SIZE, crop_pct=1.0)
    mixing = Mixing(0.8, 1.0, 0.8, 0.1) if job.mixing else None
    augment = Augment(crop="resized", scale=(0.5, 1.0), flip=0.5, randaugment=(1, 5.0), erase=0.25)
    data = images()
    return Batches(
        data,
        range(32),
        preprocess,
        augment,
        mixing,
        batch_size=job.batch_size,
        num_classes=CLASSES,
        threads=job.threads,
    )


def train(job: Job) -> None:
    """The whole job of one rank."""
    team = join()
    folder, run = Path(job.folder), Run(job.folder)
    fault = Fault(job.fault, team.rank)
    model, batches, held_out = (
        make(job),
        stream_of(job),
        Batches(images(), range(32, 40), Preprocess(size=SIZE), batch_size=8),
    )
    now = 0

    def shares(start: int) -> Iterator[Batch]:
        nonlocal now
        with open(folder / f"rows-{team.rank}.txt", "a") as log:
            for now, batch in enumerate(batches.from_step(start, team.rank, team.world), start):
                fault.before(now)
                digests = [hashlib.md5(image.numpy().tobytes()).hexdigest()[:8] for image in batch.images]
                log.write(json.dumps([now, dict(zip(batch.rows.tolist(), digests, strict=True))]) + "\n")
                log.flush()
                yield batch

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return fault.loss(now, nn.functional.cross_entropy(model(batch.images), batch.targets))

    def evaluator(model: nn.Module) -> Iterator[tuple[str, float]]:
        (batch,) = held_out.once()
        yield "val/nll", nn.functional.cross_entropy(model(batch.images), batch.targets).item()

    def listen(event: dict[str, Any]) -> None:
        with open(folder / "events.jsonl", "a") as log:
            log.write(json.dumps(event) + "\n")

    plan = Plan(
        job.steps,
        job.batch_size,
        warmup=2,
        accumulation=job.accumulation,
        clip_norm=1.0,
        ema=0.9,
        evaluate_every=job.evaluate_every,
        watch="val/nll",
        lower_is_better=True,
        save_every=job.save_every,
    )
    outcome = fit(
        model,
        shares,
        loss,
        make_optimiser("adamw", parameter_groups(model, 1e-3, 0.05), 1e-3),
        plan,
        [evaluator],
        States(folder),
        job.resume,
        on_event=listen,
        on_row=run.append_metrics,
        on_resume=run.truncate_metrics,
        name_batch=lambda batch: ", ".join(batches.images.ids[row] for row in batch.rows[:3]),
        interrupts=Interrupts(echo=2.0),
        team=team,
    )
    if team.first:
        weights = {f"best/{name}": value.contiguous() for name, value in outcome.weights.items()}
        write_atomic(folder / "weights.safetensors", save(weights))
    team.close()


def rank(job: Job) -> None:
    """A forked process: as the command line does it, errors become one line and an exit code."""
    try:
        train(job)
    except PeerFailed as failed:
        if failed.line:
            print(f"regard: {failed.line}", file=sys.stderr, flush=True)
        os._exit(1)
    except Stopped as stop:
        print(f"regard: {explain(stop)}", file=sys.stderr, flush=True)
        os._exit(int(stop.code or 0))
    except Exception as error:
        if line := explain(error):
            print(f"regard: {line}", file=sys.stderr, flush=True)
        os._exit(2)
    os._exit(0)


def launch(job: Job) -> None:
    """Fork the ranks and look after them as torchrun does: the first failure ends all others."""
    private = Path(tempfile.mkdtemp(prefix="together-"))
    pids: dict[int, int] = {}
    for number in range(job.world):
        (private / str(number)).mkdir()
        pid = os.fork()
        if pid == 0:
            os.environ |= {"RANK": str(number), "WORLD_SIZE": str(job.world), "LOCAL_WORLD_SIZE": str(job.world)}
            os.environ["TORCHELASTIC_ERROR_FILE"] = str(private / str(number) / "error.json")
            said = os.open(Path(job.folder) / f"said-{number}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 2)
            rank(job)
        pids[pid] = number
    print(json.dumps({"pids": list(pids)}), flush=True)
    codes: dict[int, int] = {}
    first: int | None = None
    began = ended = time.monotonic()
    while len(codes) < job.world:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            number, code = pids[pid], os.waitstatus_to_exitcode(status)
            codes[number] = code
            if code and first is None:
                first, ended = number, time.monotonic()
                signal_all(pids, codes, signal.SIGTERM)
        elif first is not None and time.monotonic() - ended > GRACE:
            signal_all(pids, codes, signal.SIGKILL)
        else:
            time.sleep(0.01)
    reason = ""
    if first is not None and (path := private / str(first) / "error.json").exists():
        reason = json.loads(path.read_text())["message"]["message"]
    seconds = time.monotonic() - began
    shutil.rmtree(private)
    answer = {"codes": [codes[n] for n in range(job.world)], "first": first, "reason": reason, "seconds": seconds}
    print(json.dumps(answer), flush=True)


def signal_all(pids: dict[int, int], codes: dict[int, int], number: int) -> None:
    for pid, rank in pids.items():
        if rank not in codes:
            os.kill(pid, number)


def serve() -> None:
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # processes are killed here, not the machine
    for line in sys.stdin:
        launch(Job(**json.loads(line)))


class Together:
    """Starts trainings, from a test."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout

    def start(self, job: Job) -> list[int]:
        """Process ids by rank."""
        Path(job.folder).mkdir(exist_ok=True)
        self.input.write(json.dumps(asdict(job)) + "\n")
        self.input.flush()
        return json.loads(self.output.readline())["pids"]

    def wait(self) -> dict[str, Any]:
        return json.loads(self.output.readline())

    def train(self, job: Job) -> dict[str, Any]:
        self.start(job)
        return self.wait()

    def close(self) -> None:
        self.input.close()
        self.process.wait()
        self.output.close()


def said(folder: Path) -> list[str]:
    """What the ranks printed."""
    return [line for path in sorted(folder.glob("said-*.txt")) for line in path.read_text().splitlines()]


def final_state(folder: Path) -> dict[str, Tensor]:
    """Weights, optimiser, average and best weights of a finished training."""
    return load_file(folder / "last" / "tensors.safetensors")


def progress(folder: Path) -> dict[str, Any]:
    """Counters of the last state."""
    counters = json.loads((folder / "last" / "state.json").read_text())["progress"]
    return {name: value for name, value in counters.items() if name != "seconds"}


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of two states; they hold the same tensors."""
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def seen(folder: Path) -> dict[int, dict[int, str]]:
    """Step -> {row: digest of its augmented and mixed pixels}, over all ranks."""
    steps: dict[int, dict[int, str]] = {}
    for path in folder.glob("rows-*.txt"):
        for line in path.read_text().splitlines():
            step, rows = json.loads(line)
            steps.setdefault(step, {}).update({int(row): digest for row, digest in rows.items()})
    return steps


if __name__ == "__main__":
    serve()
