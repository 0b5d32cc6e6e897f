"""Who is told what a verb is doing (docs/architecture.md, Events)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OnEvent = Callable[[dict[str, Any]], None]


def silent(event: dict[str, Any]) -> None:
    """The listener of those who do not listen."""
