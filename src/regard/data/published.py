"""Data sets that come by name: scikit-learn's handwritten digits, and those of torchvision."""

from __future__ import annotations

import inspect
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, overload

import numpy as np

from regard.data.tables import Listing
from regard.errors import RegardError

# torchvision names its parts differently from set to set; the first name that a set knows is taken.
PART_NAMES = {"train": ("train", "trainval", "train-standard"), "val": ("val", "valid"), "test": ("test",)}
LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y")
SAMPLE_ATTRIBUTES = ("samples", "_samples")


def list_digits() -> Listing:
    """scikit-learn's 1,797 handwritten digits: 8x8 pixels of 0..16, here uint8 RGB scaled by 255 / 16."""
    from sklearn.datasets import load_digits

    content: Any = load_digits()
    grey = np.rint(content.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
    pixels = np.repeat(grey[..., None], 3, axis=3)  # (N, 8, 8, 3)
    ids = [f"digits/{row:04d}" for row in range(len(pixels))]
    return Listing("digits", ids, [str(label) for label in content.target], [""] * len(ids), list(pixels))


class Decoded(Sequence[np.ndarray]):
    """The images of torchvision data sets in a row, each decoded when it is asked for: HxWx3 uint8."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts]).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    @overload
    def __getitem__(self, row: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, row: slice) -> list[np.ndarray]: ...
    def __getitem__(self, row: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        part = bisect_right(self.ends, row)
        from regard.data.decoding import decode

        return decode(self.parts[part][row - (self.ends[part - 1] if part else 0)][0])


def say(text: str) -> None:
    """Announce a download where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)


def list_torchvision(name: str, announce: Callable[[str], None] = say) -> Listing:
    """A classification data set of torchvision.datasets, all parts that it has.

    Downloaded once, after `announce` was told. It lies where torchvision's users have it: $TORCH_HOME (or
    ~/.cache/torch) + /datasets.
    """
    from torchvision import datasets

    kind = getattr(datasets, name, None)
    if not inspect.isclass(kind):
        known = [one for one in datasets.__all__ if inspect.isclass(getattr(datasets, one))]
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        raise RegardError(f"torchvision:{name}: no such data set; nearest: {', '.join(near) or 'none'}")
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    root = Path(home).expanduser() / "datasets"
    parts = _open_parts(name, kind, root, announce)
    names = _class_names(parts)
    ids: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    for split, part in parts:
        folder = f"{name}/{split}" if split else name
        ids += [f"{folder}/{row:06d}" for row in range(len(part))]
        labels += [names[label] for label in _labels(part)]
        splits += [split] * len(part)
    return Listing(f"torchvision:{name}", ids, labels, splits, Decoded([part for _, part in parts]))


def _open_parts(name: str, kind: Any, root: Path, announce: Callable[[str], None]) -> list[tuple[str, Any]]:
    """(split, data set) for all parts of a torchvision class; ("", data set) where it knows no parts."""
    arguments = inspect.signature(kind).parameters
    needed = [
        one.name
        for one in arguments.values()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD and one.name not in ("root", "split")
    ]
    if needed or "root" not in arguments:
        raise RegardError(
            f"torchvision:{name}: its constructor is not that of a published classification set "
            f"({', '.join(needed) or 'no root'}); save the images in class folders instead"
        )

    def construct(**part: Any) -> Any:
        return _construct(name, kind, root, announce, "download" in arguments, part)

    if "train" in arguments:
        return [("train", construct(train=True)), ("test", construct(train=False))]
    if "split" not in arguments:
        return [("", construct())]
    parts = []
    for split, words in PART_NAMES.items():
        for word in words:
            try:
                parts.append((split, construct(split=word)))
                break
            except ValueError:  # torchvision's answer to a part that the set does not have
                continue
    if "train" not in dict(parts):
        raise RegardError(f"torchvision:{name}: no part named train; save the images in class folders instead")
    return parts


def _construct(
    name: str, kind: Any, root: Path, announce: Callable[[str], None], downloads: bool, part: dict[str, Any]
) -> Any:
    """One part, from the disk where it lies there, else downloaded."""
    try:
        return kind(root=root, **part)
    except (RuntimeError, OSError) as error:
        missing = error
    if not downloads:
        raise RegardError(f"torchvision:{name}: not in {root}, and torchvision cannot download it; put it there")
    announce(f"torchvision:{name}: downloading {' '.join(map(str, part.values()))} to {root}".replace("  ", " "))
    root.mkdir(parents=True, exist_ok=True)
    try:
        return kind(root=root, download=True, **part)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or str(missing)
        raise RegardError(f"torchvision:{name}: cannot be had ({reason}); put it in {root}") from None


def _labels(part: Any) -> list[int]:
    """The label of every row, without decoding an image where the data set keeps them aside."""
    for attribute in LABEL_ATTRIBUTES:
        values = getattr(part, attribute, None)
        if values is not None and len(values) == len(part):
            return [int(value) for value in values]
    for attribute in SAMPLE_ATTRIBUTES:
        values = getattr(part, attribute, None)
        if values is not None and len(values) == len(part):
            return [int(value[1]) for value in values]
    return [int(part[row][1]) for row in range(len(part))]


def _class_names(parts: list[tuple[str, Any]]) -> list[str]:
    """Names by label: those of the data set, or the label's number."""
    names = getattr(parts[0][1], "classes", None)
    if names is not None:
        return [name if isinstance(name, str) else ", ".join(name) for name in names]
    return [str(label) for label in range(1 + max(max(_labels(part)) for _, part in parts))]
