from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regard.cli.main import main
from regard.data.decoding import ImageError
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model
from regard.verbs.look import look

CLASSES = ("hat", "shoe", "t-shirt", "dress", "skirt", "shorts", "coat")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    loaded = fresh_model("vit_nano_patch4_32", CLASSES)
    torch.nn.init.normal_(loaded.model.get_submodule(loaded.head).weight)
    return loaded


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hat").parent / "hat" / "photo.png"
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


def words(page: Path) -> dict:
    return json.loads(re.search(r'id="page">(.*?)</script>', page.read_text("utf-8"))[1])


def test_a_page_and_what_is_said_of_it(loaded: LoadedModel, photo: Path, tmp_path: Path) -> None:
    events: list[dict] = []
    found = look(loaded, photo, html=tmp_path / "out.html", on_event=events.append)
    page = words(found.page)
    logits = loaded.predict(photo).logits[0]
    order = np.argsort(-logits)
    shares = np.exp(logits[order]) / np.exp(logits).sum()
    assert [target["index"] for target in page["targets"]] == order[:5].tolist()
    np.testing.assert_allclose([target["logit"] for target in page["targets"]], logits[order[:5]], rtol=1e-4)
    np.testing.assert_allclose([target["score"] for target in page["targets"]], shares[:5], rtol=1e-4)
    np.testing.assert_allclose(page["depth"]["scores"][-1], shares[:5], rtol=1e-4)
    assert page["depth"]["best"][-1][0] == CLASSES[order[0]] == found.answer == found.target
    assert set(found.methods) >= {"attention", "rollout", "relevance", "gradcam"}
    assert not {"occlusion", "integrated_gradients"} & set(found.methods)
    lines = list(found.lines())
    assert lines[0] == f"photo.png: {found.answer}, {shares[0]:.1%}, says vit_nano_patch4_32"
    assert "4 layers" in lines[1]
    assert lines[-1].startswith(f"page: {found.page} (0.")
    assert found.bytes == found.page.stat().st_size
    assert {event["title"] for event in events if event["event"] == "progress"} == {"layers", "explanations"}


def test_target_methods_and_layers(loaded: LoadedModel, photo: Path, tmp_path: Path) -> None:
    found = look(loaded, photo, html=tmp_path / "a.html", target="Coat", method=["rollout+fusion=max"], layers=[-1, 1])
    page = words(found.page)
    assert found.target == page["targets"][0]["name"] == "coat" and len(page["targets"]) == 5
    assert found.answer == page["answer"] == CLASSES[loaded.predict(photo).logits[0].argmax()] != "coat"
    assert [layer["number"] for layer in page["layers"]] == [1, 3]
    assert page["explanations"] == [{"name": "rollout+fusion=max", "count": 1}]
    assert page["command"].endswith("--target Coat --method rollout+fusion=max --layers -1,1")
    assert look(loaded, photo, html=tmp_path / "b.html", target="true", method=["attention"]).target == "hat"


@pytest.mark.parametrize("kind", ["pil", "array", "tensor"])
def test_images_in_memory(loaded: LoadedModel, photo: Path, tmp_path: Path, kind: str) -> None:
    image = Image.open(photo)
    array = np.asarray(image)
    given = {"pil": image, "array": array, "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1)}[kind]
    one = look(loaded, given, html=tmp_path / "one.html", method=["attention"])
    other = look(loaded, photo, html=tmp_path / "other.html", method=["attention"])
    assert one.score == pytest.approx(other.score) and one.image == "0"


def test_several_labels_and_numbers(loaded: LoadedModel, photo: Path, tmp_path: Path) -> None:
    logits = loaded.predict(photo).logits[0]
    labels = LoadedModel(**{**vars(loaded), "problem": "multi_label", "temperature": 2.0})
    found = look(labels, photo, html=tmp_path / "labels.html", method=["attention"])
    assert found.score == pytest.approx(1 / (1 + np.exp(-logits.max() / 2)), rel=1e-5)
    numbers = LoadedModel(**{**vars(loaded), "problem": "regression"})
    found = look(numbers, photo, html=tmp_path / "numbers.html", method=["attention"])
    assert (found.answer, found.probability) == ("hat", False)
    assert found.score == pytest.approx(logits[0], rel=1e-5)
    assert next(found.lines()) == f"photo.png: hat, {logits[0]:.4g}, says vit_nano_patch4_32"


def test_refusals(loaded: LoadedModel, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    with pytest.raises(RegardError, match=r"a folder; the page shows exactly one image"):
        look(loaded, photo.parent, html=out)
    with pytest.raises(RegardError, match=r"^image: 2 given; the page shows exactly one$"):
        look(loaded, [photo, photo], html=out)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        look(loaded, tmp_path / "nowhere.png", html=out)
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(ImageError, match=r"bad\.png"):
        look(loaded, tmp_path / "bad.png", html=out)
    with pytest.raises(RegardError, match=r"^target hats: no class of vit_nano_patch4_32; nearest: hat"):
        look(loaded, photo, html=out, target="hats")
    with pytest.raises(RegardError, match="target true: the image has no file"):
        look(loaded, np.zeros((32, 32, 3), np.uint8), html=out, target="true")
    with pytest.raises(RegardError, match=r"layers: 9 is none; the model has 0 .* to 3"):
        look(loaded, photo, html=out, layers=[9])
    with pytest.raises(RegardError, match=r"^magic: no such method of explanation"):
        look(loaded, photo, html=out, method=["magic"])
    with pytest.raises(RegardError, match=r"`regard explain` shows where it looks, `regard figures` what is inside"):
        look(fresh_model("resnet20_32", CLASSES), photo, html=out)
    with pytest.raises(RegardError, match=r"^method rollout: .*not defined"):
        look(fresh_model("botnet20_32", CLASSES), photo, html=out, method=["rollout"])
    assert not out.exists()


def test_the_command(loaded: LoadedModel, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", "vit_nano_patch4_32", str(tmp_path / "none.png"), "--html", str(tmp_path / "a.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
