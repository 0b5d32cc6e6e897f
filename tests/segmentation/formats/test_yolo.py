from __future__ import annotations

import numpy as np
import pytest
import yaml
from scipy.ndimage import binary_fill_holes, label
from skimage.draw import polygon2mask
from some_masks import blob, record

from regard.masks import Mask, RunLengths
from regard.segmentation.formats import yolo


def drawn(places: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels whose middles lie in a polygon."""
    return polygon2mask((height, width), places[:, ::-1] - 0.5)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("seed", range(6))
def test_a_polygon_is_its_mask(seed: int) -> None:
    inside = blob(150, 200, seed)
    places = yolo.polygon(Mask(1, RunLengths.of(inside), 0.9))
    assert iou(drawn(places, 150, 200), inside) > 0.985
    assert len(places) < 80
    assert (places >= 0).all() and (places <= (200, 150)).all()


def test_a_rectangle_is_exact() -> None:
    inside = np.zeros((20, 30), bool)
    inside[3:9, 4:20] = True
    places = yolo.polygon(Mask(1, RunLengths.of(inside), 0.9))
    np.testing.assert_array_equal(drawn(places, 20, 30), inside)
    assert (places.min(axis=0), places.max(axis=0)) == (pytest.approx((4, 3)), pytest.approx((20, 9)))


def test_the_largest_part_counts_with_its_holes_filled() -> None:
    ring = blob(100, 120, 3)
    inner = np.roll(ring, 0)
    y, x = np.argwhere(ring).mean(axis=0).astype(int)
    inner[y - 2 : y + 3, x - 2 : x + 3] = False
    inner[:2, :2] = True  # a part of its own
    parts, _ = label(inner)
    largest = binary_fill_holes(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
    places = yolo.polygon(Mask(1, RunLengths.of(inner), 0.9))
    assert iou(drawn(places, 100, 120), largest) > 0.97


def test_the_file_of_an_image() -> None:
    given = record(masks=3, names=("dog", "cat"))
    empty = Mask(4, RunLengths.of(np.zeros((40, 60), bool)), 0.1, name="dog")
    text = yolo.encode(given._replace(masks=(*given.masks, empty)), {"cat": 0, "dog": 1})
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines] == ["0", "1", "0"]
    for line, mask in zip(lines, given.masks, strict=True):
        numbers = np.array(line[1:], np.float64)
        assert len(numbers) >= 6 and len(numbers) % 2 == 0
        assert numbers.min() >= 0 and numbers.max() <= 1
        assert iou(drawn(numbers.reshape(-1, 2) * (60, 40), 40, 60), mask.runs.decode()) > 0.9
    assert yolo.encode(record(masks=0), {}) == ""


def test_one_pixel_has_a_polygon() -> None:
    inside = np.zeros((9, 9), bool)
    inside[4, 5] = True
    places = yolo.polygon(Mask(1, RunLengths.of(inside), 0.9))
    assert len(places) >= 3
    np.testing.assert_array_equal(drawn(places, 9, 9), inside)


def test_data_yaml_names_classes_as_they_are() -> None:
    read = yaml.safe_load(yolo.data_yaml(("dog", "a: b #c", "=x", "ñ")))
    assert read == {"train": "images", "val": "images", "names": {0: "dog", 1: "a: b #c", 2: "=x", 3: "ñ"}}
