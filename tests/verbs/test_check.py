"""The verb `check`: what it composes, what it says, and what its exit code rests on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from regard.data.sources import open_images
from regard.errors import RegardError
from regard.results import CheckReport, Finding
from regard.verbs.check import check, check_opened, describe


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two splits of two classes, all pictures different."""
    seed = 0
    for name, count in {"train/cat": 30, "train/dog": 30, "test/cat": 10, "test/dog": 10}.items():
        (tmp_path / name).mkdir(parents=True)
        for number in range(count):
            noise = gaussian_filter(np.random.default_rng(seed).normal(size=(48, 48, 3)), (4, 4, 0))
            pixels = np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number:02d}.jpg")
            seed += 1
    return tmp_path


def test_a_clean_folder(photos: Path) -> None:
    events: list[dict[str, Any]] = []
    report = check(photos, on_event=events.append)
    assert isinstance(report, CheckReport) and not report.spoils
    assert report.counts["test"] == {"cat": 10, "dog": 10} and sum(report.counts["val"].values()) == 9
    assert report.decides.startswith("20 test photos")
    assert events[-1] == {"event": "progress", "title": "checking images", "done": 80, "total": 80}
    assert check(str(photos)) == report == check_opened(open_images(photos))


def test_what_spoils_is_said_and_leaked_photos_decide_nothing(photos: Path) -> None:
    shutil.copy(photos / "train" / "cat" / "00.jpg", photos / "test" / "dog" / "same.jpg")
    report = check(photos)
    assert report.spoils and report.leaked == ("test/dog/same.jpg",)
    assert report.decides.startswith("20 test photos")
    lines = describe(report)
    place = next(row for row, line in enumerate(lines) if line.startswith("ERROR") and "test image" in line)
    assert lines[place + 1].strip() == "train/cat/00.jpg = test/dog/same.jpg"


def test_the_share_of_unreadable_files_is_the_users_choice(photos: Path) -> None:
    (photos / "train" / "cat" / "07.jpg").write_bytes(b"")
    assert check(photos).spoils
    report = check(photos, max_bad=0.05)
    assert not report.spoils and report.unreadable == ("train/cat/07.jpg",)


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="no such folder"):
        check(tmp_path / "nowhere")


def test_the_table_has_a_line_per_class_and_adds_up(photos: Path) -> None:
    lines = describe(check(photos))
    assert lines[0].endswith("80 images, 2 classes")
    table = [re.split(r"\s{2,}", line) for line in lines[2:6]]
    assert table[0] == ["class", "train", "val", "test"]
    rows = {row[0]: list(map(int, row[1:])) for row in table[1:]}
    assert rows["all"] == [a + b for a, b in zip(rows["cat"], rows["dog"], strict=True)]
    assert sum(rows["all"]) == 80 and rows["cat"][2] == 10


def test_long_lists_are_cut_and_hostile_names_are_harmless() -> None:
    ids = tuple(f"a/{number}.jpg" for number in range(12))
    findings = (
        Finding("corrupt", "error", "12 files cannot be read: empty", ids),
        Finding("odd", "warning", "class \x1b[2J is odd", ("a/\x1b[31m\nred.jpg",)),
    )
    counts = {split: {"a": 6, "b\n": 0} for split in ("train", "val", "test")}
    images = dict.fromkeys(counts, 6)
    lines = describe(CheckReport("x", ("a", "b\n"), counts, findings, decides="nothing", images=images))
    assert sum(".jpg" in line for line in lines) == 6
    assert any(line.strip() == "and 7 more" for line in lines)
    assert all(line.isprintable() for line in lines)
