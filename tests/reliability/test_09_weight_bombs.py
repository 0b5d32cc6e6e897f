"""Row 9: weight bombs are refused before anything is allocated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from figures import record
from weight_files import BOMBS, well_said

MEASURE = """
import json, sys, time
from pathlib import Path
from measured import peak, start
from regard.errors import RegardError
from regard.weights import read_state

for path in map(Path, sys.argv[1:]):
    start()
    before, began = peak(), time.process_time()
    try:
        read_state(path)
    except RegardError as error:
        print(json.dumps([str(error), time.process_time() - began, peak() - before]))
"""


# What takes a second to build, or to read as far as the limit.
HEAVY = ("deflated", "99 MB", "1,000,000", "600,000")


@pytest.mark.parametrize("heavy", [False, pytest.param(True, marks=pytest.mark.long)])
def test_bombs_are_refused_within_a_second_and_without_growing(tmp_path: Path, heavy: bool) -> None:
    """In a process of its own, whose peak memory building the bombs has not raised already."""
    bombs = {kind: make for kind, make in BOMBS.items() if heavy or not any(word in kind for word in HEAVY)}
    assert len(bombs) >= 12
    paths = []
    for number, make in enumerate(bombs.values()):
        paths.append(tmp_path / f"{number}.bin")
        paths[-1].write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(bombs)
    for (message, seconds, grown), kind, path in zip(rows, bombs, paths, strict=True):
        well_said(message, path)
        assert seconds < 1.0, kind
        assert grown < path.stat().st_size + 100e6, kind
    worst = max(seconds for _, seconds, _ in rows)
    record(9, "weight bombs", len(bombs), f"{len(rows)} of {len(bombs)} refused, the slowest in {worst:.2f} s of CPU")
