"""How the result of each verb looks in a terminal, or as one JSON line."""

from __future__ import annotations

import dataclasses
import json
import math
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
    """1 where `check` found what would spoil a result, `reproduce` came to another one, or a model failed; else 0."""
    from regard.verbs.battery import Verification

    if isinstance(result, Verification):
        return int(result.failed)
    return int((verb == "check" and result.spoils) or (verb == "reproduce" and result.outcome == "different"))


def plain(value: Any) -> Any:
    """Records, arrays and paths as what JSON knows; a number that is not finite has no place there and becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())  # type: ignore[attr-defined]  # a NamedTuple
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    return str(value) if isinstance(value, Path) else value


def check_lines(report: Any) -> list[str]:
    """The table of counts, the findings, what the test set can decide."""
    from regard.verbs.check import describe

    return describe(report)


def train_lines(run: Any) -> list[str]:
    """The headline figure on validation and test images, and where the run lies."""
    if run.config.get("task") == "segment":
        from regard.verbs.train_masks import describe

        return describe(run)
    from regard.evaluation.calibration import has_label

    result = run.result()
    lines = []
    for name, predictions in (("validation", result.val), ("test", result.test)):
        images = int(has_label(predictions).sum())
        if images:
            figures = headline_words(predictions, result.temperature)
            lines.append(f"{name} {figures} ({images:,} images)")
    return [
        *lines,
        f"{result.model}, {result.method}, {result.train_images:,} training images, "
        f"{result.cost.train_seconds or 0:.0f} s",
        f"run folder: {run.folder}",
        *([f"report: {run.folder / 'report.html'}"] if (run.folder / "report.html").is_file() else []),
    ]


def headline_words(predictions: Any, temperature: float) -> str:
    """`top1 91.4%`, `mAP 71.2%`, `MAE 3.21, R² 0.714` or `mean IoU 71.0%, MAE 0.043`: what the labels allow to say."""
    from regard.evaluation.problems import values
    from regard.reporting.words import HEADLINE, IOU, decimal

    score, found = HEADLINE[predictions.problem], values(predictions, temperature)
    words = f"{score.noun} {score.text(found[score.key])}"
    if IOU.key in found:
        return f"{IOU.noun} {IOU.text(found[IOU.key])}, {words}"
    return f"{words}, R² {decimal(found['r2'])}" if "r2" in found else words


def evaluate_lines(result: Any) -> list[str]:
    """One line per metric, with its interval where it has one."""
    from regard.reporting.words import decimal, interval, number

    lines = [f"{result.images:,} images ({result.source})"]
    for name, metric in result.metrics.items():
        text = number if name in ("mae", "rmse") else decimal  # in the units of the labels
        bounds = interval(metric.low, metric.high, text)
        lines.append(f"{name:<20} {text(metric.value)}{f'  ({bounds})' if bounds else ''}")
    for column, rows in result.slices.items():
        lines += ["", f"by {column}:"]
        for row in rows:
            text = number if result.problem == "regression" else decimal
            bounds = interval(row.headline.low, row.headline.high, text)
            figure = f"{text(row.headline.value)}{f'  ({bounds})' if bounds else ''}"
            lines.append(f"{row.value or '(empty)':<20} {figure}, {row.images:,} images")
    return lines


def own_lines(result: Any) -> list[str]:
    """Those that a result says itself."""
    return [str(line) for line in result.lines()]


def compare_lines(result: Any) -> list[str]:
    """The answer in one sentence, the table of candidates, and where the report lies."""
    if not hasattr(result, "sentence"):
        return [str(result)]
    from regard.reporting.words import HEADLINE, plural

    scores = {score.key: score for score in HEADLINE.values()}
    width = max(len(row.name) for row in result.rows)
    rows = []
    for row in result.rows:
        score = scores[row.metric]
        beside = f"{plural(row.runs, 'run')}, reference, not tested" if row.reference else plural(row.runs, "run")
        rows.append(f"{row.name:<{width}}  {score.noun} {score.text(row.test):>6}  ({beside})")
    return [result.sentence, "", *rows, "", f"report: {result.report}"]


def distil_lines(result: Any) -> list[str]:
    """The same, and where the distilled student lies."""
    lines = compare_lines(result)
    return [*lines, f"student: {result.student}"] if hasattr(result, "student") else lines


def reproduce_lines(result: Any) -> list[str]:
    """The outcome, by which rule, and what differs."""
    weights = "weights equal" if result.equal_weights else "weights differ"
    return [
        f"{result.outcome}: test {result.metric} {result.before:.4f} then, {result.after:.4f} now; {weights}",
        result.rule,
        *result.differences,
        f"run folder: {result.out}",
    ]


LINES: dict[str, Callable[[Any], list[str]]] = {
    "check": check_lines,
    "train": train_lines,
    "evaluate": evaluate_lines,
    "predict": own_lines,
    "embed": own_lines,
    "explain": own_lines,
    "figures": own_lines,
    "look": own_lines,
    "segment": own_lines,
    "models": own_lines,
    "compare": compare_lines,
    "distil": distil_lines,
    "export": own_lines,
    "reproduce": reproduce_lines,
}
