"""Row 4: resuming is exact to the bit, wherever the run stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from figures import record
from together import Job, Together, farthest, final_state, progress

STEPS = 20
SHORT = [(1, 1, 3), (1, 2, 13), (2, 1, 5)]  # processes, threads, step
LONG = [(world, threads, step) for world in (1, 2) for threads in (1, 2) for step in range(1, STEPS + 1)]


@pytest.fixture(scope="module")
def unbroken(together, tmp_path_factory) -> dict[int, Path]:
    """Runs from start to end, by the number of processes."""
    folders = {}
    for world in (1, 2):
        folders[world] = tmp_path_factory.mktemp("unbroken")
        assert together.train(job(folders[world], world, 1))["codes"] == [0] * world
    return folders


def job(folder: Path, world: int, threads: int, **how) -> Job:
    """A ViT with dropout, stochastic depth, MixUp and CutMix, random crops, erasing, an average, accumulation."""
    return Job(
        str(folder),
        world,
        steps=STEPS,
        accumulation=2,
        dropout=0.1,
        evaluate_every=6,
        save_every=0,
        threads=threads,
        **how,
    )


def rows(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same(together: Together, unbroken: Path, folder: Path, world: int, threads: int, step: int) -> None:
    fault = {"kind": "kill", "rank": world - 1, "step": step} if step < STEPS else {}
    broken = together.train(job(folder, world, threads, fault=fault))
    assert any(broken["codes"]) == bool(fault)
    if fault:  # killed in the step after the one whose state was saved last
        assert progress(folder)["step"] == step
    assert together.train(job(folder, world, threads, resume=True))["codes"] == [0] * world
    assert farthest(final_state(folder), final_state(unbroken)) == 0
    assert progress(folder) == progress(unbroken)
    assert rows(folder) == rows(unbroken)


@pytest.mark.parametrize(("world", "threads", "step"), SHORT)
def test_stopped_and_resumed(together, unbroken, tmp_path, world: int, threads: int, step: int):
    assert_same(together, unbroken[world], tmp_path, world, threads, step)
    record(4, f"stopped after step {step}, processes: {world}, threads: {threads}", 1, "equal to the bit")


@pytest.mark.long
def test_stopped_at_every_step(together, unbroken, tmp_path):
    for number, (world, threads, step) in enumerate(LONG):
        assert_same(together, unbroken[world], tmp_path / str(number), world, threads, step)
    outcome = f"{len(LONG)} of {len(LONG)} equal to the bit: weights, moments, average, counters, metrics"
    record(4, "stopped after each of 20 steps, 1 and 2 processes, 1 and 2 threads", len(LONG), outcome)
