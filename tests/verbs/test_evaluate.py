from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import regard
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model
from regard.results import Cost, Predictions
from regard.runs import Run
from regard.verbs.evaluate import evaluate
from regard.weights import save_state

CLASSES = ("bee", "cat")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    return fresh_model("vit_nano_patch4_32", CLASSES)


def folder(root: Path, parts: tuple[str, ...] = ("",), count: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for part in parts:
        for label in CLASSES:
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{number}.png")
    return root


def run_on(folder: Path, loaded: LoadedModel, split: dict[str, str]) -> Path:
    run = Run.create(folder)
    run.write_classes(loaded.classes)
    run.write_config({"model": loaded.name, "preprocess": loaded.preprocess.to_config()})
    lines = [f"{id_},{id_.split('/')[-2]},{part}\n" for id_, part in split.items()]
    run.split_path.write_text("id,class,split\n" + "".join(lines))
    save_state(run.weights_path, loaded.model.state_dict(), {})
    none = Predictions((), np.empty((0, 2), np.float32), np.empty(0, np.int64), loaded.classes)
    run.write_predictions({"val": none, "test": none}, 0, 1.0)
    result = {"model": loaded.name, "method": "scratch", "seed": 0, "fraction": 1.0, "train_images": 9}
    result |= {"images_seen": 9, "temperature": 2.0, "unsure_below": 0.4, "deterministic": False}
    run.write_result(result | {"pretraining": loaded.pretraining}, Cost(parameters=1))
    return run.folder


def test_all_images_of_foreign_data(loaded: LoadedModel, tmp_path: Path) -> None:
    said: list[dict] = []
    found = evaluate(loaded, folder(tmp_path / "data"), on_event=said.append)
    assert found.images == 8
    assert found.source == "all of data"
    assert any("scoring 8 images" in event.get("text", "") for event in said)
    paths = [tmp_path / "data" / name / f"{n}.png" for name in CLASSES for n in range(4)]
    right = loaded.predict(paths).logits.argmax(1) == np.repeat([0, 1], 4)
    assert found.metrics["top1"].value == pytest.approx(right.mean())
    assert found.metrics["top1"].low is not None
    assert [row.name for row in found.per_class] == list(CLASSES)
    assert found.confusion.sum() == 8
    assert len(found.mistakes) == (~right).sum()
    assert regard.evaluate is evaluate


def test_a_given_test_part_is_scored(loaded: LoadedModel, tmp_path: Path) -> None:
    found = evaluate(loaded, folder(tmp_path / "data", ("train", "test")))
    assert (found.images, found.source) == (8, "the test part of data")


def test_of_its_own_data_a_run_is_scored_on_its_test_images(loaded: LoadedModel, tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    ids = [f"{name}/{number}.png" for name in CLASSES for number in range(4)]
    parts = dict(zip(ids, ["train", "train", "val", "test"] * 2, strict=True))
    run = run_on(tmp_path / "run", loaded, parts)
    found = evaluate(run, data)
    assert found.images == 2
    assert "test images of the run's split" in found.source
    assert found.temperature == 2.0
    Image.new("RGB", (32, 32)).save(data / "bee" / "new.png")  # a folder that has grown is still the same data
    assert evaluate(run, data).images == 2
    other = folder(tmp_path / "other", ("test",))
    assert evaluate(run, other).images == 8
    only = run_on(tmp_path / "trained", loaded, dict.fromkeys(ids, "train"))
    with pytest.raises(RegardError, match="trained on or chosen by"):
        evaluate(only, data)


def test_other_classes_are_an_error_with_both_lists(loaded: LoadedModel, tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    (data / "cat").rename(data / "dog")
    with pytest.raises(RegardError, match=r"missing here: cat.*not in the run: dog"):
        evaluate(loaded, data)


def test_bad_files_are_skipped_by_name_up_to_a_share(loaded: LoadedModel, tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    (data / "bee" / "2.png").write_bytes(b"nothing")
    with pytest.raises(RegardError, match=r"1 of 8 images cannot be read \(first: bee/2\.png\)"):
        evaluate(loaded, data)
    found = evaluate(loaded, data, max_bad=0.2)
    assert (found.images, found.skipped) == (7, ("bee/2.png",))
    assert found.confusion[0].sum() == 3
