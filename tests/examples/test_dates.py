"""The example's sentences, its figures of the architecture, and, in `long`, what it promises."""

from __future__ import annotations

import importlib.util
import sys
from datetime import date
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from regard.models import create_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "dates.py"


@pytest.fixture(scope="module")
def dates() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dates", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["dates"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("day", "style", "manner", "said"),
    [
        (date(1984, 3, 3), 0, 0, "the third of march nineteen eighty four"),
        (date(1984, 3, 3), 4, 1, "on saturday the third of march nineteen hundred and eighty four"),
        (date(1905, 12, 31), 1, 0, "december the thirty first nineteen oh five"),
        (date(1700, 2, 20), 2, 0, "february twentieth seventeen hundred"),
        (date(1611, 2, 22), 3, 2, "the twenty second day of february in the year one thousand six hundred and eleven"),
        (date(2000, 1, 30), 5, 1, "sunday january thirtieth two thousand"),
        (date(2040, 11, 12), 2, 2, "november twelfth two thousand and forty"),
    ],
)  # fmt: skip
def test_dates_are_said_as_people_say_them(dates: ModuleType, day: date, style: int, manner: int, said: str) -> None:
    assert " ".join(dates.sentence(day, style, manner)) == said


def test_a_sentence_means_one_day(dates: ModuleType) -> None:
    """Many days in every style and manner: no sentence twice for two days, and all words are known."""
    meaning: dict[str, str] = {}
    for number in range(0, (dates.LAST - dates.FIRST).days, 97):
        day = date.fromordinal(dates.FIRST.toordinal() + number)
        for style in range(6):
            for manner in range(3):
                sentence = dates.sentence(day, style, manner)
                assert meaning.setdefault(" ".join(sentence), day.isoformat()) == day.isoformat()
                assert set(sentence) <= set(dates.VOCABULARY.words)
                assert dates.LENGTHS[0][0] <= len(sentence) <= dates.LENGTHS[-1][1]


def test_no_day_is_trained_and_tested_on(dates: ModuleType) -> None:
    days = dates.split_dates()
    assert len(days.test) == 2000 and not set(days.train) & set(days.test)
    assert len(days.train) + 2000 == (dates.LAST - dates.FIRST).days + 1 == len(set(days.train) | set(days.test))
    first, again = (next(dates.training_batches(days.train, 8, 0)(5)) for _ in range(2))
    other = next(dates.training_batches(days.train, 8, 0)(6))
    assert torch.equal(first.source, again.source) and torch.equal(first.target, again.target)
    assert not torch.equal(first.target, other.target)
    written = ["".join(dates.VOCABULARY.decode(row[:-1])) for row in first.target.tolist()]
    days_of_batch = {(date.fromisoformat(one) - dates.FIRST).days for one in written}
    assert days_of_batch <= set(days.train.tolist())


@pytest.mark.parametrize(("name", "layers"), [("transformer_tiny", 1), ("gru_tiny", 1), ("bytenet_tiny", None)])
def test_layers_until_all_is_seen_are_those_that_gradients_find(
    dates: ModuleType, name: str, layers: int | None
) -> None:
    torch.manual_seed(0)
    model = create_model(name, len(dates.VOCABULARY)).eval()
    for n in (2, 3, 8, 17):
        computed = dates.sheet(model, n).layers
        assert dates.layers_by_gradient(model, ["the"] * (n - 1)) == computed
        assert layers is None or computed == layers
    if name == "bytenet_tiny":  # dilations 1, 2, 4, 8 reach 1, 3, 7, 15 columns; twice that is 30
        assert [dates.sheet(model, n).layers for n in (2, 4, 8, 16, 17, 31, 32, 100)] == [1, 2, 3, 4, 5, 8, 9, 28]
        assert dates.layers_by_gradient(model, ["the"] * 31) is None


@pytest.mark.parametrize("name", ["transformer_tiny", "gru_tiny", "gru_attention_tiny", "bytenet_tiny"])
def test_memory_is_square_for_patterns_and_linear_for_all_else(dates: ModuleType, name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, len(dates.VOCABULARY)).eval()
    for fused in (True, False) if name == "transformer_tiny" else (True,):
        a, b, c = (dates.kept(model, n, fused) for n in (32, 64, 96))
        square = 0 if fused else dates.sheet(model, 32).square
        assert a < b < c and c - 2 * b + a == 2 * square * 32**2


def test_it_runs_and_prints_its_table(dates: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    found = dates.main(("gru_tiny", "bytenet_tiny"), steps=2, batch_size=4, tested=20)
    assert found.keys() == {"gru_tiny", "bytenet_tiny"} and all(0 <= share <= 1 for share in found.values())
    lines = capsys.readouterr().out.splitlines()
    head, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    assert [row[0] for row in rows] == ["gru_tiny", "bytenet_tiny"]
    assert all(len(row) == len(head) for row in rows)


@pytest.mark.long
def test_the_transformer_writes_more_than_99_of_100_dates_without_a_mistake(dates: ModuleType) -> None:
    assert dates.main(("transformer_tiny",))["transformer_tiny"] > 0.99


@pytest.mark.long
def test_a_run_repeats(dates: ModuleType) -> None:
    shares = [dates.main(("gru_attention_tiny",), steps=300, tested=200) for _ in range(2)]
    assert shares[0] == shares[1] and np.isfinite(list(shares[0].values())).all()
