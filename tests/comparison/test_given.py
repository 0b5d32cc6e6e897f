"""Predictions of any tool: tables to the same records and statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regard.comparison.given import file_tests, given_results, read_predictions
from regard.errors import RegardError


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_classes_and_labels_are_read(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", "path,label,class\n1.jpg,cat,cat\n2.jpg,dog,cat\n")
    found = read_predictions(file, None)
    assert found.ids == ("1.jpg", "2.jpg") and found.classes == ("cat", "dog")
    assert found.correct.tolist() == [True, False]


def test_probabilities_come_back_as_they_were(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", "path,label,cat,dog\n1.jpg,cat,0.75,0.25\n2.jpg,dog,0.1,0.9\n")
    assert np.allclose(read_predictions(file, None).probabilities(), [[0.75, 0.25], [0.1, 0.9]], atol=1e-6)


def test_labels_can_come_from_the_data_set(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", "path,class\n1.jpg,cat\n")
    assert read_predictions(file, {"1.jpg": "dog"}).correct.tolist() == [False]
    with pytest.raises(RegardError, match="no label column"):
        read_predictions(file, None)
    with pytest.raises(RegardError, match=r"1\.jpg"):
        read_predictions(file, {"2.jpg": "dog"})


def test_two_files_are_matched_by_path_and_tested(tmp_path: Path) -> None:
    rows = range(12)
    a = table(tmp_path / "a.csv", "path,label,class\n" + "".join(f"{row},x,x\n" for row in rows) + "12,y,y\n")
    b = table(tmp_path / "b.csv", "path,label,class\n12,y,y\n" + "".join(f"{row},x,y\n" for row in reversed(rows)))
    results = given_results([a, b], None)
    assert [result.test.correct.mean() for result in results] == [1.0, 1 / 13]
    (test,) = file_tests(results)
    assert (test.a, test.b, test.only_a, test.only_b) == ("a", "b", 12, 0)
    assert test.p_value == pytest.approx(2 * 0.5**12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label,class\ncat,cat\n", "no column path"),
        ("path,label\n1,cat\n", "neither a class column"),
        ("path,label,class\n1,cat,cat\n1,cat,cat\n", "twice"),
        ("", "not a readable table"),
    ],
)
def test_tables_that_do_not_fit_are_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RegardError, match=says):
        read_predictions(table(tmp_path / "a.csv", text), None)


def test_files_about_other_images_are_refused(tmp_path: Path) -> None:
    a = table(tmp_path / "a.csv", "path,label,class\n1,x,x\n2,y,y\n")
    b = table(tmp_path / "b.csv", "path,label,class\n1,x,x\n3,y,y\n")
    with pytest.raises(RegardError, match="differs"):
        given_results([a, b], None)
    with pytest.raises(RegardError, match="two files"):
        given_results([a], None)
