"""Groups by a column or a pattern, and what is refused; rows joined by links."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.groups import connected, groups_by_pattern
from regard.data.sources import open_images
from regard.errors import RegardError


def folder(root: Path) -> Path:
    for name in ("hat/ann_1.png", "hat/ann_2.png", "hat/bob_1.png", "shoe/ann_3.png", "shoe/cleo_1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    folder(path.parent)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "Patient", "camera"), *rows])
    return path


ROWS = [
    ("hat/ann_1.png", "a", "ann", "old"),
    ("hat/ann_2.png", "a", "ann", ""),
    ("hat/bob_1.png", "b", "bob", "new"),
    ("shoe/cleo_1.png", "b", "cleo", "old"),
]


def refusal(data: Path, **named: Any) -> str:
    with pytest.raises(RegardError) as caught:
        open_images(data, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("pattern", [r"/([a-z]+)_\d", r"(ann|bob|cleo)", r"ann|bob|cleo"])
def test_a_pattern_over_ids(tmp_path: Path, pattern: str) -> None:
    images = open_images(folder(tmp_path), group=pattern)
    assert images.groups == ("ann", "ann", "bob", "ann", "cleo")
    assert images.notes[0].startswith("groups: 3 by pattern") and "of 1 to 3 images" in images.notes[0]
    assert images.select([4, 0]).groups == ("cleo", "ann")


def test_a_column_of_the_table_in_any_case(tmp_path: Path) -> None:
    path = table(tmp_path / "list.csv", ROWS)
    images = open_images(path, group="patient", slices=("Camera",))
    assert images.groups == ("ann", "ann", "bob", "cleo") and "column 'patient'" in images.notes[-1]
    assert dict(images.slices) == {"camera": ("old", "(empty)", "new", "old")}
    assert images.select([2]).slices["camera"] == ("new",)
    by_pattern = open_images(path, group=r"/(\w)")
    assert by_pattern.groups == ("a", "a", "b", "c") and "pattern" in by_pattern.notes[-1]


def test_a_pattern_must_find_a_group_in_every_id(tmp_path: Path) -> None:
    root = folder(tmp_path)
    some = refusal(root, group=r"ann_(\d)")
    assert "finds a group in 3 of 5 ids" in some and "'hat/bob_1.png'" in some
    assert "0 of 5" in refusal(root, group="patient") and "0 of 5" in refusal(root, group="(x?)")
    assert "nor a regular expression" in refusal(root, group="(")
    path = table(root / "list.csv", ROWS)
    message = refusal(path, group="patients")
    assert "no column of that name" in message and "columns: path, label, Patient, camera" in message
    assert "1 of 4 rows have no group" in refusal(path, group="camera") and "row 3" in refusal(path, group="camera")


def test_groups_that_say_nothing(tmp_path: Path) -> None:
    root = folder(tmp_path)
    assert "nothing is kept together" in open_images(root, group=".+").notes[0]
    assert "all images are of one group (png)" in refusal(root, group="png")


def test_rows_of_one_image_agree(tmp_path: Path) -> None:
    again = ("hat/ann_1.png", "a", "bob", "old")
    path = table(tmp_path / "list.csv", [*ROWS, again])
    message = refusal(path, group="Patient")
    assert "row 6" in message and "two groups (ann and bob)" in message
    path = table(tmp_path / "list.csv", [*ROWS, (*again[:3], "new")])
    assert "two values of 'camera' (old and new)" in refusal(path, slices=("camera",))
    assert len(open_images(path)) == 4


def test_digits_have_ids_too() -> None:
    images = open_images("digits", group=r"digits/(\d\d)")
    assert len(set(images.groups)) == 18 and images.groups[1796] == "17"


@given(st.integers(1, 25), st.data())
@settings(max_examples=60, deadline=None)
def test_connected_is_what_a_walk_finds(count: int, data: st.DataObject) -> None:
    row = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(row, row), max_size=20))
    neighbours = {row: {row} for row in range(count)}
    for a, b in pairs:
        joined = neighbours[a] | neighbours[b]
        for one in joined:
            neighbours[one] = joined
    expected = sorted({tuple(sorted(one)) for one in neighbours.values() if len(one) > 1})
    assert list(connected(np.array(pairs, dtype=np.int64).reshape(-1, 2), count)) == expected


def test_the_first_parenthesis_counts() -> None:
    assert groups_by_pattern("x", ("a-1-b", "c-2-d"), r"(\w)-(\d)") == ("a", "c")
