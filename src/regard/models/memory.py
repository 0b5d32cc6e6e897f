"""What does not fit into memory is refused before it is computed: Linux lends more than it has, and then kills."""

from __future__ import annotations

from pathlib import Path

import torch

from regard.errors import RegardError

MACHINE = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where that cannot be told (not Linux, the meta device).

    CUDA: what the driver has left, and what torch holds without using it. CPU: what the machine has left, or the
    container (cgroup, version 2) where that is less.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    left = []
    try:
        left.append(1024 * _value(MACHINE, "MemAvailable:"))
        left.append(int((CONTAINER / "memory.max").read_text()) - _value(CONTAINER / "memory.stat", "anon"))
    except (OSError, ValueError):  # no such file; "max" where a container has no limit
        pass
    return min(left, default=None)


def _value(path: Path, name: str) -> int:
    """The number behind a name in a file of lines `name number ...`. Raises ValueError where it is not there."""
    for line in path.read_text().splitlines():
        words = line.split()
        if words[0] == name:
            return int(words[1])
    raise ValueError(name)


def refuse_too_large(each: int, count: int, device: torch.device, what: str, advice: str) -> None:
    """Raises where `count` images that need `each` bytes do not fit into what is free on the device.

    RegardError, one line, where not even one of them fits; MemoryError, which callers that can do with smaller batches
    answer by halving them, where only so many do not. what: what needs the memory; advice: what to do.
    """
    free = free_memory(device)
    if free is None or each * count <= free:
        return
    needs = f"{what} need {_gigabytes(each)} an image and {_gigabytes(free)} are free"
    if each > free:
        raise RegardError(f"out of memory: {needs}; {advice}")
    raise MemoryError(f"out of memory: {needs}, too little for {count} at a time; use a smaller batch")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
