"""The page of figures: made from what the tests recorded, and committed as it is made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import figures
import pytest
import write_table


@pytest.mark.skipif(bool(os.environ.get(figures.SWITCH)), reason="figures are being recorded; the page comes after")
def test_the_committed_page_is_what_the_records_give() -> None:
    found = {int(path.stem): json.loads(path.read_text()) for path in write_table.FOLDER.glob("*.json")}
    assert found.keys() <= write_table.ROWS.keys()
    assert write_table.PAGE.read_text() == write_table.page(found), "run `make reliability`"


def test_full_counts_take_the_place_of_a_tenth() -> None:
    entries = {
        "tests/reliability/test_x.py::test_a[1]": {"requirement": "flips", "count": 10, "outcome": "0 of 10 silent"},
        "tests/reliability/test_x.py::test_a[10]": {"requirement": "flips", "count": 100, "outcome": "0 | silent"},
        "tests/reliability/test_x.py::test_b": {"requirement": "holes", "count": 3, "outcome": "0 of 3 silent"},
    }
    text = write_table.page({2: entries})
    assert "0 of 10 silent" not in text
    assert r"| flips: 100 | 0 \| silent | [test_x.py](../tests/reliability/test_x.py) |" in text
    assert "| 3 | A save is all or nothing | not recorded |" in text


def test_nothing_is_recorded_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "figures")
    monkeypatch.delenv(figures.SWITCH, raising=False)
    figures.record(2, "flips", 3, "fine")
    assert not (tmp_path / "figures").exists()
    monkeypatch.setenv(figures.SWITCH, "1")
    figures.record(2, "flips", 3, "fine")
    (entry,) = json.loads((tmp_path / "figures" / "02.json").read_text()).items()
    assert entry[0].endswith("test_nothing_is_recorded_unless_asked_for")
    assert entry[1] == {"requirement": "flips", "count": 3, "outcome": "fine"}
