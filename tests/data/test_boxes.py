"""Boxes: named in many ways, in pixels or shares, of photos that may lie on their side."""

from __future__ import annotations

import csv
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regard.data.boxes import BOX, box_columns, box_shares
from regard.data.checks import check_images
from regard.data.decoding import ORIENTATION, decode
from regard.data.sources import ImageSet, open_images
from regard.errors import RegardError


def photo(path: Path, width: int = 40, height: int = 20, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def opened(folder: Path, header: str, rows: list[tuple[Any, ...]], **named: Any) -> ImageSet:
    with open(folder / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return open_images(folder / "list.csv", **named)


@pytest.mark.parametrize(
    ("header", "box"),
    [
        ("path,x0,y0,x1,y1", (10, 5, 30, 20)),
        ("path,XMin,YMin,XMax,YMax", (10, 5, 30, 20)),
        ("path,x1,y1,x2,y2", (10, 5, 30, 20)),
        ("path,left,top,right,bottom", (10, 5, 30, 20)),
        ("path,x,y,w,h", (10, 5, 20, 15)),
        ("path,left,top,width,height", (10, 5, 20, 15)),
    ],
)
def test_columns_are_found_and_pixels_become_shares(tmp_path: Path, header: str, box: tuple[int, ...]) -> None:
    photo(tmp_path / "a.jpg")
    images = opened(tmp_path, header, [("a.jpg", *box)])
    assert images.boxes and images.problem == "regression" and images.classes == BOX
    assert images.labels.dtype == np.float32
    np.testing.assert_allclose(images.labels, [[0.25, 0.25, 0.75, 1.0]])
    assert "boxes" in images.notes[0] and images.notes[0].endswith("in pixels")


def test_a_target_in_any_order_is_a_box() -> None:
    for names in permutations(("w", "x", "h", "y")):
        found = box_columns(names)
        assert found is not None and found.names == ("x", "y", "w", "h") and found.sizes
    assert box_columns(("x", "y", "w", "z")) is None


def test_the_label_column_goes_first_and_a_run_of_boxes_knows_better(tmp_path: Path) -> None:
    for name in "ab":
        photo(tmp_path / f"{name}.jpg")
    header = "path,label,x,y,w,h"
    rows = [(f"{name}.jpg", label, 0, 0, 20, 10) for name, label in (("a", "u"), ("b", "v"))] * 2
    assert opened(tmp_path, header, [*rows, ("c.jpg", "u", *"0000"), ("d.jpg", "v", *"0000")]).problem == "single_label"
    images = opened(tmp_path, header, rows, classes=BOX, problem="regression")
    assert images.boxes and images.labels[0].tolist() == [0, 0, 0.5, 0.5]
    assert opened(tmp_path, header, rows, target=("h", "w", "y", "x")).boxes


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_photo_counts(tmp_path: Path, suffix: str, orientation: int) -> None:
    """A box over the whole upright photo, of a size that `decode` shows, is 0, 0, 1, 1."""
    height, width, _ = decode(photo(tmp_path / f"a.{suffix}", orientation=orientation)).shape
    assert (width < height) == (orientation >= 5)
    images = opened(tmp_path, "path,x,y,w,h", [(f"a.{suffix}", 0, 0, width, height)])
    assert images.labels.tolist() == [[0, 0, 1, 1]]


def test_no_photo_is_decoded_and_shares_need_no_photo_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jpg", "b.png"):
        photo(tmp_path / name)

    def refuse(self: Image.Image, *arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    images = opened(tmp_path, "path,x,y,w,h", [("a.jpg", 4, 2, 8, 8), ("b.png", 0, 0, 40, 20)])
    np.testing.assert_allclose(images.labels, [[0.1, 0.1, 0.3, 0.5], [0, 0, 1, 1]], rtol=1e-6)
    monkeypatch.setattr(Image, "open", refuse)
    images = opened(tmp_path, "path,x,y,w,h", [("a.jpg", 0.1, 0.1, 0.5, 0.9), ("gone.jpg", 0, 0, 1, 1)])
    np.testing.assert_allclose(images.labels, [[0.1, 0.1, 0.6, 1.0], [0, 0, 1, 1]], rtol=1e-6)
    assert images.notes[0].endswith("in shares of width and height")


@pytest.mark.parametrize(
    ("header", "box", "words"),
    [
        ("path,x0,y0,x1,y1", (10, 5, 41, 20), ["10, 5, 41, 20", "40 x 20 pixels", "outside"]),
        ("path,x0,y0,x1,y1", (-3, 5, 30, 20), ["outside"]),
        ("path,x0,y0,x1,y1", (30, 5, 10, 20), ["no area", "left < right"]),
        ("path,x,y,w,h", (10, 5, 0, 5), ["no area", "left, top, width, height"]),
        ("path,x,y,w,h", (10, 5, 31, 5), ["outside"]),
        ("path,x,y,w,h", (10, 5, "wide", 5), ["'w'", "'wide'"]),
    ],
)
def test_boxes_that_cannot_be(tmp_path: Path, header: str, box: tuple[Any, ...], words: list[str]) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "b.jpg")
    with pytest.raises(RegardError) as caught:
        opened(tmp_path, header, [("a.jpg", 1, 1, 9, 9), ("b.jpg", *box)])
    message = str(caught.value)
    assert "row 3" in message and ("b.jpg" in message or "wide" in message) and "\n" not in message
    assert all(word in message for word in words), message


def test_boxes_are_one_per_photo_and_no_classes(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    rows = [("a.jpg", 1, 1, 9, 9), ("a.jpg", 2, 2, 9, 9)]
    with pytest.raises(RegardError, match="one image has one box"):
        opened(tmp_path, "path,x,y,w,h", rows)
    with pytest.raises(RegardError, match="boxes are numbers"):
        opened(tmp_path, "path,x,y,w,h", rows[:1], problem="multi_label")


def test_a_photo_without_a_header_has_no_box_and_check_names_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        photo(tmp_path / f"{number:02d}.jpg")
        Image.fromarray(rng.integers(0, 255, (20, 40, 3), dtype=np.uint8)).save(tmp_path / f"{number:02d}.jpg")
        rows.append((f"{number:02d}.jpg", number % 7, 2, 8 + number % 9, 8))
    (tmp_path / "07.jpg").write_bytes(b"no photo")
    images = opened(tmp_path, "path,x,y,w,h", rows)
    assert np.isnan(images.labels).all(axis=1).tolist() == [number == 7 for number in range(40)]
    report = check_images(images, max_bad=0.1)
    assert report.unreadable == ("07.jpg",) and not report.spoils
    assert sum(report.images.values()) == 39


@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 10), st.integers(1, 10)),
        min_size=1,
        max_size=9,
    )
)
@settings(max_examples=40, deadline=None)
def test_corners_and_sizes_are_the_same_boxes(boxes: list[tuple[int, int, int, int]]) -> None:
    sizes = np.array(boxes, dtype=np.float64) / 100
    corners = np.concatenate([sizes[:, :2], sizes[:, :2] + sizes[:, 2:]], axis=1)
    rows = range(len(boxes))
    files = [Path("a")] * len(boxes)
    a, _ = box_shares("t", sizes, True, files, rows)
    b, unit = box_shares("t", corners, False, files, rows)
    np.testing.assert_allclose(a, b)
    assert unit.startswith("shares") and ((a >= 0) & (a <= 1)).all() and (a[:, 2:] > a[:, :2]).all()
