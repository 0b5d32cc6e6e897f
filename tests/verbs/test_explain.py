"""`regard explain`: maps that lie where the model looked, of the class that was asked for, in files that are whole."""

from __future__ import annotations

import csv
import json
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brightness import Brightness
from PIL import Image
from torch import nn

from regard.cli.main import parse
from regard.cli.show import show
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.explanation import asking
from regard.explanation.methods import default_methods, method
from regard.inference.loaded import LoadedModel, fresh_model, load_model
from regard.reporting import explanations
from regard.verbs.explain import explain
from regard.verbs.explaining import photos as explain_photos
from regard.verbs.explaining.photos import look_at, safe_names

CLASSES = ("cat, tabby", "dog", "hat")


@pytest.fixture(scope="module")
def vit() -> LoadedModel:
    torch.manual_seed(0)
    return fresh_model("vit_nano_patch4_32", CLASSES)


@pytest.fixture(scope="module")
def cnn() -> LoadedModel:
    torch.manual_seed(1)
    return fresh_model("resnet20_32", CLASSES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of each of two classes, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("dog", "hat"):
        (folder / name).mkdir()
        for number in range(2):
            pixels = rng.integers(0, 256, (40, 50 + 10 * number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "hat" / "0b.png").write_bytes(b"bad")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_maps_are_the_methods_own_and_files_are_in_order(vit: LoadedModel, photos: Path, tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    names = ("rollout+fusion=max+discard=0.5", "relevance")
    found = explain(vit, [photos], out=tmp_path / "out", method=names, batch_size=3, on_event=said.append)
    assert found.photos == 4
    assert [Path(id_).name for id_ in found.skipped] == ["0b.png"]
    listed = rows(tmp_path / "out" / "explained.csv")
    assert [row["path"] for row in listed] == [
        str(photos / name) for name in ("dog/0.png", "dog/1.png", "hat/0.png", "hat/1.png")
    ]
    assert [row["name"] for row in listed] == ["1-0", "2-1", "3-0", "5-1"]
    images = torch.stack([vit.preprocess(row["path"]) for row in listed])
    logits = vit.predict([row["path"] for row in listed]).logits
    classes = torch.from_numpy(logits.argmax(axis=1))
    maps = {name: method(name).explain(vit.model, images, classes).numpy() for name in names}
    for place, row in enumerate(listed):
        with np.load(tmp_path / "out" / "maps" / f"{row['name']}.npz") as file:
            assert file["methods"].tolist() == list(names)
            for name in names:
                assert file[name].dtype == np.float32
                np.testing.assert_allclose(file[name], maps[name][place], rtol=1e-3, atol=1e-5)
            assert str(file["explained"]) == row["explained"] == row["answer"] == CLASSES[int(classes[place])]
            assert file["size"].tolist() == [50 + 10 * (place % 2), 40]
    drawn = sorted(os.listdir(tmp_path / "out" / "overlays"))
    assert len(drawn) == 8
    assert drawn[:2] == ["1-0.relevance.png", "1-0.rollout+fusion=max+discard=0.5.png"]
    assert sorted(os.listdir(tmp_path / "out")) == ["contact.png", "explained.csv", "index.html", "maps", "overlays"]
    notes = [event.get("text", "") for event in said]
    assert "about" in notes[0] and "relevance" in notes[0] and "5 photos" in notes[0]
    assert any("gradient_rollout (about" in text for text in notes)
    assert [event["done"] for event in said if event["event"] == "progress"] == [3, 5]
    lines = list(found.lines())
    assert "a photo" in lines[1]
    assert "4 photos, 1 unreadable" in lines[-2]


@pytest.mark.parametrize(
    ("shape", "resize", "square"),
    [
        ((60, 100), "short", (45, 20, 55, 30)),  # top, left: rows 20 to 30, columns 45 to 55
        ((100, 60), "short", (20, 50, 32, 62)),
        ((50, 120), "squash", (100, 5, 115, 25)),
    ],
)
def test_a_map_lies_on_the_photo_as_the_model_saw_it(
    tmp_path: Path, shape: tuple[int, int], resize: Any, square: tuple[int, int, int, int]
) -> None:
    height, width = shape
    left, top, right, bottom = square
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    preprocess = Preprocess(32, 0.8, resize, mean=(0, 0, 0), std=(1, 1, 1))
    model = load_model(Brightness(), preprocess=preprocess, classes=("bright", "dark"))
    explain(model, [tmp_path / "photo.png"], out=tmp_path / "out", method="gradcam", target="bright")
    with np.load(tmp_path / "out" / "maps" / "1-photo.npz") as file:
        window, values = file["window"].tolist(), file["gradcam"]
    # By the rule: the shorter side (or each) becomes 40 pixels, and the middle 32 of them are cut out.
    across, down = (width / 40, height / 40) if resize == "squash" else (min(shape) / 40,) * 2
    wide, tall = (40, 40) if resize == "squash" else (int(40 * width / min(shape)), int(40 * height / min(shape)))
    corner = (round((wide - 32) / 2) * width / wide, round((tall - 32) / 2) * height / tall)
    assert window == pytest.approx([*corner, corner[0] + 32 * across, corner[1] + 32 * down], rel=0.02)
    picture = np.asarray(Image.open(tmp_path / "out" / "overlays" / "1-photo.gradcam.png")).astype(int)
    assert picture.shape[1] / picture.shape[0] == pytest.approx(
        (window[2] - window[0]) / (window[3] - window[1]), rel=0.01
    )
    rows, columns = np.nonzero(picture.sum(axis=2) > 400)  # yellow on white
    x = window[0] + (columns + 0.5) * (window[2] - window[0]) / picture.shape[1]
    y = window[1] + (rows + 0.5) * (window[3] - window[1]) / picture.shape[0]
    slack = 1.5 * max(across, down)  # a cell of the map, over which it falls from full to nothing
    seen = max(left, window[0]), min(right, window[2]), max(top, window[1]), min(bottom, window[3])
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx(seen, abs=slack)
    assert values.argmax() in np.flatnonzero(values > 0.9 * values.max())


def test_a_class_is_named_as_it_is_called(vit: LoadedModel, photos: Path, tmp_path: Path) -> None:
    for number, (target, name) in enumerate({"dog": "dog", "Tabby": CLASSES[0], "CAT, tabby": CLASSES[0]}.items()):
        explain(vit, [photos / "dog"], out=tmp_path / str(number), method="relevance", target=target)
        assert {row["explained"] for row in rows(tmp_path / str(number) / "explained.csv")} == {name}
    with pytest.raises(RegardError, match=r"target dgo: no class of vit_nano.*; nearest: dog"):
        explain(vit, [photos], out=tmp_path / "x", target="dgo")
    assert not (tmp_path / "x").exists()


def test_the_true_class_is_that_of_the_folder_or_the_table(vit: LoadedModel, photos: Path, tmp_path: Path) -> None:
    explain(vit, [photos], out=tmp_path / "a", method="relevance", target="true")
    assert [row["explained"] for row in rows(tmp_path / "a" / "explained.csv")] == ["dog", "dog", "hat", "hat"]
    (photos / "labels.csv").write_text("path,label\ndog/0.png,hat\nhat/1.png,dog\n")
    explain(vit, [photos / "labels.csv"], out=tmp_path / "b", method="relevance", target="true")
    assert [row["explained"] for row in rows(tmp_path / "b" / "explained.csv")] == ["hat", "dog"]
    (photos / "labels.csv").write_text("path,label\ndog/0.png,hut\n")
    with pytest.raises(RegardError, match="target true: hut: no class of vit_nano"):
        explain(vit, [photos / "labels.csv"], out=tmp_path / "c", target="true")
    (tmp_path / "loose").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "loose" / "a.png")
    with pytest.raises(RegardError, match=r"1 of 1 photos lie in no folder .* expected FOLDER/<class>/\*"):
        explain(vit, [tmp_path / "loose"], out=tmp_path / "c", target="true")


def test_labels_and_numbers_are_explained_by_name(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    several, numbers = (fresh_model("vit_nano_patch4_32", ("a", "b")) for _ in range(2))
    several.problem, numbers.problem = "multi_label", "regression"
    explain(several, [photos / "dog"], out=tmp_path / "a", method="relevance", target="b")
    (first, _) = rows(tmp_path / "a" / "explained.csv")
    logit = several.predict(photos / "dog" / "0.png").logits[0]
    assert first["explained"] == "b"
    assert float(first["explained_value"]) == pytest.approx(1 / (1 + np.exp(-logit[1])), rel=1e-4)
    assert first["answer"] == ("b" if logit[1] > logit[0] else "a")
    explain(numbers, [photos / "dog"], out=tmp_path / "b", method="relevance", target="b")
    (first, _) = rows(tmp_path / "b" / "explained.csv")
    assert float(first["explained_value"]) == pytest.approx(
        float(numbers.predict(photos / "dog/0.png").logits[0, 1]), rel=1e-3
    )
    with pytest.raises(RegardError, match=r"target top1: no column of .* name the column to explain, one of a, b"):
        explain(numbers, [photos / "dog"], out=tmp_path / "c")
    for model, what in ((several, "several labels"), (numbers, "numbers")):
        with pytest.raises(RegardError, match=f"target true: .* answers with {what}, not one class; name one of a, b"):
            explain(model, [photos / "dog"], out=tmp_path / "c", target="true")


def test_two_models_side_by_side(vit: LoadedModel, cnn: LoadedModel, photos: Path, tmp_path: Path) -> None:
    found = explain(vit, [photos / "dog"], out=tmp_path / "a", against=cnn)
    assert [(row.model, row.method) for row in found.rows] == [
        *(("vit_nano_patch4_32", name) for name in default_methods(vit.model)),
        *(("resnet20_32", name) for name in default_methods(cnn.model)),
    ]
    assert default_methods(cnn.model) == ("gradcam",)
    with np.load(tmp_path / "a" / "maps" / "1-0.npz") as file:
        assert file["against.gradcam"].ndim == 2
        assert str(file["against.model"]) == "resnet20_32"
        assert "against.rollout" not in file and "rollout" in file
    assert (tmp_path / "a" / "overlays" / "1-0.against.gradcam.png").is_file()
    found = explain(vit, [photos / "dog"], out=tmp_path / "b", against=cnn, method=("rollout", "gradcam"))
    assert [row.method for row in found.rows] == ["rollout", "gradcam", "gradcam"]
    with pytest.raises(RegardError, match=r"method rollout: not defined for resnet20_32; gradcam, .* are"):
        explain(vit, [photos / "dog"], out=tmp_path / "c", against=cnn, method="rollout")
    with pytest.raises(RegardError, match="method rollout: ResNet: has no stack of attention layers"):
        explain(cnn, [photos / "dog"], out=tmp_path / "c", against=cnn, method="rollout")
    found = explain(vit, [photos / "dog"], out=tmp_path / "c", against=vit, method="rollout")
    assert found.models == ("vit_nano_patch4_32 (first)", "vit_nano_patch4_32 (second)")


def test_the_sheet_is_bounded_and_the_files_are_not(
    vit: LoadedModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanations, "SHOWN", 2)
    explain(vit, [photos], out=tmp_path / "out", method="relevance", batch_size=1)
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<article") == 2
    assert "The first 2 of 4 photos" in page
    assert len(os.listdir(tmp_path / "out" / "maps")) == 4


def test_photos_that_are_written_are_let_go(
    vit: LoadedModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref] = []
    most = 0

    def look(*arguments: Any) -> Any:
        nonlocal most
        held.append(weakref.ref(photo := look_at(*arguments)))
        most = max(most, sum(one() is not None for one in held))
        return photo

    monkeypatch.setattr(explain_photos, "look_at", look)
    explain(vit, [photos / "dog" / "0.png"] * 20, out=tmp_path / "out", method="relevance", batch_size=2)
    assert len(held) == 20
    assert most <= 3 * 2 + 2  # three batches, and what the two decoding threads have at hand


def test_half_precision_gives_much_the_same_maps(vit: LoadedModel, photos: Path, tmp_path: Path) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        explain(vit, [photos / "dog" / "0.png"], out=tmp_path / precision, method="relevance", precision=precision)
        with np.load(tmp_path / precision / "maps" / "1-0.npz") as file:
            found.append(file["relevance"])
    assert 0 < np.abs(found[0] - found[1]).max() < 0.05 * found[0].max()


def test_hostile_names_make_plain_files(vit: LoadedModel, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    data = (photos / "dog" / "0.png").read_bytes()
    names = ["<script>window.hit=1<", "é ș", "x" * 200, "\udcff", "a..", "a b", "a_b", "=cmd"]
    for name in names:
        (folder / f"{name}.png").write_bytes(data)
    explain(vit, [folder], out=tmp_path / "out", method="relevance")
    made = os.listdir(tmp_path / "out" / "maps")
    assert len(made) == len(names)
    assert all(name.isascii() and len(name) < 80 and not set(name) & set("<>/ '\"") for name in made)
    assert "<script>window" not in (tmp_path / "out" / "index.html").read_text()
    assert safe_names(["a/b.jpg", "c/b.png", "//.."]) == ["1-b", "2-b", "3"]


def test_scored_maps_say_whether_they_can_be_trusted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(Brightness(), preprocess=Preprocess(32), classes=("bright", "dark"))
    found = explain(model, [photos / "hat"], out=tmp_path / "out", method="gradcam", target="bright", score=True)
    assert [table.images for table in found.scores] == [2]
    assert (tmp_path / "out" / "score" / "score.csv").is_file()
    assert "Can the maps of Brightness be trusted?" in (tmp_path / "out" / "index.html").read_text()
    show("explain", found, as_json=False)
    assert "gradcam" in capsys.readouterr().out.partition("weights shuffled")[2]
    show("explain", found, as_json=True)
    assert json.loads(capsys.readouterr().out)["result"]["photos"] == 2
    model.problem = "regression"
    with pytest.raises(RegardError, match="score: Brightness answers with numbers"):
        explain(model, [photos / "hat"], out=tmp_path / "no", target="bright", score=True)
    assert not (tmp_path / "no").exists()


def test_words_of_a_shell(tmp_path: Path) -> None:
    words = "runs/a photos x.jpg --method relevance,rollout+fusion=max+discard=0.9 --target tabby --against resnet50"
    _, given = parse(explain, [*words.split(), "--boxes", "b.csv", "--score", "--out", "maps"], "explain")
    assert given["images"] == ("photos", "x.jpg")
    assert given["method"] == ("relevance", "rollout+fusion=max+discard=0.9")
    assert (given["target"], given["against"], given["boxes"], given["score"]) == ("tabby", "resnet50", "b.csv", True)


def test_without_the_extra_two_methods_are_refused_and_the_others_are_not(
    cnn: LoadedModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "find_spec", lambda name: None)
    for name in ("integrated_gradients", "occlusion"):
        with pytest.raises(RegardError, match=rf"method {name}: .*pip install 'regard\[explain\]'"):
            explain(cnn, [photos], out=tmp_path / "no", method=name)
    assert explain(cnn, [photos / "dog"], out=tmp_path / "out").photos == 2


def test_a_module_without_a_map_has_methods_that_need_none(photos: Path, tmp_path: Path) -> None:
    flat = load_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), preprocess=Preprocess(32))
    with pytest.raises(RegardError, match="gradcam is not defined; integrated_gradients and occlusion need no map"):
        explain(flat, [photos], out=tmp_path / "out")
    found = explain(flat, [photos / "dog"], out=tmp_path / "out", method="integrated_gradients+steps=2")
    assert [row.method for row in found.rows] == ["integrated_gradients+steps=2"]


def refused(match: str, *arguments: Any, **named: Any) -> None:
    with pytest.raises(RegardError, match=match) as error:
        explain(*arguments, **named)
    assert "\n" not in str(error.value)
    assert not Path(named["out"]).is_dir() or os.listdir(named["out"])


def test_refusals(vit: LoadedModel, cnn: LoadedModel, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused("no photos given", vit, [], out=out)
    refused("no such file or folder", vit, [tmp_path / "nowhere.png"], out=out)
    refused("none of 1 can be read", vit, [photos / "hat" / "0b.png"], out=out)
    refused("batch_size=0: expected at least 1", vit, [photos], out=out, batch_size=0)
    refused("rolout: no such method of explanation; nearest: rollout", vit, [photos], out=out, method="rolout")
    refused(r"rollout\+fusion=sum: expected one of", vit, [photos], out=out, method="rollout+fusion=sum")
    refused("method attention: ResNet: .*gradcam", cnn, [photos], out=out, method="attention")
    refused("layer=40: no such layer; .* has 0", vit, [photos], out=out, method="attention+layer=40")
    refused("head", vit, [photos], out=out, method="attention+head=9")
    compiled = torch.compile(Brightness(), backend="eager")
    refused("is compiled or exported", compiled, [photos], out=out)
    held = tmp_path / "held"
    held.mkdir()
    (held / "a.txt").touch()
    refused("already holds 'a.txt'", vit, [photos], out=held)
    refused("is a file; expected a folder", vit, [photos], out=held / "a.txt")
    assert not out.exists()
    assert os.listdir(held) == ["a.txt"]
