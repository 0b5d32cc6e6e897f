"""`segment` with texts, names and explanations: what the parts find is what the verb gives."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brightness import Brightness
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "segmentation"))
from colours import COLOURS, colour_clip

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import fresh_model, load_model
from regard.models import create_model
from regard.segmentation.everything import Options
from regard.segmentation.naming import name_by_text
from regard.segmentation.naming_by_model import name_by_model
from regard.segmentation.segmenter import Segmenter
from regard.segmentation.text_prompts import TextRanker
from regard.verbs.segment import segment
from regard.verbs.segmenting.explained import Explainer, segment_explained

LOOSE: dict[str, Any] = {
    "points_per_side": 2,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(create_model("sam_nano_128"), "nano")  # type: ignore[arg-type]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Three quarters red, the rest green."""
    pixels = np.full((60, 80, 3), COLOURS["red"], np.uint8)
    pixels[:, 60:] = COLOURS["green"]
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_text_finds_the_masks_that_fit(segmenter: Segmenter, photo: Path) -> None:
    clip, said = colour_clip(200.0), []
    found = segment(photo, text="a red thing", clip=clip, model=segmenter, **LOOSE, on_event=said.append)
    ranking = TextRanker(clip, Options(**LOOSE))(segmenter, photo, "a red thing")
    masks = found.answers[0].masks.masks
    assert 0 < len(masks) == len(ranking.fitting)
    assert [mask.number for mask in masks] == list(range(1, len(masks) + 1))
    for mask, other in zip(masks, ranking.fitting, strict=True):
        np.testing.assert_array_equal(mask.runs.decode(), other.runs.decode())
        assert (mask.name, mask.score) == ("a red thing", other.score)
    line = next(event["text"] for event in said if "fit" in event.get("text", ""))
    assert line.startswith(f"'a red thing': {len(masks)} of 12 masks fit, the best with ")


def test_a_text_that_nothing_fits_gives_no_masks(segmenter: Segmenter, photo: Path, tmp_path: Path) -> None:
    found = segment(photo, text="blue", clip=colour_clip(200.0), model=segmenter, **LOOSE, out=tmp_path / "out")
    assert (found.photos, found.masks) == (1, 0)
    assert len((tmp_path / "out" / "index.csv").read_text().splitlines()) == 1


def test_texts_of_a_file_beside_points(segmenter: Segmenter, photo: Path, tmp_path: Path) -> None:
    prompts = [
        {"points": [[10, 10]], "name": "corner"},
        {"text": "a red thing", "name": "thing"},
        {"box": [1, 1, 9, 9]},
    ]
    (tmp_path / "p.json").write_text(json.dumps({"photo.png": prompts}))
    clip = colour_clip(200.0)
    masks = segment(photo, prompts=tmp_path / "p.json", clip=clip, model=segmenter).answers[0].masks.masks
    names = [mask.name for mask in masks]
    assert names[0] == "corner" and names[-1] == "" and set(names[1:-1]) <= {"thing"}
    assert [mask.number for mask in masks] == list(range(1, len(masks) + 1))


def test_names_from_texts(segmenter: Segmenter, photo: Path, tmp_path: Path) -> None:
    clip, names = colour_clip(200.0), ("red", "green", "blue")
    asked: dict[str, Any] = {"everything": True, **LOOSE, "model": segmenter, "clip": clip}
    plain = segment(photo, everything=True, **LOOSE, model=segmenter).answers[0].masks.masks
    expected = name_by_text(clip, photo, plain, names)
    found = segment(photo, **asked, labels_from="red, green,blue").answers[0].masks.masks
    assert [(mask.name, mask.score) for mask in found] == [(mask.name, mask.score) for mask in expected]
    assert {mask.name for mask in found} == {"red"}
    segment(photo, **asked, labels_from=names, format="yolo", out=tmp_path / "out")
    text = (tmp_path / "out" / "data.yaml").read_text()
    assert [line.split('"')[1] for line in text.splitlines() if '"' in line] == ["red", "green", "blue", "unknown"]


def test_names_from_a_classifier(segmenter: Segmenter, photo: Path) -> None:
    torch.manual_seed(0)
    loaded = fresh_model("vit_nano_patch4_32", ("cat", "dog"))
    loaded.unsure_below = 0.5
    plain = segment(photo, everything=True, **LOOSE, model=segmenter).answers[0].masks.masks
    expected = name_by_model(loaded, photo, plain)
    found = segment(photo, everything=True, **LOOSE, model=segmenter, label_with=loaded).answers[0].masks.masks
    assert [(mask.name, mask.score) for mask in found] == [(mask.name, mask.score) for mask in expected]
    assert {mask.name for mask in found} <= {"cat", "dog", "unknown"}


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    """Grey with a bright square."""
    pixels = np.full((64, 64, 3), 60, np.uint8)
    pixels[40:52, 8:20] = 250
    Image.fromarray(pixels).save(tmp_path / "bright.png")
    return tmp_path / "bright.png"


def classifier() -> Any:
    preprocess = Preprocess(32, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return load_model(Brightness(), preprocess=preprocess, classes=("bright", "dark"))


def test_an_explanation_becomes_a_click(segmenter: Segmenter, bright: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "from_explanation": classifier(),
        "target": "bright",
        "method": "gradcam",
        "model": segmenter,
    }
    expected = segment_explained(
        segmenter, Explainer(classifier(), "bright", "gradcam"), bright, np.array((8, 40, 20, 52))
    )
    said: list[dict] = []
    found = segment(bright, **asked, box=(8, 40, 20, 52), out=tmp_path / "out", format="rle", on_event=said.append)
    assert found.masks == 1
    texts = [event.get("text") for event in said]
    assert set(expected.lines()) <= set(texts)
    with (tmp_path / "out" / "explained.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["image"], row["explained"], row["method"]) == ("bright.png", "bright", "gradcam")
    assert float(row["concentration"]) == pytest.approx(expected.concentration.inside, rel=1e-5)
    assert expected.reason is not None
    assert float(row["inside"]) == pytest.approx(expected.reason.inside.inside, rel=1e-5)
    alone = segment(bright, **asked).answers[0]
    assert "inside" not in alone.measured
    assert alone.masks.masks[0].name == "bright"
    assert 8 <= alone.measured["x"] <= 20 and 40 <= alone.measured["y"] <= 52


def test_refusals_of_explanations(segmenter: Segmenter, bright: Path) -> None:
    for flags, said in (
        ({"points": (1, 2)}, "from_explanation: the point is the explanation's"),
        ({"box": (1, 2, 3, 4), "text": "a dog"}, "from_explanation: the point is the explanation's"),
        ({"everything": True}, "--everything and --from-explanation: each is a way of its own"),
        ({"follow": True}, "follow: not with --from-explanation"),
        ({"target": "cat"}, "target cat: no class of"),
        ({"box": (1, 2, 300, 4)}, r"box: \(300, 4\) is not in the image"),
    ):
        with pytest.raises(RegardError, match=rf"^{said}"):
            segment(bright, from_explanation=classifier(), model=segmenter, **flags)
    with pytest.raises(RegardError, match=r"^method gradcam: is for --from-explanation"):
        segment(bright, points=(1, 2), method="gradcam", model=segmenter)
