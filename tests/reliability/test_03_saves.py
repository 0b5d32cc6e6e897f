"""Row 3: a save is all or nothing, whenever the process dies or the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import interrupted
import pytest
import torch
from figures import record

from regard.errors import RegardError
from regard.training import state
from regard.training.state import States


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    server.train(folder / "warm", resume=False)
    began = time.perf_counter()
    assert server.train(folder / "run", resume=False) == 0
    return folder / "run", time.perf_counter() - began


def killed_at_random_instants(server, undisturbed, tmp_path: Path, instants: int) -> int:
    """Kills that hit; after each the run is resumed, and whenever one has come to its end it is compared."""
    rng = random.Random(instants)
    number = hits = 0
    folder = tmp_path / "0"
    while hits < instants:
        pid = server.start(folder, resume=folder.exists())
        time.sleep(rng.uniform(0, 0.5 * undisturbed[1]))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        code = server.wait()
        assert code in (0, -signal.SIGKILL)
        hits += code != 0
        if code == 0 or hits == instants:
            assert server.train(folder) == 0
            interrupted.check(folder, undisturbed)
            number += 1
            folder = tmp_path / str(number)
    return hits


def test_killed_at_random_instants(server, undisturbed, tmp_path):
    hits = killed_at_random_instants(server, undisturbed, tmp_path, 20)
    record(3, "SIGKILL at random instants of a training that saves all the time", hits, f"{hits} of {hits} resumed")


@pytest.mark.long
def test_killed_at_200_random_instants(server, undisturbed, tmp_path):
    hits = killed_at_random_instants(server, undisturbed, tmp_path, 200)
    record(3, "SIGKILL at random instants of a training that saves all the time", hits, f"{hits} of {hits} resumed")


@pytest.fixture
def half_way(tmp_path, monkeypatch) -> tuple[States, Any, torch.optim.Optimizer]:
    """A folder with a whole state of step 1, and what could be saved next."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    model = interrupted.make()
    optimiser = interrupted.make_optimiser("adamw", interrupted.parameter_groups(model, 1e-3, 0.05), 1e-3)
    interrupted.loss(model, next(interrupted.batches(0))).backward()
    optimiser.step()
    states = States(tmp_path)
    states.save(state.Progress(step=1), model, optimiser, None, None)
    return states, model, optimiser


def assert_first_state(states: States, model: Any, optimiser: torch.optim.Optimizer) -> None:
    assert not [name for name in os.listdir(states.folder) if name.startswith(".")]
    progress, _, notes = states.restore(model, optimiser, None)
    assert (progress.step, notes) == (1, ())


def full_disk(half_way, offsets: int) -> int:
    """Saves while the kernel refuses what goes beyond an offset of a file (as a full disk does)."""
    states, model, optimiser = half_way
    size = (states.last / state.TENSORS).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    refused = 0
    try:
        for number in range(offsets):
            resource.setrlimit(resource.RLIMIT_FSIZE, (number * size // offsets, hard))
            with pytest.raises(RegardError, match=r"state of step 2 cannot be written \(.*--resume"):
                states.save(state.Progress(step=2), model, optimiser, None, None)
            refused += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert_first_state(states, model, optimiser)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    return refused


def test_a_full_disk(half_way):
    refused = full_disk(half_way, 5)
    record(3, "full disk at offsets of the file", refused, f"{refused} of {refused} keep the state before")


@pytest.mark.long
def test_a_full_disk_at_50_offsets(half_way):
    refused = full_disk(half_way, 50)
    record(3, "full disk at offsets of the file", refused, f"{refused} of {refused} keep the state before")


def test_a_disk_that_fails(half_way, monkeypatch):
    """EIO from each call of a save that reaches the disk, one after the other."""
    states, model, optimiser = half_way
    calls = ("open", "fsync", "mkdir", "rename")
    failed = 0
    for name in calls:
        real = getattr(os, name)
        for place in range(20):
            seen = 0

            def broken(*arguments: Any, name=name, real=real, place=place, **more: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == place + 1:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(*arguments, **more) if name != "fsync" else None

            with monkeypatch.context() as patch:
                patch.setattr(os, name, broken)
                try:
                    states.save(state.Progress(step=1), model, optimiser, None, None)
                    break  # more places than calls
                except RegardError as error:
                    assert "Input/output error" in str(error)
            failed += 1
            progress, _, _ = states.restore(model, optimiser, None)
            assert progress.step == 1
            assert not [name for name in os.listdir(states.folder) if name.startswith(".")]
    assert failed > len(calls)
    record(3, "input/output error in a call of a save", failed, f"{failed} of {failed} keep a whole state")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(half_way):
    states, model, optimiser = half_way
    states.folder.chmod(0o500)
    try:
        with pytest.raises(RegardError, match="cannot be written"):
            states.save(state.Progress(step=2), model, optimiser, None, None)
    finally:
        states.folder.chmod(0o700)
    assert_first_state(states, model, optimiser)
