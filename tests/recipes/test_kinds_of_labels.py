"""The recipe makes its data sets, trains on each kind of label, and keeps views of one photo together when told."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "kinds_of_labels.py"
CLOTHING = Path(__file__).parents[3] / "shared" / "data" / "clothing"


def load_recipe():
    spec = importlib.util.spec_from_file_location("kinds_of_labels", RECIPE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not CLOTHING.is_dir(), reason="../shared/data/clothing is not there")
def test_every_kind_of_label_trains_and_reports(tmp_path: Path) -> None:
    runs = load_recipe().main(CLOTHING, tmp_path, photos=200, images_seen=64, img_size=16)
    labels, boxes, number, grouped, ignored = (run.result() for run in runs)
    assert [one.problem for one in (labels, boxes, number, grouped)] == [
        "multi_label",
        "regression",
        "regression",
        "single_label",
    ]
    assert boxes.test.classes == ("x0", "y0", "x1", "y1") and number.test.classes == ("covered",)
    assert all((run.folder / "report.html").stat().st_size > 10_000 for run in runs)

    def photos_in_parts(folder: Path) -> list[set[str]]:
        with (folder / "split.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        parts: dict[str, set[str]] = {}
        for row in rows:
            parts.setdefault(row["id"].split("_view")[0], set()).add(row["split"])
        return list(parts.values())

    assert all(len(parts) == 1 for parts in photos_in_parts(runs[3].folder))
    assert any(len(parts) > 1 for parts in photos_in_parts(runs[4].folder))
    assert ignored.test.classes == grouped.test.classes
