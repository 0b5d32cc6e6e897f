"""`regard check`: look before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from regard.errors import visible
from regard.results import CheckReport, Finding, ProblemChoice
from regard.verbs.events import OnEvent, silent

if TYPE_CHECKING:
    from regard.data.sources import ImageSet

SHOWN = 5  # ids of a finding
LIKELY_RECALL = 0.8
LIKELY_IOU_SD = 0.2  # of the intersection over union, over photos
HALF_NORMAL_CV = 0.756  # standard deviation / mean of |error|, of normal errors: sqrt(pi / 2 - 1)
MARKS = {"error": "ERROR  ", "warning": "warning", "note": "note   "}


def check(
    data: str | Path,
    *,
    target: tuple[str, ...] = (),
    problem: ProblemChoice = "auto",
    group: str | None = None,
    suspects: Path | None = None,
    weights: Path | None = None,
    max_bad: float = 0.01,
    on_event: OnEvent = silent,
) -> CheckReport:
    """Look at a folder of labelled images before anything is trained on it.

    Decodes every file once and lists: images per class and split (or the spread of each number), imbalance, corrupt
    or truncated files, exact and near duplicates within and across splits, groups on both sides of a split, label
    conflicts among duplicates, odd images, and what the test set can decide. Exit code 1 when something would spoil
    a result.

    Args:
        data: FOLDER/CLASS/*, FOLDER/{train,val,test}/CLASS/*, a CSV or Parquet table with columns path
            and label (and split), digits, or torchvision:NAME.
        target: Label columns of a table: one of classes, of several labels (a|b) or of numbers; several of 0 and 1 or
            of numbers; four of a box. None: the column label, else those of a box.
        problem: What the labels are; auto decides by what they hold, and says so.
        group: Column of a table, or a regular expression on the path, that says which images belong together (one
            patient, camera or product): the first parenthesis, else the whole match.
        suspects: Write a worklist of labels that are likely wrong to this CSV, with the photos in an HTML page beside.
        weights: Weights file of a published model whose features judge the labels; without it those of a published
            model in the cache, or else histograms of gradients, which need none and find less.
        max_bad: Share of files that may be unreadable; above it that is an error.
        on_event: Called with each event of the work.
    """
    from regard.data.sources import open_images
    from regard.verbs.suspects import write_worklist

    images = open_images(data, target=target, problem=problem, group=group)
    report = check_opened(images, max_bad=max_bad, on_event=on_event)
    if suspects is None:
        return report
    found = write_worklist(images, frozenset(report.unreadable), Path(suspects), weights, on_event)
    return replace(report, findings=(*report.findings, found))


def check_opened(images: ImageSet, *, max_bad: float = 0.01, on_event: OnEvent = silent) -> CheckReport:
    """`check` of images that are open already; `train` and `compare` run it first."""
    from regard.data.checks import check_images

    def progress(done: int, total: int) -> None:
        on_event({"event": "progress", "title": "checking images", "done": done, "total": total})

    report = check_images(images, max_bad=max_bad, progress=progress)
    return replace(report, decides=_decides(report, images.boxes))


def _decides(report: CheckReport, boxes: bool) -> str:
    """What the test set can decide, leaked images left out: about two classifiers, or how sure a figure will be."""
    from regard.evaluation.intervals import proportion
    from regard.evaluation.statistics import decides

    photos = report.images["test"] - len(report.leaked)
    if photos < 1:
        return "no test image is left to decide anything"
    if report.problem == "single_label":
        return decides(photos)
    said = f"{photos:,} test photo{'s' * (photos != 1)}"
    if report.problem == "multi_label":
        tested = {label: number for label, number in report.counts["test"].items() if number}
        if not tested:
            return f"{said}, none with a label: they decide nothing"
        rarest = min(tested, key=tested.__getitem__)
        recall = proportion(LIKELY_RECALL * tested[rarest], tested[rarest])
        width = 50 * ((recall.high or 1) - (recall.low or 0))
        return (
            f"{said}; of {visible(rarest)}, the rarest label, {tested[rarest]:,}: its recall will be known to about "
            f"{width:.0f} points either way (at {LIKELY_RECALL:.0%} recall)"
        )
    if boxes:
        half = 100 * LIKELY_IOU_SD * 1.96 / photos**0.5
        return f"{said} tell the mean intersection over union to about {half:.1f} points either way"
    share = 1.96 * HALF_NORMAL_CV / photos**0.5
    return (
        f"{said} tell the mean absolute error to about {share:.0%} of itself either way, where errors are roughly "
        "normal; less surely where a few are large"
    )


def describe(report: CheckReport) -> list[str]:
    """The report as lines of plain text: the table of counts, the findings, what the test set can decide."""
    kinds = {
        "single_label": "classes",
        "multi_label": "labels",
        "regression": f"number{'s' * (len(report.classes) > 1)}",
    }
    total = sum(report.images.values())
    lines = [f"{report.name}: {total:,} images, {len(report.classes):,} {kinds[report.problem]}", "", *_table(report)]
    lines.append("")
    for finding in report.findings:
        lines.append(f"{MARKS[finding.severity]}  {visible(finding.message)}")
        lines += [f"           {one}" for one in _named(finding, report)]
    lines.append("")
    lines.append(report.decides[:1].upper() + report.decides[1:])
    return lines


def _table(report: CheckReport) -> list[str]:
    """A line per class or label, and one of all images; numbers have that one alone."""
    classes = () if report.problem == "regression" else report.classes
    last = "images" if report.problem != "single_label" else "all"
    head = {"single_label": "class", "multi_label": "label", "regression": ""}[report.problem]
    names = [*map(visible, classes), last]
    width = max(map(len, [head, *names]))
    columns = [
        [f"{number:,}" for number in (*(counts[name] for name in classes), report.images[split])]
        for split, counts in report.counts.items()
    ]
    rows = zip(names, *columns, strict=True)
    return [
        "  ".join([f"{name:<{width}}", *(f"{cell:>7}" for cell in cells)])
        for name, *cells in ((head, *report.counts), *rows)
    ]


def _named(finding: Finding, report: CheckReport) -> list[str]:
    """A few of a finding's images; duplicates beside what they are duplicates of."""
    if "duplicate" in finding.code or finding.code == "label-conflict":
        chosen = set(finding.ids)
        listed = [group for group in report.groups if chosen.intersection(group)]
        names = [" = ".join(map(visible, group[:SHOWN])) + ", ..." * (len(group) > SHOWN) for group in listed]
    else:
        names = [visible(id_) for id_ in finding.ids]
    more = [f"and {len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
    return names[:SHOWN] + more
