"""Predictions of any tool: tables to the same records and statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regard.comparison.compare import candidates, verdicts
from regard.comparison.given import file_tests, given_results, read_numbers, read_predictions
from regard.data.sources import ImageSet
from regard.errors import RegardError
from regard.results import Problem


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


def images_of(problem: Problem, labels: list[list[float]], names: tuple[str, ...]) -> ImageSet:
    ids = tuple(f"{row}.jpg" for row in range(len(labels)))
    return ImageSet("photos", ids, np.array(labels, np.float32), names, ("",) * len(ids), ids, problem=problem)


def test_several_labels_are_probabilities_in_columns(tmp_path: Path) -> None:
    images = images_of("multi_label", [[1, 0], [0, 1], [1, 1]], ("hat", "coat"))
    a = table(tmp_path / "a.csv", "path,coat,hat\n0.jpg,0.2,0.75\n1.jpg,1,0\n2.jpg,0.9,0.6\n")
    b = table(tmp_path / "b.csv", "path,hat,coat\n2.jpg,0,1\n1.jpg,1,0\n0.jpg,0,1\n")
    first, second = given_results([a, b], images)
    assert first.problem == "multi_label" and second.test.ids == first.test.ids
    assert np.allclose(first.test.probabilities(), [[0.75, 0.2], [0, 1], [0.6, 0.9]], atol=1e-6)
    assert np.allclose(second.test.probabilities(), [[0, 1], [1, 0], [0, 1]], atol=1e-6)
    assert (first.test.labels == images.labels).all() and len(first.val) == 0
    assert file_tests([first, second]) == []
    best = candidates([second, first])[0]
    assert (best.name, best.validation) == ("a", 1.0)
    (found,) = verdicts(candidates([first, second]), 0.01)
    assert found.metric == "lrap" and found.outcome == "undecided"


def test_numbers_are_columns(tmp_path: Path) -> None:
    images = images_of("regression", [[1, 10], [2, 20], [3, np.nan]], ("age", "weight"))
    a = table(tmp_path / "a.csv", "file,age,weight,other\n0.jpg,1,10,x\n1.jpg,2,21,x\n2.jpg,3,5,x\n")
    b = table(tmp_path / "b.csv", "file,age,weight\n0.jpg,4,10\n1.jpg,2,20\n2.jpg,3,5\n")
    results = given_results([a, b], images)
    assert results[0].test.logits.tolist() == [[1, 10], [2, 21], [3, 5]]
    assert [one.name for one in candidates(results)] == ["a", "b"]  # mae .25 and .5
    assert verdicts(candidates(results), 0.01)[0].metric == "scaled_mae"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,hat\n0.jpg,1\n", "no column 'coat'"),
        ("path,hat,coat\n9.jpg,1,0\n", "9.jpg' is no image"),
        ("path,hat,coat\n0.jpg,1,0\n0.jpg,1,0\n", "twice"),
        ("path,hat,coat\n0.jpg,1,7\n", "expected probabilities"),
        ("path,hat,coat\n0.jpg,1,\n", "empty cell"),
        ("path,hat,coat\n0.jpg,1,often\n", "not all cells are numbers"),
    ],
)
def test_columns_that_do_not_fit_are_one_line(tmp_path: Path, text: str, says: str) -> None:
    images = images_of("multi_label", [[1, 0], [0, 1]], ("hat", "coat"))
    with pytest.raises(RegardError, match=says):
        read_numbers(table(tmp_path / "a.csv", text), images)


def test_numbers_about_other_images_are_refused(tmp_path: Path) -> None:
    images = images_of("regression", [[1], [2]], ("age",))
    a = table(tmp_path / "a.csv", "path,age\n0.jpg,1\n1.jpg,2\n")
    b = table(tmp_path / "b.csv", "path,age\n0.jpg,1\n")
    with pytest.raises(RegardError, match=r"differs from .* \(first: '1.jpg'\)"):
        given_results([a, b], images)


def test_files_about_other_images_are_refused(tmp_path: Path) -> None:
    a = table(tmp_path / "a.csv", "path,label,class\n1,x,x\n2,y,y\n")
    b = table(tmp_path / "b.csv", "path,label,class\n1,x,x\n3,y,y\n")
    with pytest.raises(RegardError, match="differs"):
        given_results([a, b], None)
    with pytest.raises(RegardError, match="two files"):
        given_results([a], None)
