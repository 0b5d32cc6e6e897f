from __future__ import annotations

import os
from pathlib import Path

import pytest

from regard.errors import RegardError
from regard.verbs.segmenting.photos import Photos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "a.png", "A.webp", "b.png", "sub/b.png", "sub/f_10.png", "sub/f_9.png", "note.txt"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "photos"


def test_names_lie_below_the_folder_and_are_unique(folder: Path) -> None:
    photos = Photos([folder])
    assert photos.root == str(folder)
    assert photos.files == ["A.webp", "a.jpg", "a.png", "b.png", "sub/b.png", "sub/f_10.png", "sub/f_9.png"]
    assert photos.names == ["A", "a-2", "a-3", "b", "sub/b", "sub/f_10", "sub/f_9"]
    assert [photos.path(place) for place in range(2)] == [str(folder / "A.webp"), str(folder / "a.jpg")]


def test_patterns_files_and_folders_each_photo_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = Photos([folder / "b.png", str(folder / "*.png"), folder / "sub"])
    assert photos.files == ["b.png", "a.png", "sub/b.png", "sub/f_10.png", "sub/f_9.png"]
    monkeypatch.chdir(folder)
    assert Photos(["**/b.png"]).files == ["b.png", "sub/b.png"]
    assert Photos(["a.jpg"]).root == os.getcwd()
    (folder / "[x].png").write_bytes(b"x")
    assert Photos(["[x].png"]).files == ["[x].png"]
    with pytest.raises(RegardError, match=r"\*\.gif: no such file"):
        Photos(["*.gif"])


def test_frames_come_in_the_order_of_their_numbers(folder: Path) -> None:
    assert Photos([folder / "sub"], frames=True).files == ["b.png", "f_9.png", "f_10.png"]
