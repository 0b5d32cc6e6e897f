"""Which photos `explain` looks at, and for which class of each the maps are."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.inference.loaded import LoadedModel

SHOWN = 10  # class names in an error


@dataclass(frozen=True)
class Photos:
    """Files with their ids, and the name of the true class of each where that was asked for."""

    ids: Sequence[str]
    files: Sequence[Path]
    truths: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def find(images: Sequence[str | Path], target: str) -> Photos:
    """The photos of files and folders; with the target "true", those of one table (path, label) too."""
    from regard.data.sources import list_photos

    if target == "true" and _is_table(images):
        return _from_table(Path(images[0]))
    return Photos(*list_photos(images))


def with_classes(photos: Photos, target: str, models: Sequence[LoadedModel]) -> Photos:
    """With the target "true", the photos with the class of each: that of the table, or the nearest folder above that is
    called like one. Raises RegardError where the class of a photo is not known, or none of the models'.
    """
    if target != "true":
        return photos
    for loaded in models:
        if loaded.problem != "single_label":
            what = "several labels" if loaded.problem == "multi_label" else "numbers"
            raise RegardError(
                f"target true: {loaded.name} answers with {what}, not one class; name one of {_some(loaded.classes)}"
            )
    truths = photos.truths or _from_folders(photos, models)
    for loaded in models:
        strange = sorted(set(truths) - set(loaded.classes))
        if strange:
            raise RegardError(
                f"target true: {_some(strange)}: no class of {loaded.name}, whose classes are {_some(loaded.classes)}; "
                "rename the folders or labels to match"
            )
    return replace(photos, truths=truths)


def _is_table(images: Sequence[str | Path]) -> bool:
    from regard.data.tables import TABLE_SUFFIXES

    return len(images) == 1 and Path(images[0]).suffix.lower() in TABLE_SUFFIXES and Path(images[0]).is_file()


def _from_table(path: Path) -> Photos:
    from regard.data.table_listing import list_table

    listing = list_table(path, problem="single_label")
    return Photos(listing.ids, [Path(str(source)) for source in listing.sources], list(listing.labels))


def _from_folders(photos: Photos, models: Sequence[LoadedModel]) -> list[str]:
    """The nearest folder above each photo that is called like a class."""
    classes = {name for loaded in models for name in loaded.classes}
    truths = [_class_above(file, classes) for file in photos.files]
    without = [id_ for id_, truth in zip(photos.ids, truths, strict=True) if truth is None]
    if without:
        raise RegardError(
            f"target true: {len(without):,} of {len(photos):,} photos lie in no folder that is called like a class "
            f"(first: {without[0]}); expected FOLDER/<class>/*, or one table (path, label), with the classes "
            f"{_some(models[0].classes)}"
        )
    return [truth for truth in truths if truth is not None]


def _class_above(file: Path, classes: set[str]) -> str | None:
    above = (unicodedata.normalize("NFC", folder.name) for folder in Path(os.path.abspath(file)).parents)
    return next((name for name in above if name in classes), None)


def chooser(loaded: LoadedModel, target: str) -> Callable[[np.ndarray, Sequence[str] | None], np.ndarray]:
    """(logits (B, K), true classes) -> (B,) int64, the class of each photo that is explained.

    target: "top1" (of several labels the most probable one), "true", or the name of a class, label or column.
    Raises RegardError for a name that the model does not have.
    """
    classes = loaded.classes
    if loaded.problem == "regression" and target == "top1" and len(classes) == 1:
        return lambda logits, truths: np.zeros(len(logits), np.int64)
    if target == "top1" and loaded.problem != "regression":
        return lambda logits, truths: logits.argmax(axis=1)
    if target == "true":
        place = {name: number for number, name in enumerate(classes)}
        return lambda logits, truths: np.array([place[name] for name in truths or ()], np.int64)
    number = _named(loaded, target)
    return lambda logits, truths: np.full(len(logits), number, np.int64)


def _named(loaded: LoadedModel, target: str) -> int:
    """The class of a name: as it is, in any case, or one of the names that a class has between commas."""
    classes, wanted = loaded.classes, unicodedata.normalize("NFC", target)
    same: tuple[Callable[[str], bool], ...] = (
        lambda name: name == wanted,
        lambda name: name.casefold() == wanted.casefold(),
        lambda name: wanted.casefold() in [part.strip().casefold() for part in name.split(",")],
    )
    for test in same:
        found = [number for number, name in enumerate(classes) if test(name)]
        if len(found) == 1:
            return found[0]
    if loaded.problem == "regression":
        hint = f"it gives numbers: name the column to explain, one of {_some(classes)}"
        raise RegardError(f"target {target}: no column of {loaded.name}; {hint}")
    near = get_close_matches(wanted, classes, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"it has {_some(classes)}"
    raise RegardError(f"target {target}: no class of {loaded.name}; {hint}; or top1, or true")


def _some(names: Sequence[str]) -> str:
    from regard.data.tables import some

    return some(names, SHOWN)


def answers(loaded: LoadedModel, logits: np.ndarray, classes: np.ndarray) -> list[tuple[str, float, str, float]]:
    """Per photo: what the model answers with its probability, and the explained class with its own.

    Of several labels the answer is the most probable one. Of numbers both are the column and its number.
    """
    from regard.results import Predictions

    names, rows = loaded.classes, np.arange(len(logits))
    if loaded.problem == "regression":
        values, best = logits.astype(np.float64), classes
    else:
        unknown = np.full(len(logits), -1, np.int64)
        given = Predictions(tuple(map(str, rows)), logits, unknown, names, loaded.problem)
        values, best = given.probabilities(loaded.temperature), logits.argmax(axis=1)
    return [
        (names[first], float(values[row, first]), names[second], float(values[row, second]))
        for row, first, second in zip(rows.tolist(), best.tolist(), classes.tolist(), strict=True)
    ]


def target_words(target: str, models: Sequence[LoadedModel]) -> str:
    """Of what the maps are, after the word "maps"."""
    if target == "true":
        return "of the true class"
    if target != "top1":
        return f"of {target}"
    if any(loaded.problem == "regression" for loaded in models):
        return f"of {models[0].classes[0]}"
    several = any(loaded.problem == "multi_label" for loaded in models)
    if several:
        return "of the most probable label"
    return "of the model's own answer" if len(models) == 1 else "of each model's own answer"
