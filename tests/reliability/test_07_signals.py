"""Row 7: SIGTERM and SIGINT, at any instant, save and end the run; what is resumed ends as the undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import interrupted
import pytest
from figures import record
from together import Job, Together, farthest, final_state

BOTH = (signal.SIGTERM, signal.SIGINT)
CLEAN = {143, 130, 0}
# Before the handlers stand, in the first milliseconds, a signal has its default action and there is nothing to save.
TOO_EARLY = {-signal.SIGTERM, -signal.SIGINT, interrupted.NOTHING_TO_SAVE}
WHAT = "SIGTERM or SIGINT at random instants of start-up, steps, evaluations and saves"


def signalled(server, tmp_path: Path, instants: int) -> tuple[int, float]:
    """(signals that came before the end, longest time to the exit in seconds)."""
    rng = random.Random(7 * instants)
    server.train(tmp_path / "warm", resume=False)
    began = time.perf_counter()
    assert server.train(tmp_path / "whole", resume=False) == 0
    seconds = time.perf_counter() - began
    whole = (tmp_path / "whole", seconds)
    hits, slowest, number = 0, 0.0, 0
    folder = tmp_path / "0"
    while hits < instants:
        pid = server.start(folder, resume=folder.exists())
        time.sleep(rng.uniform(0, 0.6 * seconds))
        sent = time.perf_counter()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, rng.choice(BOTH))
        code = server.wait()
        assert code in CLEAN | TOO_EARLY
        if code:
            hits += 1
            slowest = max(slowest, time.perf_counter() - sent)
        if code == 0 or hits == instants:
            assert server.train(folder) == 0
            interrupted.check(folder, whole)
            number += 1
            folder = tmp_path / str(number)
    return hits, slowest


def signalled_together(together: Together, tmp_path: Path, instants: int, steps: int) -> float:
    """Two processes, of which one or both get the signal."""
    rng = random.Random(instants)
    assert together.train(Job(str(tmp_path / "whole"), steps=steps, evaluate_every=5))["codes"] == [0, 0]
    slowest = 0.0
    for number in range(instants):
        folder, signum = tmp_path / str(number), rng.choice(BOTH)
        fault = {"kind": "signal", "rank": rng.choice((0, 1, None)), "step": rng.randrange(steps), "number": signum}
        ended = together.train(Job(str(folder), steps=steps, evaluate_every=5, fault=fault))
        assert ended["codes"] == [128 + signum] * 2
        slowest = max(slowest, ended["seconds"])
        assert together.train(Job(str(folder), steps=steps, evaluate_every=5, resume=True))["codes"] == [0, 0]
        assert farthest(final_state(folder), final_state(tmp_path / "whole")) == 0
    return slowest


def test_signals_at_random_instants(server, tmp_path):
    hits, slowest = signalled(server, tmp_path, 10)
    assert slowest < 25
    record(7, WHAT, hits, f"{hits} of {hits} left in at most {slowest:.1f} s and resumed exactly")


def test_signals_to_processes_together(together, tmp_path):
    signalled_together(together, tmp_path, 1, 10)
    record(7, "a signal to one or both of two processes", 1, "1 of 1 stopped at one step and resumed exactly")


@pytest.mark.long
def test_signals_at_90_random_instants(server, tmp_path):
    hits, slowest = signalled(server, tmp_path, 90)
    assert slowest < 25
    record(7, WHAT, hits, f"{hits} of {hits} left in at most {slowest:.1f} s and resumed exactly")


@pytest.mark.long
def test_signals_to_processes_together_10_times(together, tmp_path):
    signalled_together(together, tmp_path, 10, 40)
    record(7, "a signal to one or both of two processes", 10, "10 of 10 stopped at one step and resumed exactly")
