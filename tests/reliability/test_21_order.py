"""Row 21: order and augmentation do not depend on processes or threads, nor on changing them when resuming."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest
from figures import record
from together import Job, Together, farthest, final_state, seen, stream_of

WORLDS, THREADS, SIZES = (1, 2, 4), (1, 2, 4), (8, 12, 16)
STEPS = 6


def streamed(world: int, threads: int, batch_size: int) -> list[list[tuple[int, str]]]:
    """Per step, in the order of the rows: (row, digest of its augmented and mixed pixels and of its target)."""
    steps: list[list[tuple[int, str]]] = [[] for _ in range(STEPS)]
    for rank in range(world):
        stream = stream_of(Job("", batch_size=batch_size, threads=threads)).from_step(0, rank, world)
        for step, batch in zip(steps, stream, strict=False):
            for row, image, target in zip(batch.rows.tolist(), batch.images, batch.targets, strict=True):
                step.append((row, hashlib.md5(image.numpy().tobytes() + target.numpy().tobytes()).hexdigest()))
    return [sorted(step) for step in steps]


def combinations(cases: list[tuple[int, int, int]]) -> int:
    expected = {size: streamed(1, 1, size) for size in {size for *_, size in cases}}
    for world, threads, size in cases:
        found = streamed(world, threads, size)
        assert found == expected[size], (world, threads, size)
        assert [len(step) for step in found] == [size] * STEPS
    return len(cases)


def test_processes_and_threads():
    count = combinations([(2, 1, 8), (4, 2, 8), (4, 4, 16)])
    record(21, "order and augmentation by processes and threads", count, f"{count} of {count} equal")


@pytest.mark.long
def test_27_combinations():
    count = combinations(list(itertools.product(WORLDS, THREADS, SIZES)))
    assert count == 27
    record(21, "order and augmentation by processes and threads", count, f"{count} of {count} equal")


def fewer_and_fewer(together: Together, folder: Path, worlds: tuple[int, ...]) -> float:
    """Stop after some steps and go on with fewer processes; how far the weights are from those of one process."""
    whole, broken = folder / "whole", folder / "broken"
    steps = 4 * len(worlds)
    assert together.train(Job(str(whole), world=1, accumulation=worlds[0], steps=steps))["codes"] == [0]
    for number, world in enumerate(worlds):
        last = number == len(worlds) - 1
        fault = {} if last else {"kind": "signal", "rank": 0, "step": 4 * number + 3}
        job = Job(str(broken), world=world, steps=steps, resume=number > 0, fault=fault)
        assert together.train(job)["codes"] == [0 if last else 143] * world
    assert seen(broken) == seen(whole)
    return farthest(final_state(broken), final_state(whole))


def test_resumed_with_fewer_processes(together, tmp_path):
    apart = fewer_and_fewer(together, tmp_path, (2, 1))
    assert apart <= 1e-5
    record(21, "resumed with 2, then 1 process", 1, f"no image missing or twice, weights within {apart:.0e}")


@pytest.mark.long
def test_resumed_with_4_2_1_processes(together, tmp_path):
    apart = fewer_and_fewer(together, tmp_path, (4, 2, 1))
    assert apart <= 1e-5
    record(21, "resumed with 4, then 2, then 1 process", 1, f"no image missing or twice, weights within {apart:.0e}")
