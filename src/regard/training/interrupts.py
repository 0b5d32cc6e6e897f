"""SIGTERM and SIGINT: finish the step, save, leave with 143 or 130; a second signal leaves at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """A signal ended the work. `code` is 128 plus the signal's number (143 SIGTERM, 130 SIGINT), Python's
    exit status.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}; continue with --resume"


class Interrupts:
    """While open, a signal raises `Stopped`: at once, or inside `held()` only when `check()` is asked. What is open
    may be opened again.

    The second signal has its default action, which ends the process at once; whatever is on disk is whole all
    the same. One that follows within `echo` seconds is the first once more: torchrun passes on what a
    scheduler has sent to everyone already. Signals reach the main thread only: elsewhere nothing is installed.
    """

    def __init__(self, echo: float = 0.0) -> None:
        self.echo = echo
        self.pending: int | None = None
        self._received = 0.0
        self._held = False
        self._depth = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # pyright: ignore[reportArgumentType]  (what signal.signal gave us)
        self._before.clear()

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            if time.monotonic() - self._received < self.echo:
                return
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.pending, self._received = signum, time.monotonic()
        if not self.echo:  # by the kernel, so that it acts inside a long call too
            for caught in self._before:
                signal.signal(caught, signal.SIG_DFL)
        if not self._held:
            raise Stopped(signum)

    def check(self) -> None:
        """Raise `Stopped` if a signal has come."""
        if self.pending is not None:
            raise Stopped(self.pending)

    @contextmanager
    def held(self, hold: bool = True) -> Iterator[None]:
        """Signals wait for `check()`; with `hold=False`, inside a held stretch, they interrupt again (and at
        once).
        """
        before, self._held = self._held, hold
        try:
            if not hold:
                self.check()
            yield
        finally:
            self._held = before
