from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, default_preprocess, fresh_model, load_model
from regard.models import create_model
from regard.results import Cost, Predictions
from regard.runs import Run
from regard.weights import save_state

NAME = "vit_nano_patch4_32"
CLASSES = ("bee", "cat", "dog")
SMALL = Preprocess(32, 1.0, "squash")


def photos(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(count)]


class Small(nn.Module):
    """A user's own CNN, without anything of ours."""

    def __init__(self, outputs: int = 3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.aside = nn.Linear(5, 5)  # a Linear that is not the head
        self.answer = nn.Linear(5, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(self.aside(self.body(x)))


def write_run(folder: Path, loaded: LoadedModel) -> Run:
    run = Run.create(folder)
    run.write_classes(loaded.classes)
    run.write_config({"model": loaded.name, "preprocess": loaded.preprocess.to_config()})
    save_state(run.weights_path, loaded.model.state_dict(), {})
    empty = Predictions((), np.empty((0, len(loaded.classes)), np.float32), np.empty(0, np.int64), loaded.classes)
    run.write_predictions({"val": empty, "test": empty}, 0, 1.0)
    result = {"model": loaded.name, "method": "scratch", "seed": 0, "fraction": 1.0, "train_images": 9}
    result |= {"images_seen": 9, "temperature": 1.7, "unsure_below": 0.4, "deterministic": False}
    run.write_result(result | {"pretraining": loaded.pretraining}, Cost(parameters=1))
    return run


def test_a_fresh_model_answers_and_embeds() -> None:
    loaded = fresh_model(NAME, CLASSES)
    found = loaded.predict(photos(5), batch_size=2)
    assert found.logits.shape == (5, 3)
    assert found.logits.dtype == np.float32
    assert found.ids == tuple(f"image/{n}" for n in range(5))
    assert (found.labels == -1).all()
    assert loaded.pretraining == "none (trained from scratch)"
    assert loaded.preprocess.size == 32
    vectors = loaded.embed(photos(5), batch_size=3)
    linear = loaded.model.get_submodule(loaded.head)
    assert isinstance(linear, nn.Linear)
    again = vectors @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    np.testing.assert_allclose(again, found.logits, atol=1e-5)


def test_every_kind_of_image_gives_the_same_answer(tmp_path: Path) -> None:
    loaded = fresh_model(NAME, CLASSES)
    array = photos(1)[0]
    path = tmp_path / "one.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    answers = [loaded.predict(image).logits for image in (array, path, str(path), Image.open(path), tensor)]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])
    several = loaded.predict(np.stack([array, array]))
    assert several.logits.shape == (2, 3)
    assert loaded.predict([path, array]).ids == (path.as_posix(), "image/1")


def test_a_bad_image_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    loaded = fresh_model(NAME, CLASSES)
    with pytest.raises(RegardError, match=r"bad\.jpg"):
        loaded.predict([bad])
    with pytest.raises(RegardError, match=r"bad\.jpg"):
        loaded.embed([bad])


def test_default_preprocessing_squashes_tiny_images_only() -> None:
    assert default_preprocess(32).resize == "squash"
    assert default_preprocess(32).crop_pct == 1.0
    assert default_preprocess(64) == Preprocess(64, 0.9)


def test_weights_of_a_file(tmp_path: Path) -> None:
    model = create_model(NAME, num_classes=3).eval()
    path = tmp_path / "w.safetensors"
    save_state(path, model.state_dict(), {})
    loaded = load_model(NAME, weights=path, classes=CLASSES)
    assert loaded.classes == CLASSES
    assert "w.safetensors" in loaded.pretraining
    assert not loaded.model.training
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded.model(x), model(x))
    assert load_model(NAME, weights=path).classes == ("class 0", "class 1", "class 2")


def test_a_fresh_head_and_resampled_positions_are_said_aloud(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_state(path, create_model(NAME, num_classes=3).state_dict(), {})
    loaded = load_model(NAME, weights=path, classes=list("abcde"), num_classes=5, img_size=48)
    assert loaded.predict(photos(1)).logits.shape == (1, 5)
    assert loaded.preprocess.size == 48
    said = " ".join(loaded.messages)
    assert "head" in said
    assert "resampled" in said


def test_a_model_without_published_weights_says_so() -> None:
    with pytest.raises(RegardError, match=r"--weights FILE"):
        load_model(NAME)
    with pytest.raises(RegardError, match=r"nearest"):
        load_model("vit_nanno_patch4_32", weights="x")


def test_a_file_in_place_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"")
    with pytest.raises(RegardError, match=r"name its architecture"):
        load_model(path)


def test_a_run_loads_with_everything_that_belongs_to_it(tmp_path: Path) -> None:
    first = fresh_model(NAME, CLASSES, preprocess=Preprocess(32, 0.8, "short", "bilinear"))
    write_run(tmp_path / "run", first)
    again = load_model(tmp_path / "run")
    assert (again.classes, again.preprocess, again.name) == (CLASSES, first.preprocess, NAME)
    assert (again.temperature, again.unsure_below) == (1.7, 0.4)
    np.testing.assert_array_equal(again.predict(photos(3)).logits, first.predict(photos(3)).logits)
    other = load_model(str(tmp_path / "run"), classes=["x", "y"], num_classes=2)
    assert other.predict(photos(1)).logits.shape == (1, 2)
    assert other.temperature == 1.0
    assert "untrained" in " ".join(other.messages)


def test_a_flipped_bit_in_a_run_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", fresh_model(NAME, CLASSES))
    data = bytearray(run.weights_path.read_bytes())
    data[-100] ^= 1
    run.weights_path.write_bytes(bytes(data))
    with pytest.raises(RegardError, match=r"model\.safetensors.*tensor"):
        load_model(tmp_path / "run")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match=r"no run here"):
        load_model(tmp_path)


def test_a_module_of_the_users() -> None:
    module = Small()
    loaded = load_model(module, preprocess=SMALL, classes=CLASSES)
    assert loaded.model is module
    assert (loaded.head, loaded.name, loaded.spec) == ("answer", "Small", None)
    vectors = loaded.embed(photos(4))
    assert vectors.shape == (4, 5)
    logits = loaded.predict(photos(4)).logits
    weight, bias = module.answer.weight.detach().numpy(), module.answer.bias.detach().numpy()
    np.testing.assert_allclose(vectors @ weight.T + bias, logits, atol=1e-5)


def test_a_module_with_a_new_head() -> None:
    module = Small()
    loaded = load_model(module, preprocess=SMALL, classes=["a", "b"], num_classes=2)
    assert module.answer.out_features == 2
    assert loaded.predict(photos(1)).classes == ("a", "b")


def test_what_is_missing_for_a_module_is_said() -> None:
    with pytest.raises(RegardError, match=r"preprocess=Preprocess\("):
        load_model(Small())
    with pytest.raises(RegardError, match=r"answers 3 classes, but classes= names 2"):
        load_model(Small(), preprocess=SMALL, classes=["a", "b"])
    with pytest.raises(RegardError, match=r"num_classes=4"):
        load_model(Small(), preprocess=SMALL, classes=["a", "b"], num_classes=4)
    with pytest.raises(RegardError, match=r"Flatten: gave \(1, 3, 1024\)"):
        load_model(nn.Flatten(2), preprocess=SMALL)
    with pytest.raises(RegardError, match=r"does not take images \(1, 3, 32, 32\)"):
        load_model(nn.Linear(5, 2), preprocess=SMALL)


def test_a_submodule_called_features_is_not_the_contract() -> None:
    class Old(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
            self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(12, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.features(x))

    loaded = load_model(Old(), preprocess=SMALL)
    assert loaded.head == "classifier.1"
    assert loaded.embed(photos(2)).shape == (2, 12)


def test_a_timm_model_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_vit", num_classes=7).eval()
    path = tmp_path / "w.safetensors"
    save_state(path, model.state_dict(), {})
    loaded = load_model("timm:test_vit", weights=path)
    assert len(loaded.classes) == 7
    assert loaded.preprocess.size == 160
    x = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(loaded.model(x), model(x))
    torch.testing.assert_close(
        torch.from_numpy(loaded.embed(photos(2))),
        model.forward_head(
            model.forward_features(torch.stack([loaded.preprocess(p) for p in photos(2)])), pre_logits=True
        ).detach(),
    )
    fresh = load_model("timm:test_vit", weights=path, classes=CLASSES, num_classes=3)
    assert fresh.predict(photos(1)).logits.shape == (1, 3)
    with pytest.raises(RegardError, match=r"does not fit"):
        load_model("timm:test_resnet", weights=path)


def test_timm_refuses_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RegardError, match=r"nearest: timm:test_vit"):
        load_model("timm:test_vitt")
    with pytest.raises(RegardError, match=r"--weights FILE") as refusal:
        load_model("timm:test_vit")
    assert "\n" not in str(refusal.value)
    assert fresh_model("timm:test_vit", CLASSES).predict(photos(1)).logits.shape == (1, 3)


def test_timm_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RegardError, match=r"regard\[timm\]"):
        load_model("timm:test_vit")


def test_a_run_of_a_users_module_says_how_to_load_it(tmp_path: Path) -> None:
    module = Small()
    loaded = load_model(module, preprocess=SMALL, classes=CLASSES)
    run = write_run(tmp_path / "run", loaded)
    with pytest.raises(RegardError, match=r"load_model\(module, weights="):
        load_model(tmp_path / "run")
    again = load_model(Small(), weights=run.weights_path, preprocess=SMALL, classes=json.loads('["a","b","c"]'))
    np.testing.assert_array_equal(again.predict(photos(2)).logits, loaded.predict(photos(2)).logits)
