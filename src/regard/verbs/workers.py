"""Further processes that answer the photos of a folder of parts: each gives the same call once more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from typing import IO, Any

from regard.errors import RegardError

CODE = "from regard.verbs.workers import join; join()"


class Workers:
    """`count` processes that give the same call of `predict`. Use as a context manager: they end with it, and
    with the process that started them, however it ends.

    problems: afterwards, one line for each that stopped before the work was done.
    """

    def __init__(self, count: int, call: dict[str, Any]):
        self.count, self.call = count, call
        self.problems: list[str] = []
        self._stack = ExitStack()
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Workers:
        # Processes with as many threads as cores take turns: who waits must not keep a core busy.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        for _ in range(self.count):
            said = self._stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                [sys.executable, "-c", CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(self.call).encode() + b"\n")
            process.stdin.flush()  # and stays open: its end tells the worker to go
            self._running.append((process, said))
        return self

    def __exit__(self, *of_the_exception: object) -> None:
        for process, said in self._running:
            if process.poll():
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                self.problems.append(lines[-1] if lines else f"exit code {process.returncode}")
        for process, _ in self._running:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        self._stack.close()


def join() -> None:
    """Run the call that stands on standard input, until it is done or the input ends."""
    call = json.loads(sys.stdin.readline())
    threading.Thread(target=_go_with_the_input, daemon=True).start()
    from regard.verbs.predict import predict

    try:
        predict(**call)
    except RegardError as error:
        sys.exit(str(error))


def _go_with_the_input() -> None:
    sys.stdin.read()
    os._exit(0)  # at any moment: what is half written is written again
