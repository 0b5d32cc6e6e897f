"""The verb `figures`: what applies is drawn, what does not is said, and mistakes are one clear line."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import regard.verbs.figures
from regard.cli.main import main
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel
from regard.models import create_model
from regard.models.vit import ViT
from regard.reporting.pictures.representation import Representation
from regard.verbs.figure_images import find
from regard.verbs.figure_list import FIGURES
from regard.verbs.figures import figures
from regard.verbs.train import train


def loaded(model: torch.nn.Module, name: str) -> LoadedModel:
    return LoadedModel(model.eval(), Preprocess(16, 1.0, "squash"), ("cat", "dog"), name, "none")


@pytest.fixture(scope="module")
def vit() -> LoadedModel:
    torch.manual_seed(0)
    return loaded(ViT(16, 4, 12, 2, 2, num_classes=2), "tiny ViT")


@pytest.fixture(scope="module")
def cnn() -> LoadedModel:
    torch.manual_seed(0)
    return loaded(create_model("resnet20_32", 2), "tiny CNN")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of five photos, one of which cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(5):
            pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    (root / "dog" / "3.png").write_bytes(b"bad")
    return root


def test_a_model_of_several_labels_has_no_prediction_by_layer(vit: LoadedModel, photos: Path) -> None:
    with pytest.raises(RegardError, match="multi_label"):
        figures(replace(vit, problem="multi_label"), photos, only=("prediction_by_layer",))


def test_all_that_applies_is_drawn(vit: LoadedModel, cnn: LoadedModel, photos: Path) -> None:
    said: list[dict] = []
    found = figures(vit, photos, against=cnn, batch_size=4, on_event=said.append)
    assert set(found.drawn) == set(FIGURES) - {"position_products", "before_after"} == set(found.pictures)
    assert set(found.skipped) == {"position_products", "before_after"}
    assert found.images == 9 and any("3.png" in event.get("text", "") for event in said)
    for name, picture in found.pictures.items():
        rows = list(csv.reader(picture.csv().splitlines()))
        assert len(rows) > 1 and {len(row) for row in rows} == {len(rows[0])}, name
    lines = list(found.lines())
    assert lines[0].startswith("13 figures of tiny ViT on 9 images: filters, position_similarity, ")
    assert any(line.startswith("not drawn: before_after: ") and "--snapshots 2" in line for line in lines)
    compared = csv.DictReader(found.pictures["cka"].csv().splitlines())
    assert {(row["model"], row["against"], row["batch"]) for row in compared} == {("tiny ViT", "tiny CNN", "4")}


def test_figures_numbers_and_a_page_are_written(vit: LoadedModel, photos: Path, tmp_path: Path) -> None:
    found = figures(vit, photos, only=("cka", "attention_entropy"), out=tmp_path / "f", lang="fr")
    names = {f"{name}.{kind}" for name in ("cka", "attention_entropy") for kind in ("svg", "csv")}
    assert set(os.listdir(tmp_path / "f")) == {*names, "index.html"}
    assert (tmp_path / "f" / "cka.svg").read_text("utf-8") == found.pictures["cka"].svg("fr")
    assert (tmp_path / "f" / "cka.csv").read_text("utf-8") == found.pictures["cka"].csv()
    page = (tmp_path / "f" / "index.html").read_text("utf-8")
    assert all(f'href="{name}"' in page for name in names) and "Ce qui se passe dans tiny ViT" in page
    assert list(found.lines())[-1] == f"page: {tmp_path / 'f' / 'index.html'}"


def test_without_images_those_that_need_none(vit: LoadedModel) -> None:
    found = figures(vit)
    assert found.drawn == ("filters", "position_similarity") and found.out is None
    lines = list(found.lines())
    assert any("it needs images" in line and "cka" in line and "class_attention" in line for line in lines)
    assert lines[-1] == "nothing was written; --out DIR writes SVG, CSV and a page"


def test_a_cnn_has_the_figures_without_attention(cnn: LoadedModel, photos: Path) -> None:
    found = figures(cnn, photos, limit=6, batch_size=4)
    assert set(found.drawn) == {"filters", "field_of_view", "cka", "signal_by_depth", "representation"}
    assert found.skipped["attention_distance"] == "tiny CNN has no attention among the tokens of an image"


def test_some_by_name_and_the_textbook_positions(vit: LoadedModel, photos: Path) -> None:
    assert figures(vit, photos, only=("cka", "filters")).drawn == ("filters", "cka")
    assert figures(vit, only="position_products").drawn == ("position_products",)


def test_mistakes_are_one_line(vit: LoadedModel, cnn: LoadedModel, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="no figure 'ckaa'; did you mean cka"):
        figures(vit, only=("ckaa",))
    with pytest.raises(RegardError, match="cka: it needs images; name image files or a folder after the model"):
        figures(vit, only=("cka",))
    with pytest.raises(RegardError, match=r"class_attention: tiny CNN has no attention .*; of what is given filters, "):
        figures(cnn, photos, only=("class_attention",))
    with pytest.raises(RegardError, match=r"cka: it needs 4 images or more, 3 given; of what is given"):
        figures(vit, photos / "cat", only=("cka",), limit=3)
    with pytest.raises(RegardError, match="cka: batches of 2 images; it needs 4 or more"):
        figures(vit, photos, only=("cka",), batch_size=2)
    with pytest.raises(RegardError, match=r"blocks\.7: matches no tap or module of ViT"):
        figures(vit, photos, layers=("blocks.7",))
    with pytest.raises(RegardError, match=r"has no class token"):
        figures(cnn, photos, feature="class")
    with pytest.raises(RegardError, match="layer=9: expected one of 0 to 1"):
        figures(vit, photos, layer=9)
    with pytest.raises(RegardError, match="before_after: of tiny ViT the weights before its training"):
        figures(vit, photos, only=("before_after",))
    with pytest.raises(RegardError, match="no such file or folder"):
        figures(vit, tmp_path / "nowhere")
    with pytest.raises(RegardError, match="none of 1 can be read"):
        figures(vit, photos / "dog" / "3.png")
    with pytest.raises(RegardError, match="limit=0"):
        figures(vit, photos, limit=0)
    with pytest.raises(RegardError, match="weights: none is for the name of a model"):
        figures(vit, weights="none")
    with pytest.raises(RegardError, match="compiled"):
        figures(torch.compile(vit.model))  # pyright: ignore[reportArgumentType]


def test_a_folder_is_made_once_and_replaced_on_purpose(vit: LoadedModel, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "f"
    with pytest.raises(RegardError, match="no attention"):
        figures(loaded(create_model("resnet20_32", 2), "c"), photos, only=("qkv_channels",), out=out)
    assert not out.exists()
    figures(vit, photos, only=("filters", "attention_entropy"), out=out)
    with pytest.raises(RegardError, match="already holds"):
        figures(vit, out=out)
    figures(vit, only="filters", out=out, overwrite=True)
    assert set(os.listdir(out)) == {"filters.svg", "filters.csv", "index.html"}
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(RegardError, match=r"'thesis\.txt', which is no figure, so it stays"):
        figures(vit, out=out, overwrite=True)
    assert (out / "thesis.txt").read_text() == "mine"


def test_images_with_classes_in_memory_and_thinned_out(vit: LoadedModel, photos: Path) -> None:
    picture = figures(vit, photos, only="representation").pictures["representation"]
    assert isinstance(picture, Representation) and picture.labels is not None
    assert picture.labels.tolist() == [0] * 5 + [1] * 4 and picture.classes == ("cat", "dog")
    assert picture.ids[5:] == ("dog/0.png", "dog/1.png", "dog/2.png", "dog/4.png")
    loose = figures(vit, [photos / "cat" / "0.png", photos / "dog"], only="representation").pictures["representation"]
    assert isinstance(loose, Representation) and loose.labels is None and len(loose.ids) == 5
    memory = [np.full((20, 20, 3), value, np.uint8) for value in (0, 90, 255)]
    assert figures(vit, memory, only="attention_entropy").images == 3  # pyright: ignore[reportArgumentType]
    assert find(photos, 4).ids == ("cat/1.png", "cat/3.png", "dog/1.png", "dog/3.png")


def test_how_long_it_takes_is_said_first(vit: LoadedModel, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regard.verbs.figures, "WORTH_SAYING", 0.0)
    said: list[dict] = []
    figures(vit, photos / "cat", only=("cka", "filters"), on_event=said.append)
    assert said[0]["text"].startswith("2 figures on 5 images: about ")
    assert said[-1] == {"event": "progress", "title": "cka", "done": 5, "total": 5}


def test_untrained_by_name_is_the_same_each_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    first, second = (figures("resnet20_32", weights="none", only="filters").pictures["filters"].csv() for _ in range(2))
    assert first == second and torch.equal(torch.random.get_rng_state(), state)
    words = ["figures", "resnet20_32", "--weights", "none", "--only", "filters", "--out", str(tmp_path / "f")]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("1 figure of resnet20_32: filters")
    assert main([*words, "--overwrite", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["result"]
    assert result["drawn"] == ["filters"] and "pictures" not in result
    assert main(["figures", "resnet20_32", "--weights", "none", "--only", "filter", "--debug"][:-1]) == 2
    assert "did you mean filters?" in capsys.readouterr().err


def test_a_run_that_keeps_snapshots_is_shown_before_and_after(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        for number in range(12):
            path = tmp_path / "data" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(low, low + 128, (16, 16, 3), dtype=np.uint8)).save(path)
    run = train(
        tmp_path / "data", model="vit_nano_patch4_32", img_size=16, method="scratch", images_seen=32, batch_size=8,
        snapshots=2, precision="fp32", out=tmp_path / "run",
    )  # fmt: skip
    found = figures(run.folder, tmp_path / "data", limit=8, only=("before_after", "representation"))
    assert set(found.drawn) == {"before_after", "representation"}
    header, rows = found.pictures["before_after"].table()
    values = [dict(zip(header, row, strict=True)) for row in rows]
    moved = {row["where"]: row["value"] for row in values if row["measure"] == "relative_weight_change"}
    assert all(isinstance(value, float) and value > 0 for name, value in moved.items() if name != "head")
    assert {row["measure"] for row in values} > {"cka", "attention_distance_before", "attention_distance_after"}
