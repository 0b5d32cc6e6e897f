from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from regard.errors import RegardError
from regard.models import create_model
from regard.models.sam import SAM
from regard.runs import Run
from regard.segmentation.loading import load_segmenter
from regard.weights import save_state

NANO = "sam_nano_128"


@pytest.fixture(scope="module")
def nano() -> SAM:
    torch.manual_seed(0)
    model = create_model(NANO)
    assert isinstance(model, SAM)
    return model


def assert_same(segmenter, model: SAM) -> None:
    """Every value, of every parameter and buffer: nothing of a fresh model is left."""
    state = segmenter.model.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert all(not tensor.is_meta for tensor in [*segmenter.model.parameters(), *segmenter.model.buffers()])
    assert not segmenter.model.training


@pytest.mark.parametrize("kind", ["pth", "safetensors", "folder", "ours"])
@pytest.mark.parametrize("named", [True, False])
def test_weights_of_every_kind_with_the_name_of_the_model_and_without(nano, tmp_path, kind, named):
    path = tmp_path / {"pth": "sam.pth", "safetensors": "a.safetensors", "folder": "hub", "ours": "b.safetensors"}[kind]
    if kind == "pth":
        torch.save(nano.state_dict(), path)
    elif kind == "safetensors":
        save_file(nano.state_dict(), path)
    elif kind == "ours":
        save_state(path, nano.state_dict())
    else:
        path.mkdir()
        save_file(nano.state_dict(), path / "model.safetensors")
    segmenter = load_segmenter(NANO, weights=path) if named else load_segmenter(str(path))
    assert_same(segmenter, nano)
    assert segmenter.name == NANO
    assert [message.split(":")[1] for message in segmenter.messages] == ([] if kind == "ours" else [" unverified"])
    segmenter.set_image(np.zeros((40, 60, 3), np.uint8))
    assert segmenter.predict([[3, 4]], [1])[0].shape == (3, 40, 60)


def test_a_run(nano, tmp_path):
    larger = create_model(NANO, img_size=160)
    run = Run.create(tmp_path / "run")
    run.write_config({"task": "segment", "model": NANO, "img_size": 160})
    save_state(run.weights_path, larger.state_dict())
    segmenter = load_segmenter(tmp_path / "run", device="cpu", precision="bf16", cache=tmp_path / "cache")
    assert_same(segmenter, larger)
    assert segmenter.model.img_size == 160 and segmenter.precision == "bf16" and segmenter.messages == []
    segmenter.embed(np.zeros((40, 60, 3), np.uint8))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(RegardError, match=r"^weights: not with the run .+, which has its own; name the model instead$"):
        load_segmenter(tmp_path / "run", weights=run.weights_path)


def line(*arguments, **options) -> str:
    with pytest.raises(RegardError) as raised:
        load_segmenter(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_models_weights_and_runs_of_another_task(nano, tmp_path):
    assert line("vit_tiny_patch16_224").startswith(
        "vit_tiny_patch16_224: its task is 'classify', and here prompts become masks; choose sam_nano_128, sam_vit_b"
    )
    vit = create_model("vit_tiny_patch16_224", num_classes=3)
    path = save_state(tmp_path / "vit.safetensors", vit.state_dict())
    assert line(path).startswith(f"{path}: not weights of a SAM, they fit vit_tiny_patch16_224; expected those of")
    assert "of the family sam" in line(NANO, weights=path)
    strange = save_state(tmp_path / "strange.safetensors", {"a": torch.zeros(2)})
    assert line(strange).startswith(f"{strange}: not weights of a SAM, they fit no model that is known")
    run = Run.create(tmp_path / "run")
    run.write_config({"model": "vit_tiny_patch16_224"})
    assert line(run.folder).startswith(f"{run.folder}, a run of vit_tiny_patch16_224: its task is 'classify'")
    other = Run.create(tmp_path / "other")
    other.write_config({"model": "MyModule"})
    assert line(other.folder).startswith(f"{other.folder}: was trained from MyModule, which is not here; choose a run")


def test_what_is_not_there_is_named(nano, tmp_path, monkeypatch):
    assert line("sam_vit_x").startswith("sam_vit_x: no such model, file or folder; choose sam_nano_128, sam_vit_b")
    assert line("runs/none").startswith(
        "runs/none: no such file or folder; expected a run, weights, or one of sam_nano"
    )
    assert line(NANO).startswith(f"{NANO}: no weights of it were published; give those that you trained (weights=")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert line(empty).startswith(f"{empty}: a folder without weights")
    path = save_state(tmp_path / "nano.safetensors", nano.state_dict())
    assert line(path, weights=path) == f"weights: not with {path}, which is weights itself; name the model instead"
    assert line(NANO, weights=tmp_path / "none.pth").startswith(f"{tmp_path / 'none.pth'}: no such file or folder")
    assert line(path, device="moon").startswith("device='moon': cannot be used (")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    unfound = line("sam_vit_b")
    assert unfound.startswith("sam_vit_b.sa1b: its weights cannot be had (HF_HUB_OFFLINE is set")
    assert "give a file that you have (weights=, --weights FILE)" in unfound


def test_weights_that_do_not_fit_leave_with_the_name_of_the_model_that_they_fit(nano, tmp_path):
    path = save_state(tmp_path / "nano.safetensors", nano.state_dict())
    assert line("sam_vit_b", weights=path).endswith(f"they fit {NANO}")
    state = nano.state_dict()
    del state["mask_decoder.iou_token.weight"]
    path = save_state(tmp_path / "lacking.safetensors", state)
    assert "the weights lack mask_decoder.iou_token.weight" in line(NANO, weights=path)


def test_a_clip_finds_texts(nano, tmp_path, monkeypatch):
    class Clip:
        messages = ("its file is unverified",)

    path = save_state(tmp_path / "nano.safetensors", nano.state_dict())
    monkeypatch.setattr("regard.inference.image_text.load_clip", lambda source, announce: Clip())
    segmenter = load_segmenter(path, clip="a folder")
    assert segmenter.text_ranker is not None and isinstance(segmenter.text_ranker.clip, Clip)
    assert segmenter.messages == ["its file is unverified"]


def test_announces_a_download_and_takes_what_it_brings(nano, tmp_path, monkeypatch):
    """The published file of a name, here a small one in its place."""
    told = []
    path = Path(tmp_path / "sam.pth")
    torch.save(nano.state_dict(), path)
    monkeypatch.setattr(
        "regard.segmentation.loading.obtain", lambda checkpoint, announce, otherwise: announce("!") or path
    )
    monkeypatch.setattr("regard.segmentation.loading.create_model", lambda name, img_size: create_model(NANO))
    segmenter = load_segmenter("sam_vit_b", announce=told.append)
    assert_same(segmenter, nano)
    assert told == ["!"] and segmenter.name == "sam_vit_b.sa1b"
