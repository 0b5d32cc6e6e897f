"""What a file may say otherwise, and what it may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regard.errors import RegardError
from regard.exporting.agreement import Agreement, Differences, photos_to_check

WANTED = {"logits": np.array([[1.0, -2.0], [4.0, 0.5]])}


def test_the_largest_difference_of_all_answers_counts() -> None:
    differences = Differences("model.onnx", "an engine")
    differences.add({"logits": WANTED["logits"] + 1e-5}, WANTED)
    differences.add({"logits": WANTED["logits"] - 2e-5}, WANTED)
    (found,) = differences.agreements()
    assert found == Agreement("model.onnx", "an engine", "logits", pytest.approx(2e-5 / 4))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (WANTED["logits"] + 1e-3, "logits differs by 2.5e-04 of the largest, at most 1e-04 is allowed"),
        (WANTED["logits"] * np.nan, "logits differs by nan of the largest"),
        (WANTED["logits"][:1], r"logits has shape \(1, 2\), the model's \(2, 2\)"),
    ],
)
def test_what_differs_is_refused_in_a_line(answer: np.ndarray, words: str) -> None:
    with pytest.raises(RegardError, match=rf"model\.onnx: says something else in an engine: {words}"):
        Differences("model.onnx", "an engine").add({"logits": answer}, WANTED)


def test_photos_are_the_users_or_two_that_are_there_anyway() -> None:
    assert photos_to_check((Path("a.jpg"),)) == [Path("a.jpg")]
    shapes = [np.asarray(photo).shape for photo in photos_to_check(())]
    assert shapes == [(427, 640, 3), (427, 640, 3)]
