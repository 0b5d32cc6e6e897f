"""The story is trained, its tables hold what the run folders hold, and a finished run is not trained again."""

from __future__ import annotations

import csv
import importlib.util
import json
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import regard
from regard.comparison import estimate, students
from regard.training import run as run_module
from regard.training.cost import inference_speed

RECIPE = Path(__file__).parents[2] / "recipes" / "deck_story.py"
SHORT = (
    ("CNN", "plain20_32"),
    ("CNN", "resnet20_32"),
    ("V3", "pixel_transformer_16"),
    ("V4", "deit_nano_distilled_patch4_32"),
)


def load_recipe():
    spec = importlib.util.spec_from_file_location("deck_story", RECIPE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bright and dark noise in an archive of class folders; an image takes 3 s to train on by any measure."""
    for module in (estimate, students):
        monkeypatch.setattr(module, "seconds_per_image", lambda *given: dict.fromkeys(given[-1], 3.0))
    monkeypatch.setattr(run_module, "inference_speed", partial(inference_speed, seconds=0.01))
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 8)):
        for name, low in (("dark", 0), ("bright", 128)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(low, low + 128, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    path = tmp_path / "photos.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(tmp_path / "photos", "photos")
    return path


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of the tables' lines, by their second cell (and first, where the second is a kind of network)."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {f"{cells[1]} {cells[0]}" if cells[0].isdigit() else cells[1]: cells for cells in lines}


def training_error(run: regard.Run, photos: Path) -> float:
    """The share of the run's training photos that its network answers wrongly."""
    with open(run.split_path, encoding="utf-8", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file) if row["split"] == "train"]
    loaded = regard.load_model(str(run.folder))
    with torch.inference_mode():
        logits = loaded.model.eval()(torch.stack([loaded.preprocess(photos / id_) for id_ in ids]))
    pairs = zip(logits.argmax(1).tolist(), ids, strict=True)
    return float(np.mean([loaded.classes[place] != Path(id_).parent.name for place, id_ in pairs]))


def test_the_table_holds_what_the_runs_hold(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = load_recipe(), tmp_path / "story"
    path = recipe.main(archive, out, images_seen=16, at_most=0.0, story=SHORT)
    text = path.read_text("utf-8")
    printed = capsys.readouterr().out
    assert text in printed and printed.index("expected: 4 runs") < printed.index("run 1 of 4")
    assert (
        "pixel_transformer_8 sees images of 8 pixels a side, in place of pixel_transformer_16" in text
    )  # no minutes were allowed
    rows = rows_of(text)
    deit, runs = "deit_nano_distilled_patch4_32", out / "compare" / "runs"
    folders = {
        "plain20_32": runs / "plain20_32-scratch-1-seed0",
        "resnet20_32": runs / "resnet20_32-scratch-1-seed0",
        "pixel_transformer_8": runs / "pixel_transformer_8-scratch-1-seed0",
        f"{deit}, alone": out / "deit" / "alone-images",
        f"{deit}, taught by resnet20_32": out / "deit" / "student",
        "hog_svm, no network": runs / "hog_svm-classical-1-seed0",
    }
    for name, folder in folders.items():
        result = regard.Run.open(folder).result()
        assert rows[name][2] == f"{result.cost.parameters:,}"
        assert rows[name][-1].startswith(f"{100 * result.test.correct.mean():.1f}% (")
        if result.cost.gmacs is not None:
            assert result.images_seen == 16
            assert rows[name][3] == f"{result.cost.gmacs:.3f}"
            assert 97 <= sum(int(cell.rstrip("%")) for cell in rows[name][4:8]) <= 101  # the head and its norm lack
    assert rows["pixel_transformer_8"][4] == "0%" and rows["plain20_32"][5] == "0%"
    assert json.loads((out / "deit" / "student" / "result.json").read_text())["method"] == "scratch"
    taught = regard.Run.open(out / "deit" / "student").config["distillation"]
    assert "resnet20_32-scratch-1-seed0" in str(taught["source"])
    for kind, model in (("plain", "plain20_32"), ("residual", "resnet20_32")):
        run, cells = regard.Run.open(folders[model]), rows[f"{kind} 20"]
        assert cells[3].startswith(f"{100 * (1 - run.result().test.correct.mean()):.1f}%")
        shown = float(cells[2].partition("%")[0]) / 100
        assert abs(shown - training_error(run, out / "data" / "photos")) < 0.04  # one of 27: batches may round

    marks = {folder: (folder / "result.json").stat().st_mtime_ns for folder in folders.values()}
    again = recipe.main(archive, out, images_seen=16, resume=True, at_most=0.0, story=SHORT)
    assert again.read_text("utf-8") == text
    assert marks == {folder: (folder / "result.json").stat().st_mtime_ns for folder in folders.values()}
    with pytest.raises(regard.RegardError, match="images_seen was 16, is 32"):
        recipe.main(archive, out, images_seen=32, resume=True, story=SHORT)


def test_every_model_of_the_story_is_registered_and_each_version_is_told() -> None:
    recipe = load_recipe()
    names = [name for _, name in recipe.STORY]
    assert {*names, *recipe.CHEAPER.values()} <= {*regard.list_models()}
    assert {version for version, _ in recipe.STORY} == {*recipe.TITLES}
    assert recipe.TEACHER in names and recipe.STUDENT in names


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected a folder of images"):
        load_recipe().main(tmp_path / "none.tar.gz", tmp_path / "out")


@pytest.mark.long
def test_the_whole_story_at_a_tiny_budget(archive: Path, tmp_path: Path) -> None:
    recipe, out = load_recipe(), tmp_path / "story"
    text = recipe.main(archive, out, images_seen=16, seeds=2, at_most=0.0).read_text("utf-8")
    rows = rows_of(text)
    for _, name in recipe.STORY:
        assert any(key.startswith(recipe.CHEAPER.get(name, name)) for key in rows)
    assert {"plain 20", "plain 56", "residual 20", "residual 56"} <= {*rows}
    assert len(list((out / "compare" / "runs").iterdir())) == 2 * len(recipe.STORY)  # without DeiT, with hog_svm
