"""`regard segment` in processes that are killed on the way: torch is imported once, and every line of input is a
process of its own.

Input: JSON of {"at": number of the rename before which it dies, from 1; 0: it lives, "asked": the arguments}. Output:
the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import skimage.measure  # noqa: F401  # what the verb imports late is imported here, once for all processes
import torch

import regard.segmentation.everything
import regard.segmentation.following
import regard.segmentation.formats.overlay
import regard.segmentation.loading
import regard.segmentation.naming
import regard.segmentation.text_prompts
import regard.verbs.segmenting.explained  # noqa: F401
from regard.verbs.segment import segment


def run(at: int, asked: dict[str, Any]) -> None:
    """One call of `segment`."""
    replace, count = os.replace, 0

    def last_act(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = last_act
    segment(**asked)


def serve() -> None:
    """Fork a process for each job."""
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # processes are killed here, not the machine
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            run(**job)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
