"""What `check` concludes about labels: too few of a class, classes far apart, numbers far outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from regard.data.findings import count, named
from regard.data.sources import ImageSet
from regard.data.splits import PARTS
from regard.results import Finding

IMBALANCE = 10.0  # most / fewest images of a class above this is a warning
FEW = 10  # training images of a class below this are a warning
FENCE = 3.0  # interquartile ranges beyond the quartiles: far out (Tukey 1977, section 2D)
RARE = 0.01  # share of images far out above which a column has a long tail rather than mistakes

Counts = dict[str, dict[str, int]]


def label_counts(images: ImageSet, part: Mapping[int, str]) -> Counts:
    """`CheckReport.counts`; part: row -> split, of the readable images in use."""
    if images.problem == "regression":
        tally = Counter(part.values())
        return {split: {"images": tally[split]} for split in PARTS}
    if images.problem == "single_label":
        tally = Counter((split, int(images.labels[row])) for row, split in part.items())
        return {split: {name: tally[split, label] for label, name in enumerate(images.classes)} for split in PARTS}
    sums = {split: images.labels[[row for row, one in part.items() if one == split]].sum(axis=0) for split in PARTS}
    return {split: dict(zip(images.classes, sums[split].astype(int).tolist(), strict=True)) for split in PARTS}


def label_findings(images: ImageSet, counts: Counts, part: Mapping[int, str]) -> Iterator[Finding]:
    """What is wrong with classes, labels or numbers."""
    if images.problem == "regression":
        yield from _number_findings(images, part)
        return
    yield from _absent_and_few(images, counts)
    yield from _imbalance(images, counts)
    if images.problem == "multi_label":
        yield from _constant_labels(images, part)


def _absent_and_few(images: ImageSet, counts: Counts) -> Iterator[Finding]:
    several = images.problem == "multi_label"
    what = "label" if several else "class"
    total = {name: sum(counts[split][name] for split in PARTS) for name in images.classes}
    single = [name for name, number in total.items() if number == 1]
    if single:
        message = f"a single image in class {', '.join(single)}; add images"
        if several:
            message = f"a single image with label {', '.join(single)}; add images or leave the label out"
        yield Finding("one-image-class", "warning" if several else "error", message)
    for split in PARTS:
        absent = [name for name in images.classes if not counts[split][name]]
        if absent:
            # A label that the test lacks is left out of the mean over labels; a class that it lacks is not judged.
            spoils = split == "train" or (split == "test" and not several)
            message = f"no {split} images {'with' if several else 'of'} {what} {', '.join(absent)}"
            yield Finding("missing-class", "error" if spoils else "warning", message)
    few = [f"{name} ({counts['train'][name]})" for name in images.classes if 0 < counts["train"][name] < FEW]
    if few:
        message = f"fewer than {FEW} training images {'with' if several else 'of'} {what} {', '.join(few)}"
        yield Finding("tiny-class", "warning", message)


def _imbalance(images: ImageSet, counts: Counts) -> Iterator[Finding]:
    what = "label" if images.problem == "multi_label" else "class"
    total = {name: sum(counts[split][name] for split in PARTS) for name in images.classes}
    largest, smallest = max(total, key=total.__getitem__), min(total, key=total.__getitem__)
    if not 0 < total[smallest] < total[largest]:
        return
    ratio = total[largest] / total[smallest]
    message = f"largest {what} {largest} ({total[largest]:,}) has {ratio:.1f} times the images of the smallest, "
    message += f"{smallest} ({total[smallest]:,})"
    # Weights cannot make up for classes of a handful: those need images, which `tiny-class` says.
    train = {name: number for name, number in counts["train"].items() if number >= FEW}
    if train and max(train.values()) > IMBALANCE * min(train.values()):
        rarest = min(train, key=train.__getitem__)
        message += (
            f"; --balance loss would help the rare ones (in train up to {max(train.values()) / train[rarest]:.1f} "
        )
        message += f"times as many images as of {rarest}), at some cost to the frequent"
    yield Finding("imbalance", "warning" if ratio > IMBALANCE else "note", message)


def _constant_labels(images: ImageSet, part: Mapping[int, str]) -> Iterator[Finding]:
    given = images.labels[sorted(part)] > 0
    always = [images.classes[label] for label in np.flatnonzero(np.all(given, axis=0))]
    if always:
        yield Finding("constant-label", "warning", f"every image has label {', '.join(always)}; leave it out")
    per_image = given.sum(axis=1)
    none = int((per_image == 0).sum())
    message = f"{per_image.mean():.1f} labels per image, {per_image.max()} at most; {count(none, 'image')} without any"
    yield Finding("labels-per-image", "note", message)


def _number_findings(images: ImageSet, part: Mapping[int, str]) -> Iterator[Finding]:
    rows = np.array(sorted(part), dtype=np.int64)
    split = np.array([part[row] for row in rows.tolist()])
    for name, column in zip(images.classes, images.labels.T, strict=True):
        values = column[rows].astype(np.float64)
        yield Finding("distribution", "note", f"{name}: " + "; ".join(_spans(values, split)))
        if not images.boxes:
            yield from _far_out(images, name, rows, values)
            yield from _beyond(images, name, rows, values, split)


def _spans(values: np.ndarray, split: np.ndarray) -> Iterator[str]:
    for one in PARTS:
        inside = values[split == one]
        if len(inside):
            yield f"{one} {inside.min():.4g} to {inside.max():.4g}, median {np.median(inside):.4g}"


def _far_out(images: ImageSet, name: str, rows: np.ndarray, values: np.ndarray) -> Iterator[Finding]:
    low, high = np.quantile(values, (0.25, 0.75))
    reach = FENCE * (high - low)
    far = rows[(values < low - reach) | (values > high + reach)].tolist()
    if reach and far:
        rare = len(far) <= max(1, RARE * len(rows))
        message = f"{count(len(far), 'image')} with a {name} far from the others (below {low - reach:g} or above "
        message += f"{high + reach:g}); " + (
            "mistakes?" if rare else "a long tail: its logarithm may be easier to learn"
        )
        yield named(images, "outlier", "warning" if rare else "note", far, message)


def _beyond(images: ImageSet, name: str, rows: np.ndarray, values: np.ndarray, split: np.ndarray) -> Iterator[Finding]:
    train, tested = values[split == "train"], split == "test"
    if not len(train):
        return
    beyond = rows[tested & ((values < train.min()) | (values > train.max()))].tolist()
    if len(beyond) > 0.05 * tested.sum() and len(beyond) > 1:
        message = f"{count(len(beyond), 'test image')} with a {name} outside of what train shows "
        yield named(images, "beyond-train", "warning", beyond, f"{message}({train.min():g} to {train.max():g})")
