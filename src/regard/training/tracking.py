"""Trackers: what a training says, passed on to a tool that draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regard.errors import RegardError


@contextmanager
def tensorboard(folder: str | Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A listener for events that writes their numbers to `folder`: `tensorboard --logdir FOLDER` draws them.

    Steps give loss, lr and images_per_second; evaluations every number of their row. What a resumed run says again
    hides what the interrupted one said of the same steps. RegardError where tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RegardError('--track tensorboard: not installed; run pip install "regard[track]"') from None

    writer: Any = None

    def listen(event: dict[str, Any]) -> None:
        nonlocal writer
        names = NAMES.get(event["event"])
        if names is None:
            return
        if writer is None:
            writer = SummaryWriter(str(folder), purge_step=event["step"])
        for name in names or event:
            value = event.get(name)
            if isinstance(value, int | float) and name not in ("step", "steps"):
                title = name if "/" in name else f"train/{name}"
                writer.add_scalar(title, value, event["step"])

    try:
        yield listen
    finally:
        if writer is not None:
            writer.close()


NAMES: dict[str, tuple[str, ...]] = {"step": ("loss", "lr", "images_per_second"), "evaluation": ()}
