"""What the label columns of a table are taken for, and every cell that does not fit in one line."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.sources import ImageSet, open_images
from regard.data.tables import read_table
from regard.data.targets import number, read_targets
from regard.errors import RegardError


def table(folder: Path, columns: dict[str, list[Any]], name: str = "list.csv") -> Path:
    """A table of photos 0.png, 1.png, ... (only the first is there, which is enough to be listed)."""
    rows = len(next(iter(columns.values())))
    columns = {"path": [f"{row}.png" for row in range(rows)], **columns}
    (folder / "0.png").touch()
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    else:
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return folder / name


def refusal(path: Path, **named: Any) -> str:
    with pytest.raises(RegardError) as caught:
        open_images(path, **named)
    message = str(caught.value)
    assert ("\n" not in message and str(path) in message) or path.stem in message
    return message


def sets(images: ImageSet) -> list[set[str]]:
    return [{images.classes[label] for label in np.flatnonzero(row)} for row in images.labels]


# several labels


@pytest.mark.parametrize("between", ["|", ";", " | "])
def test_names_in_one_cell(tmp_path: Path, between: str) -> None:
    cells = [between.join(parts) for parts in (["hat", "dress"], ["dress"], ["hat", "shoe", "hat"], ["shoe"])]
    images = open_images(table(tmp_path, {"label": cells}))
    assert images.problem == "multi_label" and images.classes == ("dress", "hat", "shoe")
    assert images.labels.dtype == np.float32
    assert images.labels.tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]]
    (note,) = images.notes
    assert "several labels per image" in note and "--problem single_label" in note
    one = open_images(table(tmp_path, {"label": cells * 2}), problem="single_label")
    assert one.problem == "single_label" and len(one.classes) == 4 and one.notes == ()


def test_separators_in_names_that_share_no_part_are_names(tmp_path: Path) -> None:
    cells = ["tench; Tinca tinca", "crane; a bird"] * 3
    images = open_images(table(tmp_path, {"label": cells}))
    assert images.problem == "single_label" and images.classes == ("crane; a bird", "tench; Tinca tinca")
    assert "--problem multi_label" in images.notes[0]
    forced = open_images(table(tmp_path, {"label": cells}), problem="multi_label")
    assert forced.classes == ("Tinca tinca", "a bird", "crane", "tench")


def test_an_empty_cell_means_no_label_only_where_that_was_said(tmp_path: Path) -> None:
    path = table(tmp_path, {"label": ["a|b", "a", "", "b|c"]})
    message = refusal(path)
    assert "row 4 has no label" in message and "--problem multi_label" in message
    images = open_images(path, problem="multi_label")
    assert sets(images) == [{"a", "b"}, {"a"}, set(), {"b", "c"}]


def test_rows_of_one_image_add_up(tmp_path: Path) -> None:
    (tmp_path / "0.png").touch()
    rows = [("path", "label"), *((f"{n % 4}.png", "abc"[n % 3]) for n in range(8)), ("./3.png", "a")]
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    images = open_images(tmp_path / "list.csv")
    assert images.problem == "multi_label" and images.ids == tuple(f"{n}.png" for n in range(4))
    assert sets(images) == [{"a", "b"}, {"b", "c"}, {"a", "c"}, {"a", "b"}]
    assert "4 of 4 images are in several rows" in images.notes[0] and "4 images" in images.notes[1]
    assert "1 rows" in images.notes[2]
    assert "one image has one label" in refusal(tmp_path / "list.csv", problem="single_label")


def test_lists_of_parquet(tmp_path: Path) -> None:
    path = table(tmp_path, {"label": [["a", "b"], [], ["b"], ["c", "b", "c"]]}, "list.parquet")
    images = open_images(path)
    assert images.problem == "multi_label" and sets(images) == [{"a", "b"}, set(), {"b"}, {"b", "c"}]
    numbers = open_images(table(tmp_path, {"label": [[1, 2], [2], [10]]}, "list.parquet"))
    assert numbers.classes == ("1", "10", "2") and sets(numbers) == [{"1", "2"}, {"2"}, {"10"}]
    assert "null" in refusal(table(tmp_path, {"label": [["a"], None]}, "list.parquet"))
    assert "list of NoneType" in refusal(table(tmp_path, {"label": [["a"], [None]]}, "list.parquet"))
    assert "a column each" in refusal(table(tmp_path, {"label": [[0.5], [1.5]]}, "list.parquet"))
    assert "several labels" in refusal(path, problem="single_label")


def test_columns_of_0_and_1(tmp_path: Path) -> None:
    columns = {"sun": [1, 0, 1, 0], "label": ["x", "y", "x", "y"], "rain": ["0", "true", "False", "1.0"]}
    path = table(tmp_path, columns)
    images = open_images(path, target=("sun", "RAIN"))
    assert images.problem == "multi_label" and images.classes == ("sun", "rain")
    assert images.labels.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert "--problem regression" in images.notes[0]
    assert open_images(path).problem == "single_label"
    assert "name one" in refusal(path, target=("sun", "rain"), problem="single_label")
    dry = table(tmp_path, {**columns, "snow": [0] * 4})
    assert "no image has label snow" in refusal(dry, target=("sun", "snow"))
    counted = table(tmp_path, {"sun": [1, 0, 2, 0], "rain": [0, 1, 1, 0]})
    assert open_images(counted, target=("sun", "rain")).problem == "regression"
    message = refusal(counted, target=("sun", "rain"), problem="multi_label")
    assert "row 4" in message and "'2'" in message and "hold 0 or 1" in message
    flags = table(tmp_path, {"sun": [1, 0]})
    assert "two columns or more" in refusal(flags, target=("sun",), problem="multi_label")


# numbers


def test_a_column_of_fractions_is_a_regression(tmp_path: Path) -> None:
    images = open_images(table(tmp_path, {"label": ["1.5", "2", "-3e2", ".25"]}))
    assert images.problem == "regression" and images.classes == ("label",)
    assert images.labels.dtype == np.float32 and images.labels.tolist() == [[1.5], [2], [-300], [0.25]]
    assert "numbers with fractions" in images.notes[0] and "--problem single_label" in images.notes[0]


@pytest.mark.parametrize(("different", "problem"), [(20, "single_label"), (21, "regression")])
def test_integers_are_classes_up_to_twenty(tmp_path: Path, different: int, problem: str) -> None:
    path = table(tmp_path, {"label": [*range(different)] * 2})
    images = open_images(path)
    assert images.problem == problem and f"{different} different integers" in images.notes[0]
    assert open_images(path, problem="single_label").classes == tuple(sorted(map(str, range(different))))
    assert open_images(path, problem="regression").labels[different - 1, 0] == different - 1


def test_few_integers_that_cannot_be_classes_may_be_numbers(tmp_path: Path) -> None:
    path = table(tmp_path, {"label": [1, 1, 2, 2, 7]})
    assert "single image in class 7" in refusal(path) and refusal(path).endswith("--problem regression")
    assert "--problem" not in refusal(table(tmp_path, {"label": ["a", "a", "2"]}))


def test_digit_classes_stay_classes(tmp_path: Path) -> None:
    assert open_images(table(tmp_path, {"label": [*range(10)] * 2})).classes == tuple("0123456789")
    codes = [f"{number:03d}" for number in range(30)] * 2
    assert open_images(table(tmp_path, {"label": codes})).classes == tuple(codes[:30])


def test_several_numbers_keep_their_order(tmp_path: Path) -> None:
    path = table(tmp_path, {"width": [1.5, 2, 3], "height": [4, 5, 6]})
    images = open_images(path, target=("height", "width"))
    assert images.problem == "regression" and images.classes == ("height", "width") and not images.boxes
    assert images.labels.tolist() == [[4, 1.5], [5, 2], [6, 3]]


@pytest.mark.parametrize("cell", ["n/a", "nan", "inf", "1e999", "1_000", "\u0663"])
def test_a_text_among_numbers_is_named(tmp_path: Path, cell: str) -> None:
    path = table(tmp_path, {"price": ["1.5", "2.5", cell, "4.5"]})
    for problem in ("auto", "regression"):
        message = refusal(path, target=("price",), problem=problem)
        assert "row 4" in message and "'price'" in message and repr(cell) in message and "3 of its 4" in message


def test_other_mistakes_with_numbers(tmp_path: Path) -> None:
    assert "decimal point" in refusal(table(tmp_path, {"label": ["1,5", "2,5", "3,25"]}))
    assert "row 3 has no label" in refusal(table(tmp_path, {"label": ["1.5", "", "3.25"]}))
    nothing = table(tmp_path, {"label": [1.5, float("nan"), 2.5]}, "list.parquet")
    assert "row 3 has no label" in refusal(nothing)
    assert "5 in every row" in refusal(table(tmp_path, {"label": ["5", "5", "5"]}), problem="regression")
    mixed = refusal(table(tmp_path, {"a": ["1.5", "2", "3"], "b": ["x", "y", "z"]}), target=("a", "b"))
    assert "row 2" in mixed and "'x'" in mixed and "one column of classes" in mixed
    (tmp_path / "twice.csv").write_text("path,label\n0.png,1.5\n1.png,2\n0.png,3\n")
    assert "one row of numbers" in refusal(tmp_path / "twice.csv")


# columns


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    path = table(tmp_path, {"colour": ["a", "b"], "age": [1, 2]})
    message = refusal(path, target=("color",))
    assert "no column 'color' for --target; nearest: colour" in message and "path, colour, age" in message
    assert "no column 'label'" in refusal(path) and "--target" in refusal(path)
    assert "twice" in refusal(path, target=("age", "AGE"))
    assert "no column 'bright' for --slices" in refusal(path, target=("colour",), slices=("bright",))


def test_a_folder_has_no_columns(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert "--target x,y names columns of a table" in refusal(tmp_path, target=("x", "y"))
    assert "--slices x names columns of a table" in refusal(tmp_path, slices=("x",))
    assert "needs a table" in refusal(tmp_path, problem="multi_label")
    assert open_images(tmp_path, problem="single_label").classes == ("a", "b")
    with pytest.raises(RegardError, match="--target y names columns of a table"):
        open_images("digits", target=("y",))


# a trained run


def test_labels_of_a_run_are_matched_by_name(tmp_path: Path) -> None:
    path = table(tmp_path, {"label": ["a|b", "b", "b"]})
    images = open_images(path, classes=("c", "b", "a"), problem="multi_label")
    assert images.classes == ("c", "b", "a") and images.labels.tolist() == [[0, 1, 1], [0, 1, 0], [0, 1, 0]]
    assert "not in the run: b" in refusal(path, classes=("a", "c"), problem="multi_label")
    columns = table(tmp_path, {"a": [1, 0], "b": [0, 1], "label": ["x", "y"]})
    assert open_images(columns, classes=("b", "a"), problem="multi_label").labels.tolist() == [[0, 1], [1, 0]]
    message = refusal(columns, classes=("b", "c"), problem="multi_label", target=("a", "b"))
    assert "missing here: c" in message and "not in the run: a" in message


def test_numbers_of_a_run_are_matched_by_name(tmp_path: Path) -> None:
    path = table(tmp_path, {"label": ["x", "y"], "age": [3, 3], "size": [1, 2]})
    images = open_images(path, classes=("size", "age"), problem="regression")
    assert images.classes == ("size", "age") and images.labels.tolist() == [[1, 3], [2, 3]]
    same = open_images(path, classes=("size", "age"), problem="regression", target=("age", "size"))
    assert np.array_equal(same.labels, images.labels)
    assert "not in the run: age" in refusal(path, classes=("size",), problem="regression", target=("age", "size"))
    assert "nearest: size" in refusal(path, classes=("sizes",), problem="regression")


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=60, deadline=None)
def test_every_finite_number_is_read_as_python_reads_it(value: float) -> None:
    assert number(repr(value)) == value


@given(st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=4), min_size=1, max_size=8), st.data())
@settings(max_examples=40, deadline=None)
def test_any_table_is_read_or_refused_in_one_line(own_cache: Path, rows: list[list[str]], data: st.DataObject) -> None:
    path = own_cache / "any table.csv"
    names = ["path", "label", "x", "y"]
    with open(path, "w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerows([names, *rows])
    problem = data.draw(st.sampled_from(["auto", "single_label", "multi_label", "regression"]))
    target = data.draw(st.sampled_from([(), ("x",), ("x", "y")]))
    try:
        content = read_table(path)
        ids = content.text(0)
        found = read_targets(content, ids, target, problem, None)
    except RegardError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1
    else:
        assert len(found.labels) == len(ids) and problem in ("auto", found.problem)
