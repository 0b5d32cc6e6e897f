"""Row 26: parsers of foreign files under random and mutated bytes: RegardError in one line, or an answer, and soon."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measured
import pytest
from figures import record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).parents[2] / "fuzz"
SECONDS, GROWTH = 1.0, 500e6  # per input; CPU, so that a busy machine does not fail


def load_targets() -> Any:
    found = importlib.util.spec_from_file_location("fuzz_targets", FUZZ / "targets.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


targets = load_targets()


@st.composite
def inputs(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Noise, or a whole file with some bytes changed, cut, doubled or put in."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == 1:
            data[place : place + 4] = draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\x80"]))
        elif kind == 2:
            data = data[:place]
        elif kind == 3:
            data[place:place] = data[place : place + draw(st.integers(1, 40))]
        else:
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
    return bytes(data)


@pytest.mark.parametrize("examples", [60, pytest.param(3000, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", targets.TARGETS)
@pytest.mark.filterwarnings("ignore")  # what Pillow warns of is an error or harmless; it is no part of the promise
def test_only_errors_of_ours(name: str, examples: int) -> None:
    target, tried, slowest = targets.TARGETS[name], 0, 0.0

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(inputs(targets.seeds(name)))
    def feed(data: bytes) -> None:
        nonlocal tried, slowest
        start = time.process_time()
        target(data)
        tried, slowest = tried + 1, max(slowest, time.process_time() - start)

    measured.start()
    before = measured.peak()
    feed()
    assert slowest < SECONDS
    assert measured.peak() - before < GROWTH
    record(26, f"mutated inputs of {name}, by hypothesis", tried, f"0 crashes in {tried:,}, at most {slowest:.2f} s")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_seed_is_answered_or_refused(name: str) -> None:
    for data in targets.seeds(name):
        targets.TARGETS[name](data)


@pytest.mark.long
@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_minute_of_coverage_guided_fuzzing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed")
    command = [sys.executable, str(FUZZ / "run.py"), name, str(tmp_path / "corpus"), "-max_total_time=60"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"Done (\d+) runs", done.stderr)
    assert found is not None, done.stderr[-3000:]
    runs = int(found[1])
    assert runs > 100
    record(26, f"inputs of {name} in a minute of atheris", runs, f"0 crashes in {runs:,}")
