"""`regard explain --boxes`: the object in the photo, in what the model sees of it, and how much of a map lies there."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from brightness import Brightness
from PIL import Image

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, load_model
from regard.verbs.explain import explain
from regard.verbs.explaining.boxes import Boxes, read_boxes

SQUARES = ((10, 20, 30, 40), (50, 10, 60, 20))  # left, top, right, bottom of what is bright, by photo


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    preprocess = Preprocess(32, 1.0, "squash", "bilinear", (0, 0, 0), (1, 1, 1))
    return load_model(Brightness(), preprocess=preprocess, classes=("bright", "dark"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (left, top, right, bottom) in enumerate(SQUARES):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[top:bottom, left:right] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def table(photos: Path, text: str) -> Path:
    path = photos / "boxes.csv"
    path.write_text(text)
    return path


def test_all_of_the_map_is_inside_the_box_of_what_it_is_of(model: LoadedModel, photos: Path, tmp_path: Path) -> None:
    boxes = table(photos, "path,x0,y0,x1,y1\n0.png,10,20,30,40\n1.png,10,20,30,40\n")
    out = tmp_path / "out"
    found = explain(model, sorted(photos.glob("*.png")), out=out, method="gradcam", target="bright", boxes=boxes)
    with open(out / "boxes.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["path"], first["method"], first["class"]) == (str(photos / "0.png"), "gradcam", "bright")
    assert float(first["inside"]) > 0.85  # a blurred edge of half a cell lies outside
    assert (first["peak_inside"], second["peak_inside"]) == ("true", "false")
    assert float(second["inside"]) < 0.05  # the box is not where the second photo is bright
    area = 20 * 20 / 64**2
    assert float(first["area"]) == pytest.approx(area, rel=1e-5)
    (row,) = found.rows
    assert row.inside is not None
    assert row.inside.photos == 2
    assert row.inside.inside.value == pytest.approx((float(first["inside"]) + float(second["inside"])) / 2, abs=1e-5)
    assert row.inside.peak_inside.value == 0.5
    assert row.inside.area == pytest.approx(area, rel=1e-5)
    assert 0 < row.inside.centre < 1
    lines = list(found.lines())
    assert lines[1].split("  ")[-1] == "photos"
    assert lines[2].split()[-2:] == ["50.0%", "2"]
    assert "Peak inside" in (out / "index.html").read_text()


def test_a_box_is_moved_into_what_the_model_sees() -> None:
    boxes = Boxes({"a": np.array([[0.1, 0.25, 0.5, 0.75], [0.0, 0.0, 0.05, 1.0]])}, {"a": ("dog", "hat")}, True, "")
    # 200 x 100 pixels, of which the middle 80 x 80 are seen: the dog's box is 20..100 x 25..75.
    seen = boxes.seen("a", "dog", 100, 200, (60, 10, 140, 90))
    np.testing.assert_allclose(seen, [[0, 15 / 80, 40 / 80, 65 / 80]])
    assert len(boxes.seen("a", "hat", 100, 200, (60, 10, 140, 90))) == 0  # lies outside
    assert len(boxes.seen("b", "dog", 100, 200, (60, 10, 140, 90))) == 0
    every = Boxes(boxes.of, {}, False, "").seen("a", "dog", 100, 200, (0, 0, 200, 100))
    np.testing.assert_allclose(every, boxes.of["a"])


def test_boxes_are_read_in_the_ways_of_tables(photos: Path) -> None:
    files = sorted(photos.glob("*.png"))
    ids = [str(file) for file in files]
    text = "file;left;top;width;height;class\n0.png;16;0;16;32;dark\n0.png;0;0;64;64;bright\nx.png;1;1;2;2;zebra\n"
    found = read_boxes(table(photos, text), ids, files, ("bright", "dark"))
    np.testing.assert_allclose(found.of[ids[0]], [[0.25, 0, 0.5, 0.5], [0, 0, 1, 1]])
    assert found.classes[ids[0]] == ("dark", "bright")
    assert found.named
    assert "2 boxes of 1 photos, in pixels; 1 photos have none; 1 of its photos are not among those" in found.note
    shares = read_boxes(table(photos, "path,x0,y0,x1,y1\n1.png,0.1,0.2,0.3,0.4\n"), ids, files, ("bright",))
    np.testing.assert_allclose(shares.of[ids[1]], [[0.1, 0.2, 0.3, 0.4]])
    assert not shares.named


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("path,x0,y0,x1\n0.png,1,2,3\n", "no column of boxes (x0, y0, x1, y1); columns found: path, x0, y0, x1"),
        ("x0,y0,x1,y1\n1,2,3,4\n", "no column of paths (path)"),
        ("path,x0,y0,x1,y1\n0.png,1,2,x,4\n", "row 2: column 'x1' holds 'x', which is no finite number"),
        ("path,x0,y0,x1,y1\n0.png,1,2,3,4\n0.png,9,2,3,\n", "row 3: column 'y1' holds ''"),
        ("path,x0,y0,x1,y1\n0.png,9,2,3,4\n", "has no area"),
        ("path,x0,y0,x1,y1\n0.png,1,2,3,400\n", "lies outside of its photo"),
        ("path,x0,y0,x1,y1\na.png,1,2,3,4\nb.png,1,2,3,4\n", "none of the 2 photos given is among the 2 of the table"),
        ("path,x0,y0,x1,y1\n", "none of the 2 photos given is among the 0 of the table"),
        ("path,x0,y0,x1,y1,class\n0.png,1,2,3,4,zebra\n", "holds 'zebra', no class of the model (bright, dark)"),
    ],
)
def test_a_table_that_is_no_table_of_boxes(model: LoadedModel, photos: Path, text: str, match: str) -> None:
    with pytest.raises(RegardError) as error:
        explain(model, sorted(photos.glob("*.png")), out=photos / "out", boxes=table(photos, text))
    assert match in str(error.value)
    assert "\n" not in str(error.value)
    assert not (photos / "out").exists()


def coco(photos: Path, *annotations: dict, **changed: object) -> Path:
    images = [{"id": 10 + n, "file_name": f"{n}.png", "height": 64, "width": 64} for n in (0, 1, 7)]
    document = {
        "images": images,
        "annotations": [{"image_id": 10, "category_id": 1, **one} for one in annotations],
        "categories": [{"id": 1, "name": "dark"}, {"id": 2, "name": "zebra"}],
    }
    (photos / "annotations").mkdir(exist_ok=True)
    path = photos / "annotations" / "instances_val.json"
    path.write_text(json.dumps(document | changed))
    return path


def test_boxes_of_coco_are_left_top_width_height_in_pixels(photos: Path) -> None:
    files = sorted(photos.glob("*.png"))
    ids = [str(file) for file in files]
    whole, beyond = {"bbox": [16, 0, 16, 32]}, {"image_id": 11, "bbox": [32, 32, 40, 32.5]}
    gone, crowd, strange = (
        {"bbox": [70, 0, 9, 9]},
        {"bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"image_id": 17, "bbox": [0] * 4},
    )
    found = read_boxes(coco(photos, whole, beyond, gone, crowd, strange), ids, files, ("bright", "dark"))
    np.testing.assert_allclose(found.of[ids[0]], [[0.25, 0, 0.5, 0.5]])
    np.testing.assert_allclose(found.of[ids[1]], [[0.5, 0.5, 1, 1]])
    assert found.named and found.classes == {ids[0]: ("dark",), ids[1]: ("dark",)}
    assert "2 boxes of 2 photos, in pixels; 1 of its photos are not among those given" in found.note
    other = read_boxes(coco(photos, whole, {"bbox": [0, 0, 9, 9], "category_id": 2}), ids, files, ("bright", "dark"))
    assert not other.named and len(other.of[ids[0]]) == 2
    assert "categories that are no classes of the model: every box counts" in other.note


@pytest.mark.parametrize(
    ("annotation", "changed", "match"),
    [
        ({"bbox": [1, 2, 3]}, {}, "annotation (no id): its bbox is [1, 2, 3]; expected left, top, width, height"),
        ({"bbox": [1, 2, 3, "x"], "id": 4}, {}, "annotation 4: its bbox is"),
        ({"bbox": [1, 2, 3, 4], "image_id": 5}, {}, "an annotation is of image 5, which is not among its images"),
        ({}, {}, "annotations 0: lacks bbox"),
        ({"bbox": [1, 2, 3, 4]}, {"images": 3}, "images is no list"),
        ({"bbox": [1, 2, 3, 4]}, {"images": [], "annotations": []}, "none of the 2 photos given is among its 0 images"),
    ],
)
def test_a_file_that_is_no_coco_of_these_photos(
    model: LoadedModel, photos: Path, annotation: dict, changed: dict, match: str
) -> None:
    with pytest.raises(RegardError) as error:
        explain(model, sorted(photos.glob("*.png")), out=photos / "out", boxes=coco(photos, annotation, **changed))
    assert match in str(error.value)
    assert "\n" not in str(error.value)
    assert not (photos / "out").exists()


def test_no_such_table(model: LoadedModel, photos: Path) -> None:
    for name, match in (("none.csv", "no such file"), ("0.png", "is no table")):
        with pytest.raises(RegardError, match=match):
            explain(model, sorted(photos.glob("*.png")), out=photos / "out", boxes=photos / name)


def test_one_photo_has_no_interval_and_photos_without_a_box_are_left_out(
    model: LoadedModel, photos: Path, tmp_path: Path
) -> None:
    boxes = table(photos, "path,x0,y0,x1,y1\n0.png,10,20,30,40\n")
    said: list[dict] = []
    found = explain(
        model, [photos], out=tmp_path / "out", method="gradcam", target="bright", boxes=boxes, on_event=said.append
    )
    assert any("1 photos have none" in event.get("text", "") for event in said)
    (row,) = found.rows
    assert row.inside is not None
    assert (row.inside.photos, row.inside.inside.low) == (1, None)
    assert math.isfinite(row.inside.inside.value)
    assert "one photo" in row.inside.cells()[0]


def test_a_box_of_another_class_is_none_of_this_one(model: LoadedModel, photos: Path, tmp_path: Path) -> None:
    boxes = table(photos, "path,x0,y0,x1,y1,class\n0.png,10,20,30,40,dark\n")
    found = explain(model, [photos], out=tmp_path / "out", method="gradcam", target="bright", boxes=boxes)
    assert "no map was compared with a box" in "\n".join(found.lines())
    assert (tmp_path / "out" / "boxes.csv").read_text().count("\n") == 1
