"""Damaged states, full disks and signals; random instants are those of reliability rows 3 and 7."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import interrupted
import pytest
from interrupted import check, rows

from regard.errors import RegardError
from regard.training.interrupts import Interrupts, Stopped


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    server.train(folder / "warm", resume=False)
    began = time.perf_counter()
    assert server.train(folder / "run", resume=False) == 0
    return folder / "run", time.perf_counter() - began


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def remove(path: Path) -> None:
    path.unlink()


class Enough(Exception):
    """Ends a training between two steps."""


@pytest.fixture
def half_way(tmp_path, monkeypatch) -> Path:
    """A run that ended at step 40 with two generations."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    interrupted.torch.set_num_threads(1)
    (tmp_path / "run").mkdir()

    def listen(event: dict) -> None:
        if event["event"] == "step" and event["step"] == 40:
            raise Enough

    with pytest.raises(Enough):
        interrupted.train(tmp_path / "run", False, listen)
    assert (tmp_path / "run" / "last.previous").is_dir()
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, cut, remove])
def test_a_damaged_newest_state_is_named_and_the_one_before_used(
    half_way, undisturbed, name, damage: Callable[[Path], None]
):
    damage(half_way / "last" / name)
    events: list[dict] = []
    interrupted.train(half_way, True, events.append)
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert len(warnings) == 1
    assert "last/" in warnings[0]
    assert ("manifest" if name == "manifest.json" else name) in warnings[0] or "manifest.json: " in warnings[0]
    assert "continuing from last.previous (step " in warnings[0]
    check(half_way, undisturbed)


def test_two_damaged_states_are_an_error(half_way):
    for generation in ("last", "last.previous"):
        flip_a_bit(half_way / generation / "tensors.safetensors")
    with pytest.raises(RegardError, match=r"last/tensors.*last\.previous/tensors.*--overwrite"):
        interrupted.train(half_way, True)


def test_a_state_of_another_model_is_an_error(half_way, monkeypatch):
    monkeypatch.setattr(interrupted, "make", lambda: interrupted.nn.Sequential(interrupted.nn.Linear(2, 2)))
    with pytest.raises(RegardError, match="another model or recipe"):
        interrupted.train(half_way, True)


def test_the_only_state_between_two_renames(half_way, undisturbed):
    """Killed after `last` became `last.previous` and before the new one took its name."""
    os.rename(half_way / "last.previous", half_way / ".last.previous.tmp-01234567")
    os.rename(half_way / "last", half_way / "last.previous")
    interrupted.train(half_way, True)
    check(half_way, undisturbed)


@pytest.mark.parametrize("room", [0, 100, 5_000, 10_000])
def test_a_full_disk_keeps_the_state_before(half_way, undisturbed, room: int):
    """The kernel refuses a file above `room` bytes: one line, the older state whole, and the run goes on
    later.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(RegardError, match=r"cannot be written \(.*--resume"):
            interrupted.train(half_way, True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    interrupted.train(half_way, True)
    check(half_way, undisturbed)


def test_a_signal_during_an_evaluation_saves_and_repeats_it(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    real, calls = interrupted.evaluator, []

    def evaluator(model):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(model)

    monkeypatch.setattr(interrupted, "evaluator", evaluator)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM") as stop:
        interrupted.train(tmp_path, False)
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert [row["step"] for row in rows(tmp_path)] == [7, 14]
    document = json.loads((tmp_path / "last" / "state.json").read_text())
    assert (document["progress"]["step"], document["progress"]["evaluated"]) == (21, 14)
    interrupted.train(tmp_path, True)
    check(tmp_path, undisturbed)


def test_the_exit_code_of_a_process():
    code = "import os, signal; from regard.training.interrupts import Interrupts\n"
    code += "with Interrupts(), open(os.devnull): os.kill(os.getpid(), signal.SIG{}); import time; time.sleep(5)"
    for name, expected in (("TERM", 143), ("INT", 130)):
        assert subprocess.run([sys.executable, "-c", code.format(name)], check=False).returncode == expected


def test_a_second_signal_ends_at_once():
    code = (
        "import os, signal, time; from regard.training.interrupts import Interrupts\n"
        "with Interrupts() as i, i.held():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.1); assert i.pending\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGTERM


def test_handlers_are_given_back_after_the_last_exit():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        with interrupts:
            pass
        assert signal.getsignal(signal.SIGTERM) != before
        with pytest.raises(Stopped, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_same_signal_again_within_the_echo_counts_once():
    with Interrupts(echo=60.0) as interrupts, interrupts.held():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            interrupts.check()
