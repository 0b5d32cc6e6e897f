"""Images with masks: folders, COCO files, scenes; and each mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regard.data.coco_masks import Polygons, drawn
from regard.data.mask_sets import MaskSet, open_masks
from regard.data.scenes import make_scene
from regard.errors import RegardError
from regard.masks import RunLengths

HEIGHT, WIDTH = 20, 30


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def photo(path: Path, seed: int = 0) -> None:
    save(path, np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8))


def rectangle(x0: int, y0: int, x1: int, y1: int, value: int = 255) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0:y1, x0:x1] = value
    return mask


def areas(masks: MaskSet, row: int) -> list[int]:
    return [runs.area for runs in masks.masks(row)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a: a label map; b: a file for each object, in a folder; c: files beside each other; d: colours."""
    for number, name in enumerate(("a", "b", "c_1", "d")):
        photo(tmp_path / "images" / f"{name}.png", number)
    save(tmp_path / "masks" / "a.png", np.maximum(rectangle(1, 1, 6, 5, 7), rectangle(10, 10, 20, 15, 3)))
    save(tmp_path / "masks" / "b" / "cat.png", rectangle(0, 0, 10, 10))
    save(tmp_path / "masks" / "b" / "dog.png", rectangle(5, 5, 12, 12, 1))
    save(tmp_path / "masks" / "c_1_0.png", rectangle(0, 0, 4, 4))
    save(tmp_path / "masks" / "c_1_1.png", rectangle(0, 0, 5, 5))
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[2:4, 2:5], colours[8:10, 8:10] = (255, 0, 0), (0, 0, 9)
    save(tmp_path / "masks" / "d.png", colours)
    return tmp_path


def test_a_folder_pairs_masks_with_images_by_name(folder: Path) -> None:
    masks = open_masks(folder)
    assert masks.images.ids == ("images/a.png", "images/b.png", "images/c_1.png", "images/d.png")
    assert [areas(masks, row) for row in range(4)] == [[50, 20], [100, 49], [16, 25], [4, 6]]
    assert masks.masks(1)[1].box == (5, 5, 12, 12)
    assert masks.images.notes == ()
    assert masks.select([2]).images.ids == ("images/c_1.png",)
    assert areas(masks.select([2]), 0) == [16, 25]


def test_splits_are_those_of_the_folders(folder: Path) -> None:
    for name in ("train", "test"):
        photo(folder / "set" / name / "images" / "a.jpg")
        save(folder / "set" / name / "masks" / "a.png", rectangle(1, 1, 6, 5))
    masks = open_masks(folder / "set")
    assert list(zip(masks.images.ids, masks.images.split, strict=True)) == [
        ("test/images/a.jpg", "test"),
        ("train/images/a.jpg", "train"),
    ]


def test_masks_are_of_the_upright_image(tmp_path: Path) -> None:
    tmp_path.joinpath("images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "images" / "a.jpg", exif=exif)
    save(tmp_path / "masks" / "a.png", rectangle(1, 1, 6, 5))
    assert areas(open_masks(tmp_path), 0) == [20]


def test_what_has_no_partner_is_left_out_aloud(folder: Path) -> None:
    photo(folder / "images" / "alone.png")
    save(folder / "masks" / "stranger.png", rectangle(0, 0, 5, 5))
    masks = open_masks(folder)
    assert len(masks) == 4
    assert len(masks.images.notes) == 2
    assert "stranger.png" in masks.images.notes[0]
    assert "alone.png" in masks.images.notes[1]


def refused(data: Any) -> str:
    with pytest.raises(RegardError) as error:
        masks = open_masks(data)
        [masks.masks(row) for row in range(len(masks))]
    line = str(error.value)
    assert "\n" not in line
    return line


def test_mistakes_in_a_folder_are_one_line(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = folder / "masks" / "a.png"
    save(file, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert "a.png: empty" in refused(folder)
    save(file, rectangle(0, 0, 5, 5)[:, :-1])
    assert "a.png: 29 x 20 pixels, but its image a.png has 30 x 20" in refused(folder)
    save(file, rectangle(0, 0, 5, 5).T.copy())
    assert "EXIF" in refused(folder)
    file.write_bytes(b"no image")
    assert "a.png: cannot be read as a mask" in refused(folder)
    file.unlink()
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "masks" / "a.jpg")
    assert "a.jpg: masks are kept without loss" in refused(folder)

    other = tmp_path_factory.mktemp("other")
    assert "no folder images/" in refused(other)
    photo(other / "images" / "a.png")
    assert "no folder masks/" in refused(other)
    save(other / "masks" / "z.png", rectangle(0, 0, 5, 5))
    assert "no masks for any of the 1 images (first: a.png; masks: z.png)" in refused(other)
    assert "no such folder or file" in refused(other / "nothing")


def test_a_smoothed_label_map_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((64, 64, 3), np.uint8))
    shades = np.arange(64 * 64).reshape(64, 64)
    save(tmp_path / "masks" / "a.png", np.stack([shades % 256, shades // 256, shades * 0], axis=2).astype(np.uint8))
    assert "4,095 different values" in refused(tmp_path)


# COCO


def square(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, Any]:
    """A document of two images, whose files lie in images/ beside it."""
    for name in ("a", "b"):
        photo(tmp_path / "images" / f"{name}.png")
    runs = RunLengths.of(rectangle(3, 4, 9, 8) > 0)
    size = [HEIGHT, WIDTH]
    images = [
        {"id": 4 + n, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH} for n, name in enumerate("ab")
    ]
    segmentations: list[Any] = [
        [square(2, 3, 12, 9), square(20, 10, 25, 15)],
        {"size": size, "counts": runs.text},
        {"size": size, "counts": runs.counts.tolist()},
    ]
    annotations = [
        {"id": n, "image_id": image, "category_id": 1, "segmentation": one}
        for n, (image, one) in enumerate(zip((4, 5, 5), segmentations, strict=True))
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}


def written(folder: Path, document: Any) -> Path:
    path = folder / "instances_all.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_coco_gives_polygons_and_run_lengths(tmp_path: Path, coco: dict[str, Any]) -> None:
    masks = open_masks(written(tmp_path, coco))
    assert masks.images.ids == ("a.png", "b.png")
    assert [areas(masks, row) for row in range(2)] == [[85], [24, 24]]
    assert masks.masks(0)[0].box == (2, 3, 25, 15)
    assert masks.masks(1)[0].box == masks.masks(1)[1].box == (3, 4, 9, 8)


def test_crowds_and_images_without_objects_are_left_out_aloud(tmp_path: Path, coco: dict[str, Any]) -> None:
    coco["images"].append({"id": 9, "file_name": "nothing.png", "height": 1, "width": 1})
    coco["annotations"][2]["iscrowd"] = 1
    coco["annotations"].append({"id": 9, "image_id": 5, "segmentation": []})
    masks = open_masks(written(tmp_path, coco))
    assert len(masks) == 2
    assert areas(masks, 1) == [24]
    assert [note.partition(": ")[2].split(" ", 1)[1] for note in masks.images.notes] == [
        "images without objects are left out",
        "crowds are left out",
        "annotations without a segmentation are left out",
    ]


def test_mistakes_in_a_coco_file_are_one_line(tmp_path: Path, coco: dict[str, Any]) -> None:
    def of(change: Any) -> str:
        document = json.loads(json.dumps(coco))
        change(document)
        return refused(written(tmp_path, document))

    def set_shape(value: Any) -> Any:
        return lambda document: document["annotations"][0].update(segmentation=value)

    assert "no COCO file" in refused(written(tmp_path, [1]))
    assert "lacks file_name" in of(lambda document: document["images"][0].pop("file_name"))
    assert "image 77" in of(lambda document: document["annotations"][0].update(image_id=77))
    assert "no object with a segmentation" in of(lambda document: document.update(annotations=[]))
    assert "three corners" in of(set_shape([[1, 2, 3, 4]]))
    assert "three corners" in of(set_shape([[1, 2, 3, 4, 5, float("nan")]]))
    assert "neither polygons nor run lengths" in of(set_shape([["x"]]))
    assert "neither polygons nor run lengths" in of(set_shape({"counts": "x"}))
    assert "its size is [1, 2]" in of(set_shape({"size": [1, 2], "counts": [2]}))
    assert "run lengths" in of(set_shape({"size": [HEIGHT, WIDTH], "counts": "!"}))
    assert "must be of one size" in of(lambda document: document["images"][0].update(height=21))
    missing = of(lambda document: document["images"][0].update(file_name="gone.png"))
    assert "1 of 2 images are missing" in missing
    assert "gone.png" in missing


def test_polygons_cover_what_coco_says_but_for_their_border(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radii = rng.uniform(10, 40, 9)
        corners = np.stack([60 + radii * np.cos(angles), 50 + radii * np.sin(angles)], axis=1)
        ours = drawn(Polygons(100, 120, (corners,))).decode()
        encoded = coco.merge(coco.frPyObjects([corners.ravel().tolist()], 100, 120))
        theirs = RunLengths.of_text(encoded["counts"].decode(), 100, 120).decode()
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95


# scenes


def test_scenes_come_by_number() -> None:
    masks = open_masks("scenes:5")
    scene = make_scene(0, 3)
    assert masks.images.ids[3] == "scenes/000003"
    assert np.array_equal(np.asarray(masks.images.sources[3]), scene.image)
    assert areas(masks, 3) == scene.masks.sum(axis=(1, 2)).tolist()
    assert len(open_masks("scenes")) == 4000
    for wrong in ("scenes:0", "scenes:x", "scenes:-3"):
        assert "expected scenes:NUMBER" in refused(wrong)
