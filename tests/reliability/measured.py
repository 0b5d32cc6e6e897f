"""Peak memory of this process from a moment on. `ru_maxrss` will not do: a process inherits it from its parent."""

from __future__ import annotations

import resource
import sys


def start() -> None:
    """Forget the peak so far (Linux: proc(5), clear_refs)."""
    if sys.platform == "linux":
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")


def peak() -> int:
    """Bytes: the largest resident set since `start`; elsewhere than on Linux since ever."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/status", encoding="ascii") as file:
        return 1024 * int(next(line for line in file if line.startswith("VmHWM:")).split()[1])
