"""What a person sees while a verb works: a bar on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any

PLAIN_EVERY_SECONDS = 10.0
HEADLINES = {"top1": "top1 {:.1%}", "map": "mAP {:.1%}", "mae": "MAE {:,.4g}"}  # of one class, several labels, numbers


class Display:
    """Turns the events of a verb into output on stderr (stdout is kept for results; JSON lines go to stdout).

    An event is a dict with "event": "note" and "warning" (have "text"), "progress" (has "title", "done", "total"),
    "step" and "evaluation" of a training (docs/architecture.md, Events). Use as a context manager.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.on_terminal = sys.stderr.isatty() and not as_json
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._last_plain = 0.0
        self._headline: dict[str, float] = {}  # of the last evaluation

    def __enter__(self) -> Display:
        if self.on_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=_stderr_console(),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if self.as_json:
            print(json.dumps(event, default=str), flush=True)
            return
        kind = event["event"]
        if kind in ("note", "warning"):
            self._note(event["text"])
        elif kind == "progress":
            self._progress(event, event["done"] >= event["total"])
        elif kind in ("step", "evaluation"):
            # The last step is followed by the evaluation that says what came of it.
            headline = {name: event[f"val/{name}"] for name in HEADLINES if f"val/{name}" in event}
            self._headline = headline or self._headline
            shown = {**event, **self._headline, "title": "training", "done": event["step"], "total": event["steps"]}
            self._progress(shown, kind == "evaluation" and event["step"] >= event["steps"])

    def _note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _progress(self, event: dict[str, Any], finished: bool) -> None:
        numbers = numbers_of(event)
        if self._bar is not None:
            title = event["title"]
            if title not in self._tasks:
                self._tasks[title] = self._bar.add_task(title, total=event["total"], numbers="")
            self._bar.update(self._tasks[title], completed=event["done"], total=event["total"], numbers=numbers)
            if finished:
                self._bar.remove_task(self._tasks.pop(title))
        elif finished or time.monotonic() - self._last_plain >= PLAIN_EVERY_SECONDS:
            self._last_plain = time.monotonic()
            self._note(f"{event['title']}: {event['done']:.0f}/{event['total']:.0f} {numbers}".rstrip())
        if finished:
            self._headline = {}


def numbers_of(event: dict[str, Any]) -> str:
    """`loss 0.412  top1 91.4%  310 images/s  2 min left` from the numbers that an event carries; mAP or MAE alike."""
    shown = []
    if event.get("loss") is not None:
        shown.append(f"loss {event['loss']:.3f}")
    shown += [text.format(event[name]) for name, text in HEADLINES.items() if event.get(name) is not None]
    if event.get("images_per_second"):
        shown.append(f"{event['images_per_second']:.0f} images/s")
    if event.get("seconds_left") is not None:
        shown.append(f"{duration(event['seconds_left'])} left")
    return "  ".join(shown)


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `1 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _stderr_console() -> Any:
    from rich.console import Console

    return Console(stderr=True)
