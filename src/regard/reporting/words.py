"""Numbers as people read them: shares, points, durations, and the metrics of each problem with their names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from regard.reporting.records import Estimate
from regard.results import Problem

MISSING = "–"


def known(value: float | None) -> TypeGuard[float]:
    """True for a finite number."""
    return value is not None and math.isfinite(value)


def percent(share: float | None) -> str:
    """0.914 -> '91.4%'."""
    return f"{100 * share:.1f}%".replace("-", "−") if known(share) else MISSING


def percent_tick(share: float | None) -> str:
    """0.4 -> '40%', 0.425 -> '42.5%': labels of an axis."""
    return percent(share).replace(".0%", "%")


def points(share: float | None, signed: bool = False) -> str:
    """0.032 -> '3.2' (percentage points); with `signed` '+3.2' or '−3.2'."""
    return _signed(100 * share, 1, signed) if known(share) else MISSING


def deviations(value: float | None, signed: bool = False) -> str:
    """0.0518 -> '0.052' (standard deviations of the labels); with `signed` '+0.052' or '−0.052'."""
    return _signed(value, 3, signed) if known(value) else MISSING


def _signed(value: float, digits: int, signed: bool) -> str:
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"−{text}" if value < 0 else f"+{text}" if signed else text


def decimal(value: float | None, digits: int = 3) -> str:
    """0.2471 -> '0.247'."""
    return f"{value:.{digits}f}".replace("-", "−") if known(value) else MISSING


def decimal_2(value: float | None) -> str:
    """0.2471 -> '0.25'."""
    return decimal(value, 2)


def count(value: float | None) -> str:
    """12345 -> '12,345'."""
    return f"{round(value):,}" if known(value) else MISSING


def number(value: float | None) -> str:
    """Three significant digits or all of the whole part, without a prefix: 34.01 -> '34.0', 1234.5 -> '1,234'."""
    if not known(value):
        return MISSING
    size = abs(value)
    if size and not 1e-4 <= size < 1e9:
        return f"{value:.2e}".replace("-", "−")
    digits = max(0, 2 - math.floor(math.log10(size))) if size else 2
    return f"{value:,.{digits}f}".replace("-", "−")


def tick(value: float | None) -> str:
    """`number` without trailing zeros, for an axis: 0.20 -> '0.2'."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def short(value: float | None, unit: str = "") -> str:
    """Three significant digits with k, M, G, T, P: 21_665_664 -> '21.7 M'."""
    if not known(value):
        return MISSING
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{tick(value / 10**power)} {prefix}{unit}"
    return f"{tick(value)} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    """42.3 -> '42 s', 130 -> '2 min 10 s', 4000 -> '1 h 7 min'."""
    if not known(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def probability(p: float | None) -> str:
    """0.0004 -> '< 0.001'."""
    if not known(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def level(alpha: float) -> str:
    """0.05 -> '95%'."""
    return f"{100 * (1 - alpha):g}%"


def interval(low: float | None, high: float | None, text: Callable[[float | None], str] = percent) -> str:
    """(0.89, 0.93) -> '89.0% to 93.0%'; empty where there is none."""
    return f"{text(low)} to {text(high)}" if known(low) and known(high) else ""


def bounded(measured: Estimate | None, text: Callable[[float | None], str]) -> tuple[str, str]:
    """(value, its interval); the interval is empty where there is none."""
    return (text(measured.value), interval(measured.low, measured.high, text)) if measured else (MISSING, "")


def range_of(values: Sequence[float], text: Callable[[float | None], str]) -> str:
    """One value, or lowest to highest where they differ."""
    low, high = (text(min(values)), text(max(values))) if values else (MISSING, MISSING)
    return low if low == high else f"{low} to {high}"


def times(ratio: float) -> str:
    """1.84 -> '1.8', 12.3 -> '12', 0.42 -> '0.42'."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.95 else f"{ratio:.2f}"


def plural(amount: int, one: str) -> str:
    """(1, 'photo') -> '1 photo', (1200, 'photo') -> '1,200 photos'."""
    return f"{amount:,} {one}" if amount == 1 else f"{amount:,} {one}s"


def clip(text: str, length: int = 80) -> str:
    """One line of at most `length` characters, shortened in the middle.

    Control characters become spaces, undecodable bytes of file names (lone surrogates) the replacement sign.
    """
    line = "".join(c if c.isprintable() else "\ufffd" if "\ud800" <= c <= "\udfff" else " " for c in text)
    if len(line) <= length:
        return line
    tail = (length - 1) // 3
    return f"{line[: length - 1 - tail]}…{line[len(line) - tail :]}"


@dataclass(frozen=True)
class Score:
    """How a metric is called and printed; `noun` inside a sentence."""

    key: str
    title: str
    text: Callable[[float | None], str]
    hint: str = ""
    noun: str = ""
    less_is_better: bool = False

    def better(self, a: float, b: float) -> bool:
        """True where `a` is the better value."""
        return a < b if self.less_is_better else a > b


TOP1 = Score("top1", "Top1", percent, "test photos named correctly", "top1")
MAP = Score("map", "mAP", percent, "average precision, mean over the labels", "mAP")
MAE = Score("mae", "MAE", number, "mean absolute error", "MAE", less_is_better=True)
IOU = Score("iou", "Mean IoU", percent, "intersection over union of the true and the predicted box", "mean IoU")
LESS = "lower is better"

HEADLINE: dict[Problem, Score] = {"single_label": TOP1, "multi_label": MAP, "regression": MAE}
# What the metric table prints, in this order.
TABLED: dict[Problem, tuple[Score, ...]] = {
    "single_label": (
        Score("top1", "Top1", percent),
        Score("top5", "Top5", percent),
        Score("macro_f1", "Macro F1", percent),
        Score("balanced_accuracy", "Balanced accuracy", percent),
        Score("nll", "NLL", decimal, LESS),
        Score("brier", "Brier", decimal, LESS),
        Score("ece", "ECE", decimal, LESS),
    ),
    "multi_label": (
        Score("map", "mAP", percent, "mean over the labels that occur"),
        Score("micro_f1", "Micro F1", percent, "all labels of all photos together"),
        Score("macro_f1", "Macro F1", percent, "mean over the labels"),
        Score("lrap", "LRAP", percent, "label ranking average precision, mean over the photos"),
        Score("nll", "NLL", decimal, "mean over the labels; lower is better"),
        Score("brier", "Brier", decimal, LESS),
        Score("ece", "ECE", decimal, LESS),
    ),
    "regression": (
        Score("iou", "Mean IoU", percent, "intersection over union of the boxes"),
        Score("mae", "MAE", number, "mean absolute error; lower is better"),
        Score("rmse", "RMSE", number, "root of the mean squared error; lower is better"),
        Score("r2", "R²", decimal, "1 is perfect, 0 is as good as always saying the mean"),
    ),
}


@dataclass(frozen=True)
class Gap:
    """How a difference between two models is printed: the number, its unit, the unit on an axis, and of what."""

    text: Callable[..., str]
    unit: str
    axis: str
    of: str


GAPS = {
    "top1": Gap(points, "points", "points top1", "top1"),
    "lrap": Gap(points, "points of label ranking precision", "points LRAP", "label ranking precision"),
    "scaled_mae": Gap(
        deviations, "standard deviations of the labels", "standard deviations of the labels", "absolute error"
    ),
}
