"""Labels as arrays, and what a data set must have before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from regard.data.tables import Listing, some
from regard.data.targets import number
from regard.errors import RegardError

LEAST_IN_A_BIN = 10  # images; ten bins of numbers need a hundred
BINS = 10


def number_labels(listing: Listing, classes: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(labels, classes) as in `ImageSet`. classes: those of a trained run, matched by name, in its order.

    Raises RegardError where they differ from the run's, and where too little is there to train on.
    """
    if listing.problem == "regression":
        return _numbers(listing, classes)
    several = listing.problem == "multi_label"
    sets = listing.labels if several else [(label,) for label in listing.labels]
    found = list(listing.columns) or sorted({label for labels in sets for label in labels})
    if classes is None:
        _check_trainable(listing, sets, found)
    else:
        # A few photos need not show every label of a run, but a class that is gone may have been renamed.
        required = found if several and not listing.columns else classes
        _match(listing.name, found, classes, required, "labels" if several else "classes")
    _check_trained(listing, sets)
    ordered = tuple(found if classes is None else classes)
    place = {label: index for index, label in enumerate(ordered)}
    if not several:
        return np.array([place[label] for label in listing.labels], dtype=np.int64), ordered
    matrix = np.zeros((len(sets), len(ordered)), dtype=np.float32)
    for row, labels in enumerate(sets):
        matrix[row, [place[label] for label in labels]] = 1
    return matrix, ordered


def strata_of(labels: np.ndarray, several: bool) -> np.ndarray:
    """(N,) int64 for stratified draws of labels that are no classes, from (N, K) labels.

    several: the rarest label of each image, K where it has none. Else bins of equal numbers of images by the first
    column: ten, or as many as leave ten images in each; an unknown number is in the first.
    """
    if several:
        given = labels > 0
        order = np.argsort(given.sum(axis=0), kind="stable")
        first = given[:, order].argmax(axis=1)
        return np.where(given.any(axis=1), order[first], labels.shape[1]).astype(np.int64)
    values = labels[:, 0].astype(np.float64)
    known = np.isfinite(values)
    bins = min(BINS, int(known.sum()) // LEAST_IN_A_BIN)
    if bins < 2:
        return np.zeros(len(values), dtype=np.int64)
    edges = np.quantile(values[known], np.arange(1, bins) / bins)
    return np.where(known, np.searchsorted(edges, values, side="right"), 0).astype(np.int64)


def _numbers(listing: Listing, classes: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    values = np.array(listing.labels, dtype=np.float64).reshape(len(listing.ids), len(listing.columns))
    if classes is not None:
        _match(listing.name, listing.columns, classes, classes, "columns of numbers")
        values = values[:, [listing.columns.index(name) for name in classes]]
        return values.astype(np.float32), tuple(classes)
    for name, column in zip(listing.columns, values.T, strict=True):
        if len(set(column[np.isfinite(column)].tolist())) < 2 and not listing.boxes:
            raise RegardError(
                f"{listing.name}: column {name!r} is {column[0]:g} in every row; nothing to learn from it"
            )
    return values.astype(np.float32), listing.columns


def _match(
    name: str, found: Sequence[str], classes: Sequence[str], required: Sequence[str], what: str = "classes"
) -> None:
    """RegardError where labels are not those of a trained run."""
    missing = [one for one in required if one not in set(found)]
    extra = [one for one in found if one not in set(classes)]
    if missing or extra:
        raise RegardError(
            f"{name}: its {what} are not those of the trained run; missing here: {some(missing) or 'none'}; "
            f"not in the run: {some(extra) or 'none'}; rename the folders, labels or columns to match"
        )


def _check_trainable(listing: Listing, sets: Sequence[Iterable[str]], found: list[str]) -> None:
    counts = Counter(label for labels in sets for label in labels)
    if listing.problem == "multi_label":
        without = [label for label in found if not counts[label]]
        if without:
            raise RegardError(f"{listing.name}: no image has label {some(without)}; leave the column out")
        if len(found) < 2:
            raise RegardError(f"{listing.name}: {some(found) or 'no label'} only; several labels need two or more")
        return
    if len(found) == 1:
        raise RegardError(f"{listing.name}: only one class ({found[0]}); a classifier needs two or more")
    single = [label for label in found if counts[label] == 1]
    if single:
        numbers = "" if any(number(label) is None for label in found) else ", or say --problem regression"
        raise RegardError(
            f"{listing.name}: a single image in class {some(single)}; "
            f"each class needs two or more, add images or leave it out{numbers}"
        )


def _check_trained(listing: Listing, sets: Sequence[Iterable[str]]) -> None:
    """RegardError for labels of given splits that never come in train."""
    if "train" not in listing.splits:
        return
    trained = {one for labels, split in zip(sets, listing.splits, strict=True) if split == "train" for one in labels}
    unknown = sorted({label for labels in sets for label in labels} - trained)
    if unknown:
        where = "class folders" if listing.problem == "single_label" else "labels"
        raise RegardError(
            f"{listing.name}: no training images of class {some(unknown)} (training has {some(sorted(trained))}); "
            f"match the names of the {where} in all splits"
        )
