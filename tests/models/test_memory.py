from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regard.errors import RegardError
from regard.models import memory
from regard.models.memory import free_memory, refuse_too_large

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 4,000 kB left and no container."""
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:  4000 kB\n")
    return tmp_path


def test_free_is_what_the_machine_has_left(machine: Path) -> None:
    assert free_memory(CPU) == 4000 * 1024


def test_a_container_without_a_limit_changes_nothing(machine: Path) -> None:
    (machine / "memory.max").write_text("max\n")
    (machine / "memory.stat").write_text("anon 5\nfile 7\n")
    assert free_memory(CPU) == 4000 * 1024


@pytest.mark.parametrize(("limit", "free"), [(10**6, 10**6 - 300_000), (10**9, 4000 * 1024)])
def test_a_containers_limit_counts_where_it_is_less(machine: Path, limit: int, free: int) -> None:
    (machine / "memory.max").write_text(f"{limit}\n")
    (machine / "memory.stat").write_text("file 900000\nanon 300000\n")
    assert free_memory(CPU) == free


def test_unknown_where_nothing_tells_it(machine: Path) -> None:
    (machine / "meminfo").unlink()
    assert free_memory(CPU) is None
    assert free_memory(torch.device("meta")) is None
    refuse_too_large(10**18, 1, CPU, "giants", "wait")


def test_this_machine_has_some_left() -> None:
    free = free_memory(CPU)
    assert free is None or free > 2**20


def test_one_that_does_not_fit_is_refused_and_too_many_are_for_the_caller_to_halve(machine: Path) -> None:
    refuse_too_large(1_000_000, 4, CPU, "patterns", "use fewer")
    with pytest.raises(MemoryError, match=r"out of memory: patterns need 0\.00 GB .*too little for 5 at a time"):
        refuse_too_large(1_000_000, 5, CPU, "patterns", "use fewer")
    with pytest.raises(RegardError, match=r"out of memory: patterns need 5\.00 GB an image .* are free; use fewer$"):
        refuse_too_large(5_000_000_000, 1, CPU, "patterns", "use fewer")
