"""What the tests of the reliability rows found, kept for docs/reliability.md.

A test calls `record` after its assertions. Only under `pytest --record` does anything happen: docs/reliability/ROW.json
is written, one entry per test, and `python tests/reliability/write_table.py` makes the page from these files. For the
figures of the page: `pytest --record -m "long or not long" tests/reliability`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "reliability"
SWITCH = "REGARD_RECORD"  # set by tests/conftest.py, so that processes started by a test know it too


def record(row: int, requirement: str, count: int, outcome: str) -> None:
    """Keep one figure.

    row: of the list of requirements; requirement: what was tested, in a few words; count: inputs tried; outcome: what
    came of it, a few words with the figure ("60 of 60 refused").
    """
    if not os.environ.get(SWITCH):
        return
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
    path = FOLDER / f"{row:02}.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    entries[test] = {"requirement": requirement, "count": count, "outcome": outcome}
    FOLDER.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
