"""How the result of each verb looks in a terminal, or as one JSON line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def show(verb: str, result: Any, as_json: bool) -> None:
    """Print what a verb returned: words for people, one JSON line for machines."""
    if as_json:
        print(json.dumps({"event": "result", "verb": verb, "result": plain(result)}))
        return
    for line in LINES[verb](result):
        print(line)


def exit_code(verb: str, result: Any) -> int:
    """1 where `check` found what would spoil a result, else 0."""
    return int(verb == "check" and result.spoils)


def plain(value: Any) -> Any:
    """Records, arrays and paths as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())  # type: ignore[attr-defined]  # a NamedTuple
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def check_lines(report: Any) -> list[str]:
    """The table of counts, the findings, what the test set can decide."""
    from regard.verbs.check import describe

    return describe(report)


def train_lines(run: Any) -> list[str]:
    """Test and validation accuracy, and where the run lies."""
    result = run.result()
    lines = []
    for name, predictions in (("validation", result.val), ("test", result.test)):
        if len(predictions):
            lines.append(f"{name} top1 {100 * predictions.correct.mean():.1f}% of {len(predictions):,} images")
    return [
        *lines,
        f"{result.model}, {result.method}, {result.train_images:,} training images, "
        f"{result.cost.train_seconds or 0:.0f} s",
        f"run folder: {run.folder}",
        *([f"report: {run.folder / 'report.html'}"] if (run.folder / "report.html").is_file() else []),
    ]


def evaluate_lines(result: Any) -> list[str]:
    """One line per metric, with its interval where it has one."""
    lines = [f"{result.images:,} images ({result.source})"]
    for name, metric in result.metrics.items():
        interval = "" if metric.low is None else f"  ({metric.low:.3f} to {metric.high:.3f})"
        lines.append(f"{name:<20} {metric.value:.3f}{interval}")
    return lines


def predict_lines(result: Any) -> list[str]:
    """Rows on the screen, or how many went to a file."""
    return [str(line) for line in result.lines()]


def embed_lines(result: Any) -> list[str]:
    """How many vectors went where."""
    return [str(line) for line in result.lines()]


def compare_lines(result: Any) -> list[str]:
    """The answer in one sentence, the table of candidates, and where the report lies."""
    if not hasattr(result, "sentence"):
        return [str(result)]
    width = max(len(row.name) for row in result.rows)
    return [
        result.sentence,
        "",
        *(f"{row.name:<{width}}  top1 {100 * row.top1:5.1f}%  ({row.seeds} seeds)" for row in result.rows),
        "",
        f"report: {result.report}",
    ]


LINES: dict[str, Callable[[Any], list[str]]] = {
    "check": check_lines,
    "train": train_lines,
    "evaluate": evaluate_lines,
    "predict": predict_lines,
    "embed": embed_lines,
    "compare": compare_lines,
}
