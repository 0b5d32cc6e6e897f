from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from regard.data.sources import open_images
from regard.data.splits import split_images, write_split
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.backends.openvino_backend import can_quantise
from regard.inference.loaded import LoadedModel
from regard.verbs import rehearsal as module
from regard.verbs.predict import predict
from regard.verbs.rehearsal import rehearse

CLASSES = ("blue", "green", "red")
COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photos a class, of its colour; one more that cannot be read."""
    for name, colour in COLOURS.items():
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (8, 8), tuple(part + number for part in colour)).save(folder / f"{number:02d}.png")
    (tmp_path / "photos" / "red" / "broken.png").write_bytes(b"")
    return tmp_path / "photos"


@pytest.fixture
def loaded() -> LoadedModel:
    """Knows the colours."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3).flip(0)[:, :, None, None])  # type: ignore[operator]  # a convolution's
    preprocess = Preprocess(8, 1.0, "squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return LoadedModel(model.eval(), preprocess, CLASSES, "colours", "none")


class Says:
    """A backend that answers by a function of the mean colour (B, 3)."""

    name, converted = "double", ""

    def __init__(self, weight: np.ndarray):
        self.weight = weight.astype(np.float32)

    def run(self, pixels: Tensor) -> np.ndarray:
        return pixels.float().mean((2, 3)).numpy() @ self.weight


RIGHT = np.eye(3)[:, ::-1]
BLIND = RIGHT * np.array([1, 1, 0])  # never says red: a third of the photos are wrong


def test_labelled_photos_of_the_user(photos: Path, loaded: LoadedModel) -> None:
    found = rehearse("name", loaded, photos, batch_size=5)
    lost, tried = found.drop(Says(RIGHT), Says(BLIND))
    calibration = list(found.calibration())
    assert tried + len(calibration) == 36
    assert len(calibration) in (12, 13)
    assert calibration[0].shape == (3, 8, 8)
    assert found.metric == "top1"
    assert lost == pytest.approx(1 / 3, abs=0.05)
    assert found.drop(Says(RIGHT), Says(RIGHT))[0] == 0
    (photos / "green" / "03.png").touch()
    assert rehearse("name", loaded, photos, batch_size=5).known_by != found.known_by


def test_photos_of_the_run(photos: Path, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(photos)
    split = split_images(images, 0)
    write_split(tmp_path / "split.csv", images, split)
    config = {"source": {"data": str(photos)}, "data": "photos", "problem": "single_label", "target": []}
    run = SimpleNamespace(config=config, classes=CLASSES, split_path=tmp_path / "split.csv")
    monkeypatch.setattr("regard.runs.Run.open", lambda folder: run)
    monkeypatch.setattr(module, "CALIBRATED", 6)
    found = rehearse(tmp_path, loaded, None, batch_size=5)
    assert len(list(found.calibration())) in (5, 6)
    val = {images.ids[row] for row in split.val}
    assert found.drop(Says(RIGHT), Says(BLIND))[1] == len(val - {"red/broken.png"})
    config["source"]["data"] = str(tmp_path / "moved")
    with pytest.raises(RegardError, match=r"moved: no such folder.*--calibrate"):
        rehearse(tmp_path, loaded, None, batch_size=5)
    with pytest.raises(RegardError, match=r"no run folder.*--calibrate"):
        rehearse("vit_small_patch16_224", loaded, None, batch_size=5)


@pytest.mark.skipif(not can_quantise(), reason="needs OpenVINO and NNCF: pip install 'regard[fast]'")
def test_int8_is_tried_and_told(photos: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    events: list[dict] = []
    arguments = {"max_drop": 0.02, "calibrate": photos, "batch_size": 8}
    found = predict(loaded, photos, out=tmp_path / "out", backend="openvino", on_event=events.append, **arguments)
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert notes[0].startswith("int8 loses 0.0000 of top1 on 24 validation photos; --max-drop 0.02 allows it")
    assert found.backend in ("openvino bf16", "openvino int8")
    assert f"{found.backend}, by images/s: openvino bf16 " in notes[1]
    assert (found.photos, found.errors) == (37, 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "part-00000.parquet").unlink()
    again = predict(loaded, photos, out=tmp_path / "out", backend="openvino", **arguments)
    assert again.backend == found.backend
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
