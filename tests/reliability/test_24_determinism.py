"""Row 24: the same command twice gives the same bits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from figures import record
from together import Job, Together


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def twice(together: Together, tmp_path: Path, jobs: list[dict]) -> int:
    for number, job in enumerate(jobs):
        hashes = set()
        for turn in range(2):
            folder = tmp_path / f"{number}-{turn}"
            assert not any(together.train(Job(str(folder), **job))["codes"])
            hashes.add(sha256(folder))
        assert len(hashes) == 1, job
    return len(jobs)


def test_twice(together, tmp_path):
    count = twice(together, tmp_path, [{"world": 1, "model": "resnet", "steps": 5, "dropout": 0.0}])
    record(24, "a training of 5 steps, twice", count, "equal SHA-256 of the weights")


@pytest.mark.long
def test_three_models_for_100_steps(together, tmp_path):
    jobs = [
        {"world": 1, "steps": 100, "dropout": 0.1},
        {"world": 1, "steps": 100, "model": "resnet"},
        {"world": 2, "steps": 100, "dropout": 0.1},
    ]
    count = twice(together, tmp_path, jobs)
    record(
        24, "trainings of 100 steps, twice: ViT, ResNet, ViT by 2 processes", count, f"{count} of {count} equal SHA-256"
    )
