from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from some_masks import record

from regard.segmentation.formats.coco import write_coco


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # pycocotools and NumPy 2
def test_pycocotools_reads_back_the_same_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    records = [
        record("sub/ä.jpg", 30, 50, 4, ("dog", "")),
        record("empty.png", 10, 20, 0),
        record("c.png", 64, 20, 3, ("cat",)),
    ]
    path = tmp_path / "annotations.json"
    assert write_coco(path, lambda: records, ("boat", "dog"), "../photos") == ("boat", "dog", "cat", "object")
    read = coco.COCO(path)
    capsys.readouterr()
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == ["sub/ä.jpg", "empty.png", "c.png"]
    names = {category["id"]: category["name"] for category in read.loadCats(read.getCatIds())}
    for number, one in enumerate(records, start=1):
        annotations = read.loadAnns(read.getAnnIds(imgIds=[number]))
        assert [found["number"] for found in annotations] == [mask.number for mask in one.masks]
        for found, mask in zip(annotations, one.masks, strict=True):
            np.testing.assert_array_equal(read.annToMask(found).astype(bool), mask.runs.decode())
            assert names[found["category_id"]] == (mask.name or "object")
            assert found["area"] == mask.area
            x, y, width, height = found["bbox"]
            assert (x, y, x + width, y + height) == mask.box
    ids = [entry["id"] for entry in json.loads(path.read_text())["annotations"]]
    assert ids == list(range(1, 8))


def test_equal_masks_give_equal_bytes_and_none_give_a_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_coco(tmp_path / name, lambda: iter([record("a", names=("x", "y")), record("bb")]))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    write_coco(tmp_path / "none", list)
    content = json.loads((tmp_path / "none").read_text())
    assert content["images"] == content["annotations"] == []
    assert [category["name"] for category in content["categories"]] == ["object"]


def test_memory_does_not_grow_with_images(tmp_path: Path) -> None:
    """Records are taken one after another, twice."""
    alive: list[int] = []

    def records():
        for number in range(50):
            alive.append(number)
            yield record(f"{number}.png", 8, 8, 1)

    write_coco(tmp_path / "a.json", records)
    assert alive == [*range(50), *range(50)]
