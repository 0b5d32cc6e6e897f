"""The figure of `explain --score`: many methods, odd names, and the numbers that it draws."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from regard.reporting.pictures.faithfulness import FaithfulnessPicture


@pytest.fixture
def picture() -> FaithfulnessPicture:
    rng = np.random.default_rng(0)
    names = (*(f"rollout+first={number}$" for number in range(9)), "random", "centre")
    curves = rng.normal(size=(11, 2, 2, 5))
    means = rng.normal(size=11)
    gains = np.stack([means, means - 0.2, means + 0.3], axis=1)
    return FaithfulnessPicture(
        "a_$model", 20, names, ("mean", "blur"), np.linspace(0, 1, 5), curves, np.full(curves.shape, 0.1), gains
    )


def test_curves_and_scores_are_those_of_the_record(picture: FaithfulnessPicture) -> None:
    *panels, scores = picture.figure().axes
    assert len(panels) == 4
    for place, panel in enumerate(panels):
        drawn = [line.get_ydata() for line in panel.lines]
        np.testing.assert_array_equal(drawn, picture.curves[:, place // 2, place % 2])
        assert len(panel.collections) == 9  # bands, of the methods only
    dots = [line.get_xdata()[0] for line in scores.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(dots, picture.gains[:, 0])
    assert [text.get_text() for text in scores.get_yticklabels()][-3:] == ["rollout+first=8\\$", "random", "centre"]


def test_lines_are_told_apart(picture: FaithfulnessPicture) -> None:
    lines = picture.figure().axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)


def test_the_table_has_each_point(picture: FaithfulnessPicture) -> None:
    rows = list(csv.DictReader(io.StringIO(picture.csv())))
    assert len(rows) == 11 * 2 * 2 * 5
    last = rows[-1]
    assert (last["map"], last["curve"], last["fill"], last["share"]) == ("centre", "insertion", "blur", "1")
    assert float(last["log_odds"]) == pytest.approx(picture.curves[-1, 1, 1, -1], rel=1e-5)
