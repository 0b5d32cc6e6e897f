"""Row 22: one process that dies, fails or stands still ends all, with its reason, and the run resumes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from figures import record
from together import Job, Together, farthest, final_state, progress, said

from regard.training.state import States

STOPPING = {  # fault -> what its reason must say
    "raise": "a mistake in the code",
    "file": "photos/cat.jpg: truncated",
    "kill": "was ended from outside",
    "memory": "out of memory with one image at a time",
    "stop": "stood still for 10 s",
}


@pytest.fixture(scope="module")
def whole(together, tmp_path_factory) -> Callable[[int], Path]:
    """The undisturbed training of so many processes."""

    @cache
    def train(world: int) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        assert together.train(Job(str(folder), world=world, save_every=0))["codes"] == [0] * world
        return folder

    return train


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def struck(together: Together, whole: Path, folder: Path, kind: str, rank: int, step: int, world: int) -> float:
    """Seconds until every process was gone, from the start of the training."""
    fault = {"kind": kind, "rank": rank, "step": step, "times": 99}
    pids = together.start(Job(str(folder), world=world, save_every=0, fault=fault))
    ended = together.wait()
    assert not any(map(alive, pids))
    assert ended["first"] == rank
    assert all(ended["codes"])
    reason = ended["reason"] or said(folder)[-1].removeprefix("regard: ")
    assert reason.startswith(f"rank {rank}: ")
    assert STOPPING[kind] in reason
    assert len(said(folder)) <= 1
    assert progress(folder)["step"] == step  # the state before the step in which it happened
    assert States(folder).last.is_dir()
    assert together.train(Job(str(folder), world=world, save_every=0, resume=True))["codes"] == [0] * world
    assert farthest(final_state(folder), final_state(whole)) == 0
    return ended["seconds"]


@pytest.mark.parametrize(("kind", "rank"), [("file", 1), ("kill", 0)])
def test_one_process_ends_all(together, whole, tmp_path, kind: str, rank: int):
    seconds = struck(together, whole(2), tmp_path, kind, rank, 3, 2)
    assert seconds < 30
    record(22, f"{kind} in rank {rank} of 2", 1, f"all gone {seconds:.0f} s after the start; reason and rank last")


def test_a_slow_process_is_waited_for(together, whole, tmp_path):
    fault = {"kind": "slow", "rank": 1, "step": 3}
    assert together.train(Job(str(tmp_path), save_every=0, fault=fault))["codes"] == [0, 0]
    assert farthest(final_state(tmp_path), final_state(whole(2))) == 0
    record(22, "slow rank", 1, "waited for, same weights")


@pytest.mark.long
def test_twenty_ways(together, whole, tmp_path):
    cases = [(kind, rank, step, 2) for kind in STOPPING for rank in (0, 1) for step in (1, 6)]
    cases += [("file", 3, 4, 4), ("kill", 2, 4, 4), ("stop", 1, 4, 4)]
    slowest = 0.0
    for number, (kind, rank, step, world) in enumerate(cases):
        slowest = max(slowest, struck(together, whole(world), tmp_path / str(number), kind, rank, step, world))
    assert slowest < 30
    outcome = f"{len(cases)} of {len(cases)} ended whole in at most {slowest:.0f} s, reason and rank last, and resumed"
    record(22, "raise, bad file, SIGKILL, SIGSTOP, out of memory on one of 2 or 4 ranks", len(cases), outcome)


TRAIN = """
import os, signal, sys
from regard.cli.main import main
from regard.errors import RegardError
from regard.training.trainee import Trainee

kind, rank, step, *words = sys.argv[1:]
real, calls = Trainee.loss, 0

def loss(self, module, batch):
    global calls
    calls += 1
    if os.environ["RANK"] == rank and calls == int(step):
        if kind == "file":
            raise RegardError("photos/cat.jpg: truncated; leave it out")
        if kind == "parent":
            os.kill(os.getppid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    return real(self, module, batch)

Trainee.loss = loss
sys.exit(main(words))
"""


def torchrun(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("file", "rank 1: photos/cat.jpg: truncated; leave it out"),
        ("kill", "Signal 9 (SIGKILL) received by PID"),
        ("stop", "rank 1: stood still for 10 s"),
        ("parent", "got signal: 15"),
    ],
)
def test_by_torchrun_and_the_command_line(tmp_path, kind: str, reason: str):
    """The reason is the last thing that torchrun's report says, and `--resume` goes on."""
    script, out = tmp_path / "faulty.py", tmp_path / "run"
    script.write_text(TRAIN)
    words = ["train", "digits", "--model", "vit_nano_patch4_32", "--method", "scratch", "--img-size", "16"]
    words += ["--images-seen", "1280", "--batch-size", "64", "--evaluations", "2", "--precision", "fp32"]
    began = time.monotonic()
    done = torchrun(script, kind, "1", "5", *words, "--out", str(out))
    seconds = time.monotonic() - began
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.strip("= ")]
    assert reason in lines[-1]
    if kind != "parent":
        root = done.stderr.partition("Root Cause")[2]
        assert "rank      : 1 " in root
    assert torchrun(script, "none", "9", "0", *words, "--out", str(out), "--resume").returncode == 0
    assert (out / "result.json").is_file()
    record(22, f"regard train by torchrun, {kind} on rank 1", 1, f"ended after {seconds:.0f} s in all, and resumed")
