"""What stands before every training: labels as they are, unreadable and leaked photos left out, splits and folds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regard.errors import RegardError
from regard.verbs.check import check, describe
from regard.verbs.prepare import Prepared, prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty photos in a table with every kind of label; groups of three, of which a split divides four."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    header = ("path", "label", "tags", "age", "few", "x", "y", "w", "h", "who", "ground")
    rows = []
    for row in range(60):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{row}.png")
        tags = "|".join(tag for tag, rate in (("sun", 0.7), ("sea", 0.5), ("fog", 0.3)) if rng.random() < rate)
        box = (*rng.integers(0, 20, 2), *rng.integers(5, 20, 2))
        rows.append((f"{row}.png", "ab"[row % 2], tags or "sun", row / 4, row % 3, *box, f"p{row // 3}", "light"))
    with open(folder / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    parts = ("train", "train", "val", "test")
    splits = [parts[(row if row >= 48 else row // 3) % 4] for row in range(60)]
    with open(folder / "divided.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [(*header, "split"), *((*row, part) for row, part in zip(rows, splits, strict=True))]
        )
    return folder


def prepared(path: Path, events: list[dict[str, Any]] | None = None, **named: Any) -> Prepared:
    on_event = (events if events is not None else []).append
    arguments = {"max_bad": 0.01, "on_bad_image": "skip", "keep_leaks": False, **named}
    return prepare(path, on_event=on_event, **arguments)


def test_the_arguments_reach_the_table_and_decisions_are_said(data: Path) -> None:
    events: list[dict[str, Any]] = []
    ready = prepared(data / "list.csv", events, target=("tags",), group="who", slices=("ground",))
    assert ready.images.problem == "multi_label" and len(set(ready.images.groups)) == 20
    assert set(ready.images.slices["ground"]) == {"light"}
    said = [event["text"] for event in events if event["event"] == "note"]
    assert any("several labels per image" in text for text in said) and any("groups: 20" in text for text in said)
    assert prepared(data / "list.csv", target=("few",)).images.problem == "single_label"
    assert prepared(data / "list.csv", target=("few",), problem="regression").images.problem == "regression"


def test_groups_stay_on_one_side_of_split_and_folds(data: Path) -> None:
    ready = prepared(data / "list.csv", group="who")
    for split in (ready.split(0), ready.split(1), *ready.folds(4), *ready.folds(4, repeat=1)):
        part = {row: name for name in ("train", "val", "test") for row in getattr(split, name)}
        assert all(part[row] == part[row - row % 3] for row in range(60))
    assert sorted(row for split in ready.folds(4) for row in split.test) == list(range(60))


def test_test_photos_of_divided_groups_are_left_out_by_name_unless_kept(data: Path) -> None:
    ready = prepared(data / "divided.csv", group="who")
    left = ready.split(0)
    kept = prepared(data / "divided.csv", group="who", keep_leaks=True).split(0)
    leaked = set(ready.checked.leaked)
    assert {ready.images.ids[row] for row in kept.test} - leaked == {ready.images.ids[row] for row in left.test}
    assert leaked == {"51.png", "55.png", "59.png"} and len(kept.test) == 15 and len(left.test) == 12
    assert "or images of their group in train or val are left out" in left.notes[-1]
    every = r"every test image has a near-duplicate or images of their group.*--keep-leaks"
    with pytest.raises(RegardError, match=every):
        prepared(data / "divided.csv", group=r"(\d)\.").split(0)
    assert len(prepared(data / "divided.csv").split(0).test) == 15


def test_folds_of_a_given_split_are_refused(data: Path) -> None:
    with pytest.raises(RegardError, match="--folds makes every image a test image once"):
        prepared(data / "divided.csv").folds(3)


@pytest.mark.parametrize(
    ("target", "first", "table", "decides"),
    [
        (("tags",), "60 images, 3 labels", ["fog", "sea", "sun", "images"], "the rarest label"),
        (("age",), "60 images, 1 number", ["images"], "mean absolute error to about"),
        (("x", "y", "w", "h"), "60 images, 4 numbers", ["images"], "intersection over union"),
        ((), "60 images, 2 classes", ["a", "b", "all"], "test photos"),
    ],
)
def test_check_tells_of_every_kind_of_label(
    data: Path, target: tuple[str, ...], first: str, table: list[str], decides: str
) -> None:
    report = check(data / "list.csv", target=target)
    lines = describe(report)
    assert lines[0].endswith(first) and [line.split()[0] for line in lines[3 : 3 + len(table)]] == table
    assert sum(map(int, lines[2 + len(table)].split()[1:])) == 60
    assert decides in lines[-1] and not report.spoils
    assert ("top1" in lines[-1] or "two models" in lines[-1]) == (target == ())


def test_check_names_groups_on_both_sides(data: Path) -> None:
    report = check(data / "divided.csv", group="who")
    assert report.spoils and any("ERROR" in line and "groups with other images" in line for line in describe(report))


def test_how_sure_a_mean_absolute_error_will_be(data: Path) -> None:
    """The share said equals what simulated normal errors show."""
    report = check(data / "list.csv", target=("age",))
    photos = report.images["test"]
    errors = np.abs(np.random.default_rng(0).normal(size=(20000, photos))).mean(axis=1)
    share = 1.96 * errors.std() / errors.mean()
    said = int(report.decides.split("about ")[1].split("%")[0])
    assert abs(said - 100 * share) < 1.5
