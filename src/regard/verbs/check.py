"""`regard check`: look before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from regard.results import CheckReport, Finding
from regard.verbs.events import OnEvent, silent

if TYPE_CHECKING:
    from regard.data.sources import ImageSet

SHOWN = 5  # ids of a finding
MARKS = {"error": "ERROR  ", "warning": "warning", "note": "note   "}


def check(data: str | Path, *, max_bad: float = 0.01, on_event: OnEvent = silent) -> CheckReport:
    """Look at a folder of labelled images before anything is trained on it.

    Decodes every file once and lists: images per class and split, imbalance, corrupt or truncated files,
    exact and near duplicates within and across splits, label conflicts among duplicates, odd images, and what
    the test set can decide. Exit code 1 when something would spoil a result.

    Args:
        data: FOLDER/<class>/*, FOLDER/{train,val,test}/<class>/*, a CSV or Parquet table with columns path
            and label (and split), digits, or torchvision:NAME.
        max_bad: Share of files that may be unreadable; above it that is an error.
        on_event: Called with each event of the work.
    """
    from regard.data.sources import open_images

    return check_opened(open_images(data), max_bad=max_bad, on_event=on_event)


def check_opened(images: ImageSet, *, max_bad: float = 0.01, on_event: OnEvent = silent) -> CheckReport:
    """`check` of images that are open already; `train` and `compare` run it first."""
    from regard.data.checks import check_images
    from regard.evaluation.statistics import decides

    def progress(done: int, total: int) -> None:
        on_event({"event": "progress", "title": "checking images", "done": done, "total": total})

    report = check_images(images, max_bad=max_bad, progress=progress)
    scored = sum(report.counts["test"].values()) - len(report.leaked)
    return replace(report, decides=decides(scored) if scored else "no test image is left to decide anything")


def describe(report: CheckReport) -> list[str]:
    """The report as lines of plain text: the table of counts, the findings, what the test set can decide."""
    images = sum(map(_total, report.counts.values()))
    lines = [f"{report.name}: {images:,} images, {len(report.classes):,} classes", "", *_table(report)]
    lines.append("")
    for finding in report.findings:
        lines.append(f"{MARKS[finding.severity]}  {_visible(finding.message)}")
        lines += [f"           {one}" for one in _named(finding, report)]
    lines.append("")
    lines.append(report.decides[:1].upper() + report.decides[1:])
    return lines


def _total(counts: dict[str, int]) -> int:
    return sum(counts.values())


def _table(report: CheckReport) -> list[str]:
    names = [*map(_visible, report.classes), "all"]
    width = max(map(len, ["class", *names]))
    columns = [[f"{count:,}" for count in (*counts.values(), _total(counts))] for counts in report.counts.values()]
    rows = zip(names, *columns, strict=True)
    return [
        "  ".join([f"{name:<{width}}", *(f"{cell:>7}" for cell in cells)])
        for name, *cells in (("class", *report.counts), *rows)
    ]


def _named(finding: Finding, report: CheckReport) -> list[str]:
    """A few of a finding's images; duplicates beside what they are duplicates of."""
    if "duplicate" in finding.code or finding.code == "label-conflict":
        chosen = set(finding.ids)
        listed = [group for group in report.groups if chosen.intersection(group)]
        names = [" = ".join(map(_visible, group[:SHOWN])) + ", ..." * (len(group) > SHOWN) for group in listed]
    else:
        names = [_visible(id_) for id_ in finding.ids]
    more = [f"and {len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
    return names[:SHOWN] + more


def _visible(name: str) -> str:
    """A file or class name that cannot move the cursor or break the line."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
