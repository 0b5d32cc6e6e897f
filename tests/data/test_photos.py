from __future__ import annotations

import os
from pathlib import Path

import pytest

from regard.data.photos import find_photos
from regard.data.sources import list_photos
from regard.errors import RegardError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_the_order_and_ids_are_those_of_list_photos(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    for name in (
        "b.jpg",
        "a.png",
        "B.PNG",
        "sea/c.webp",
        "sea/x/ü.tif",
        ".hidden.png",
        "new\nline.gif",
        "__MACOSX/a.jpg",
    ):
        touch(folder / name)
    touch(folder / "diary.txt")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to("nowhere")
    odd = touch(tmp_path / "odd.xyz")
    given = [odd, folder, str(folder / "a.png"), folder / "a.png"]
    found = find_photos(given)
    ids, files = list_photos(given)
    assert tuple(found.id(place) for place in range(len(found))) == ids
    assert tuple(Path(found.path(place)) for place in range(len(found))) == files
    assert len(found) == 10
    assert found.id(9).endswith("a.png#3")


def test_a_number_that_exists_is_passed_over(tmp_path: Path) -> None:
    a, taken = touch(tmp_path / "a.png"), touch(tmp_path / "a.png#2")
    found = find_photos([a, taken, a])
    assert [Path(found.id(place)).name for place in range(3)] == ["a.png", "a.png#2", "a.png#3"]


def test_a_name_that_is_no_utf8_has_a_readable_id(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    with open(path, "wb"):
        pass
    found = find_photos([tmp_path])
    assert os.fsencode(found.path(0)) == path
    assert found.id(0).endswith("/\\xff.png")


def test_the_digest_tells_names_and_order_apart(tmp_path: Path) -> None:
    a, b = touch(tmp_path / "a.png"), touch(tmp_path / "b.png")
    digests = {find_photos(paths).digest for paths in ([a], [b], [a, b], [b, a], [a, b, b])}
    assert len(digests) == 5
    assert find_photos([tmp_path]).digest == find_photos([a, b]).digest


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for paths, word in (
        ([tmp_path / "none.png"], "no such file"),
        ([tmp_path / "empty"], "no images"),
        ([], "no photos"),
    ):
        with pytest.raises(RegardError, match=word):
            find_photos(paths)
