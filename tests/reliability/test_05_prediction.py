"""Row 5: prediction loses and misfiles nothing, killed or not, alone or with others, in memory that stays flat."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from bad_photos import KINDS, colour, write_photos
from figures import record

Ask = Callable[[Any], list[int]]
SIZES = [pytest.param(1_000, id="1,000"), pytest.param(10_000, id="10,000", marks=pytest.mark.long)]
HOW = ("at once", "before", "after")


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Runs jobs in processes of their own (predicting.py); returns their exit codes."""
    script = Path(__file__).with_name("predicting.py")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout

        def ask(job: Any) -> list[int]:
            assert server.stdin and server.stdout
            print(json.dumps(job), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield ask
        server.stdin.close()


def job(photos: Path, out: Path, count: int, kill: int | None = None, how: str = "at once") -> dict[str, Any]:
    return {"photos": [str(photos)], "out": str(out), "rows": max(64, count // 40), "kill": kill, "how": how}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected_probability(number: int) -> float:
    """Of the first class, by hand: softmax of the normalised mean colour."""
    scores = np.append(np.array(colour(number)) / 127.5 - 1, 0)
    return float((np.exp(scores) / np.exp(scores).sum()).max())


@pytest.mark.parametrize(("count", "kills"), [(1_000, 6), pytest.param(10_000, 20, marks=pytest.mark.long)])
def test_every_photo_has_its_row_however_often_it_was_killed(ask: Ask, tmp_path: Path, count: int, kills: int) -> None:
    bad = count * 3 // 100
    written = write_photos(tmp_path / "photos", count, bad)
    photos, whole, killed = tmp_path / "photos", tmp_path / "whole", tmp_path / "killed"
    assert ask(job(photos, whole, count)) == [0]

    instants = np.sort(np.random.default_rng(0).integers(0, count * 9 // 10, kills))
    for number, instant in enumerate(instants):
        codes = ask(job(photos, killed, count, int(instant), HOW[number % len(HOW)]))
        assert codes == [-signal.SIGKILL]
    assert ask(job(photos, killed, count)) == [0]
    assert tree(killed) == tree(whole)
    said = json.loads(Path(f"{killed}.json").read_text())
    assert (said["photos"], said["errors"]) == (count, bad)
    assert count // 2 < said["continued"] < count

    rows = pq.read_table(sorted(whole.glob("*.parquet"))).to_pylist()
    assert len(rows) == len({row["path"] for row in rows}) == count
    assert {row["path"] for row in rows} == set(written)
    for row in rows:
        number = written[row["path"]]
        if isinstance(number, str):
            assert (row["error"], row["class"], row["probability"]) == (number, None, None)
        else:
            assert not row["error"]
            assert row["probability"] == pytest.approx(expected_probability(number), abs=1e-5)
            assert row["bytes"] == Path(row["path"]).stat().st_size
    assert len({row["error"] for row in rows}) == len({code for _, code in KINDS.values()}) + 1
    outcome = f"{count:,} rows, {bad} error codes of {len(KINDS)} kinds, {kills} kills, the bytes of an undisturbed run"
    record(5, f"{count:,} photos, {bad} bad, killed {kills} times", count, outcome)


@pytest.mark.parametrize("count", SIZES)
def test_processes_that_share_a_folder_write_what_one_writes(ask: Ask, tmp_path: Path, count: int) -> None:
    photos, alone, shared = tmp_path / "photos", tmp_path / "alone", tmp_path / "shared"
    write_photos(photos, count, count * 3 // 100)
    assert ask(job(photos, alone, count)) == [0]
    three = [job(photos, shared, count), job(photos, shared, count, count // 3), job(photos, shared, count)]
    # The second is killed unless the others were so quick that it saw nothing of the first third.
    codes = ask(three)
    assert (codes[0], codes[2]) == (0, 0)
    assert codes[1] in (0, -signal.SIGKILL)
    assert tree(shared) == tree(alone)


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, id="100,000", marks=pytest.mark.long)])
def test_memory_stays_flat(ask: Ask, tmp_path: Path, count: int) -> None:
    photos = tmp_path / "photos"
    write_photos(photos, 100, 3)
    for number in range(1, count // 100):
        (tmp_path / "photos" / f"x{number}").symlink_to(photos / "000")
    assert ask(job(photos, tmp_path / "out", count)) == [0]
    said = json.loads((tmp_path / "out.json").read_text())
    assert said["photos"] == count
    assert said["late"] - said["early"] < 50
    record(5, "memory from a tenth of the photos to the end", count, f"{said['late'] - said['early']:+.0f} MB")
