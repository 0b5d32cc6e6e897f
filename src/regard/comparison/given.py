"""Predictions of any tool, read from tables: the same statistics for models that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from scipy.special import logit

from regard.data.sources import ImageSet
from regard.errors import RegardError
from regard.evaluation.slices import take
from regard.evaluation.statistics import mcnemar
from regard.reporting.records import FileTest
from regard.results import Cost, Predictions, RunResult

PATH_COLUMNS = ("path", "id", "image", "file", "filename")
CLASS_COLUMNS = ("class", "prediction", "predicted")
LABEL_COLUMNS = ("label", "target", "true")
SURE = 20.0  # logit of a class that is given without a probability


def read_predictions(path: Path, labels: dict[str, str] | None) -> Predictions:
    """One table: path, and either a probability column per class or a class; labels from its own column or `labels`.

    labels: id -> class name, where the table has no label column. Probabilities become logits by the logarithm.
    """
    table = _table(path)
    names = {name.lower(): name for name in table.column_names}
    id_column = _column(names, PATH_COLUMNS, path)
    label_column = next((names[name] for name in LABEL_COLUMNS if name in names), None)
    class_column = next((names[name] for name in CLASS_COLUMNS if name in names), None)
    ids = [str(value) for value in table[id_column].to_pylist()]
    _refuse_odd(path, ids, None if label_column else labels)
    if label_column:
        truth = [str(value) for value in table[label_column].to_pylist()]
    elif labels is not None:
        truth = [labels[id_] for id_ in ids]
    else:
        raise RegardError(
            f"{path}: no label column ({', '.join(LABEL_COLUMNS)}); add one, or name the data set: "
            "regard compare DATA --predictions ..."
        )
    numeric = [
        name
        for name in table.column_names
        if name not in (id_column, label_column, class_column) and pa.types.is_floating(table[name].type)
    ]
    if len(numeric) >= 2:
        classes = tuple(sorted({*numeric, *truth}))
        logits = np.full((len(ids), len(classes)), -SURE, np.float32)
        for name in numeric:
            logits[:, classes.index(name)] = np.log(np.clip(table[name].to_numpy().astype(np.float64), 1e-9, None))
    elif class_column:
        answers = [str(value) for value in table[class_column].to_pylist()]
        classes = tuple(sorted({*answers, *truth}))
        logits = np.zeros((len(ids), len(classes)), np.float32)
        logits[np.arange(len(ids)), [classes.index(answer) for answer in answers]] = SURE
    else:
        raise RegardError(
            f"{path}: neither a class column ({', '.join(CLASS_COLUMNS)}) nor a column of probabilities per class; "
            f"it has {', '.join(table.column_names)}"
        )
    return Predictions(tuple(ids), logits, np.array([classes.index(label) for label in truth]), classes)


def read_numbers(path: Path, images: ImageSet) -> Predictions:
    """One table for several labels per photo, or numbers: path, and a column for each label or number of `images`.

    Labels: probabilities, which become logits; numbers: as they are, boxes as shares of the photo's width and height.
    The truth is that of `images`.
    """
    table = _table(path)
    id_column = _column({name.lower(): name for name in table.column_names}, PATH_COLUMNS, path)
    ids = [str(value) for value in table[id_column].to_pylist()]
    row_of = {id_: row for row, id_ in enumerate(images.ids)}
    _refuse_odd(path, ids, row_of)
    missing = [name for name in images.classes if name not in table.column_names]
    if missing:
        raise RegardError(
            f"{path}: no column {missing[0]!r} ({len(missing)} such); "
            f"expected one for each of {', '.join(images.classes)}"
        )
    try:
        columns = [table[name].cast(pa.float64()).to_numpy() for name in images.classes]
    except pa.ArrowInvalid as error:
        raise RegardError(f"{path}: not all cells are numbers ({str(error).splitlines()[0]})") from None
    values = np.stack(columns, axis=1)
    if not np.isfinite(values).all():
        raise RegardError(f"{path}: an empty cell or one that is no finite number; every photo needs all its answers")
    if images.problem == "multi_label":
        if values.min() < 0 or values.max() > 1:
            raise RegardError(
                f"{path}: values from {values.min():g} to {values.max():g}; expected probabilities, 0 to 1"
            )
        values = logit(np.clip(values, 1e-9, 1 - 1e-9))
    labels = images.labels[[row_of[id_] for id_ in ids]]
    return Predictions(tuple(ids), values.astype(np.float32), labels, images.classes, images.problem)


def _refuse_odd(path: Path, ids: Sequence[str], known: Mapping[str, object] | None) -> None:
    """RegardError where a path stands twice, or is none of the `known`."""
    if len(set(ids)) != len(ids):
        raise RegardError(f"{path}: a path stands there twice; expected one row per image")
    odd = [id_ for id_ in ids if id_ not in known] if known is not None else []
    if odd:
        raise RegardError(
            f"{path}: {odd[0]!r} is no image of the data set ({len(odd)} such rows); expected paths relative to it"
        )


def _table(path: Path) -> pa.Table:
    if not path.is_file():
        raise RegardError(f"{path}: no such file; --predictions takes CSV or Parquet tables")
    try:
        return pq.read_table(path) if path.suffix.lower() == ".parquet" else csv.read_csv(path)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise RegardError(
            f"{path}: not a readable table ({str(error).splitlines()[0]}); expected CSV or Parquet"
        ) from None


def _column(names: dict[str, str], wanted: Sequence[str], path: Path) -> str:
    for name in wanted:
        if name in names:
            return names[name]
    raise RegardError(f"{path}: no column {' or '.join(wanted)}; it has {', '.join(names.values())}")


def given_results(paths: Sequence[Path], images: ImageSet | None) -> list[RunResult]:
    """One result per file, on the images that all files answer; RegardError where they differ in images or labels.

    images: the data set, for labels that do not stand in the files; several labels and numbers need it.
    """
    if len(paths) < 2:
        raise RegardError("--predictions: name two files or more, one per model")
    if images is not None and images.problem != "single_label":
        return _numbers(paths, images)
    labels = (
        {id_: images.classes[label] for id_, label in zip(images.ids, images.labels, strict=True)} if images else None
    )
    read = [read_predictions(path, labels) for path in paths]
    first = read[0]
    truth = dict(zip(first.ids, (first.classes[label] for label in first.labels), strict=True))
    classes = tuple(sorted({name for one in read for name in one.classes}))
    results = []
    for name, path, one in zip(_names(paths), paths, read, strict=True):
        own = dict(zip(one.ids, (one.classes[label] for label in one.labels), strict=True))
        if own != truth:
            odd = next(id_ for id_ in (*truth, *own) if own.get(id_) != truth.get(id_))
            raise RegardError(
                f"{path}: differs from {paths[0]} in its images or labels (first: {odd!r}); "
                "both must answer the same test images"
            )
        results.append(_result(name, _aligned(one, first.ids, classes)))
    return results


def _numbers(paths: Sequence[Path], images: ImageSet) -> list[RunResult]:
    read = [read_numbers(path, images) for path in paths]
    ids = read[0].ids
    results = []
    for name, path, one in zip(_names(paths), paths, read, strict=True):
        if odd := sorted(set(one.ids) ^ set(ids)):
            raise RegardError(
                f"{path}: differs from {paths[0]} in its images (first: {odd[0]!r}); both must answer the same"
            )
        row_of = {id_: row for row, id_ in enumerate(one.ids)}
        results.append(_result(name, take(one, np.array([row_of[id_] for id_ in ids]))))
    return results


def _names(paths: Sequence[Path]) -> list[str]:
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _aligned(one: Predictions, ids: tuple[str, ...], classes: tuple[str, ...]) -> Predictions:
    """The same answers in the order of `ids`, over the union of the classes."""
    row_of = {id_: row for row, id_ in enumerate(one.ids)}
    rows = np.array([row_of[id_] for id_ in ids])
    columns = [classes.index(name) for name in one.classes]
    logits = np.full((len(ids), len(classes)), one.logits.min() - SURE, np.float32)
    logits[:, columns] = one.logits[rows]
    labels = np.array(columns)[one.labels[rows]]
    return Predictions(ids, logits, labels, classes)


def _result(name: str, test: Predictions) -> RunResult:
    empty = take(test, np.zeros(0, np.int64))
    return RunResult(name, "given", 0, 1.0, 0, 0, empty, test, 1.0, 0.0, Cost(0), "")


def file_tests(results: Sequence[RunResult]) -> list[FileTest]:
    """McNemar's exact test of the first file against each other one: it speaks of these files only.

    Only where an answer is right or wrong: not for several labels or numbers.
    """
    if results[0].problem != "single_label":
        return []
    first, *others = sorted(results, key=lambda result: -result.test.correct.mean())
    tests = []
    for other in others:
        found = mcnemar(first.test.correct, other.test.correct)
        tests.append(FileTest(first.model, other.model, found.only_a, found.only_b, found.p_value))
    return tests
