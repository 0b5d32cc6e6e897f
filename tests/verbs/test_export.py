"""`regard export`: files that other engines run, and nothing left of those that say something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.exporting import onnx_files
from regard.exporting.segmenter import decoder_inputs
from regard.inference.loaded import LoadedModel, fresh_model
from regard.models.sam import SAM, Prompts
from regard.runs.atomic import sha256_of
from regard.segmentation.segmenter import Segmenter
from regard.verbs.export import export

# Looked for and not imported: OpenVINO reports its use unless it is imported as `openvino_backend` does it.
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, onnx_files.PACKAGES)), reason="needs the extra export: pip install 'regard[export]'"
)


class Small(nn.Module):
    """Seconds of drawing are spent per layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 8, stride=8), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


def classifier() -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(Small().eval(), Preprocess(32), ("a", "b", "c"), "small", "none", head="head")


def test_a_classifier_is_a_file_that_answers_any_number_of_photos(tmp_path: Path) -> None:
    import onnxruntime

    loaded = classifier()
    exported = export(loaded, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "model.onnx"]
    assert [(one.engine, one.output) for one in exported.agreements] == [
        ("ONNX Runtime", "logits"),
        ("OpenVINO", "logits"),
    ]
    assert max(one.difference for one in exported.agreements) < 1e-5
    card = json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    assert card["classes"] == ["a", "b", "c"] and card["files"] == {
        "model.onnx": sha256_of(tmp_path / "out" / "model.onnx")
    }
    preprocess = Preprocess.from_config(card["preprocess"])
    photos = [*load_sample_images().images, np.zeros((50, 40, 3), np.uint8)]
    images = torch.stack([preprocess(photo) for photo in photos]).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    (logits,) = session.run(None, {"images": images})
    np.testing.assert_allclose(logits, loaded.predict(photos).logits, rtol=1e-4, atol=1e-5)
    assert "ONNX Runtime" in "\n".join(exported.lines())
    before = (tmp_path / "out" / "model.onnx").read_bytes()
    with pytest.raises(RegardError, match="already holds an export; use --overwrite"):
        export(loaded, out=tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == before


def test_a_file_that_says_something_else_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "regard.exporting.classifier.write_onnx", lambda module, inputs, outputs, path, *rest: path.touch()
    )

    def lies(path: Path) -> Callable[[onnx_files.Named], list[np.ndarray]]:
        return lambda inputs: [np.zeros((len(inputs["images"]), 3), np.float32)]

    monkeypatch.setitem(onnx_files.ENGINES, "ONNX Runtime", lies)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        RegardError, match=r"model\.onnx: says something else in ONNX Runtime: logits differs by 1\.0e\+00"
    ):
        export(classifier(), out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "export.json").write_text("an earlier one")
    with pytest.raises(RegardError, match="nothing is left of the export"):
        export(classifier(), out=tmp_path / "out", overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "export.json"]


def test_what_cannot_be_exported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RegardError, match=r"gru_tiny: its task is 'seq2seq', and classifiers and SAM are exported"):
        export("gru_tiny", out=tmp_path / "out")
    with pytest.raises(RegardError, match=r"opset=7: expected 18 to 23"):
        export(classifier(), out=tmp_path / "out", opset=7)
    with pytest.raises(RegardError, match=r"sam_nano_128: no weights of it were published"):
        export("sam_nano_128", out=tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(RegardError, match=r"holds 'thesis\.txt' but no export"):
        export(classifier(), out=tmp_path / "mine", overwrite=True)
    with pytest.raises(RegardError, match="is a file; expected a folder"):
        export(classifier(), out=tmp_path / "mine" / "thesis.txt")
    with pytest.raises(RegardError, match="no such file or folder"):
        export(classifier(), out=tmp_path / "out", check_on=[tmp_path / "none.jpg"])

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    branching = LoadedModel(Branching().eval(), Preprocess(32), ("a", "b", "c"), "branching", "none")
    with pytest.raises(RegardError, match=r"model\.onnx: torch cannot draw its graph"):
        export(branching, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(onnx_files, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(RegardError, match=r"export: needs no_such_package; pip install 'regard\[export\]'"):
        export(classifier(), out=tmp_path / "out")


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["resnet20_32", "vit_nano_patch4_32", "swin_nano_patch2_window4_32", "convnext_micro_32"]
)
def test_models_of_every_kind_are_drawn(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    loaded = fresh_model(name, ("a", "b", "c"))
    nn.init.normal_(loaded.model.get_submodule(loaded.head).get_parameter("weight"))  # a fresh head says nothing
    assert len(export(loaded, out=tmp_path / "out").agreements) == 2


@pytest.mark.long
def test_sam_is_an_encoder_and_a_decoder_of_any_number_of_prompts_and_points(tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    model = SAM(64, 8, 12, 2, 2, (1,), 3, dim=16, decoder_heads=2, decoder_hidden=8)
    for name, parameter in model.named_parameters():
        norm = name.endswith("weight") and parameter.ndim == 1
        nn.init.normal_(parameter, mean=1.0 if norm else 0.0, std=0.2)
    segmenter = Segmenter(model, "tiny")
    exported = export(segmenter, out=tmp_path / "out")
    assert sorted(exported.files) == ["decoder.onnx", "encoder.onnx"]
    assert len(exported.agreements) == 2 * 4 and max(one.difference for one in exported.agreements) < 2e-5
    card = json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    assert (card["task"], card["size"], len(card["compared"])) == ("mask-generation", 64, 8)
    decoder = onnxruntime.InferenceSession(tmp_path / "out" / "decoder.onnx")
    assert [side for given in decoder.get_inputs() for side in given.shape if isinstance(side, str)] == [
        *("prompts", "points"), *("prompts", "points"), "prompts", "prompts",
    ]  # fmt: skip
    photo = np.random.default_rng(0).integers(0, 256, (90, 33, 3), np.uint8)
    embedded = segmenter.embed(photo)
    for prompts, points in ((1, 1), (1, 7), (6, 1), (5, 4)):
        asked = Prompts(30 * torch.rand(prompts, points, 2), torch.randint(0, 2, (prompts, points)))
        inputs = decoder_inputs(model, embedded.frame, asked)
        masks, iou, low = decoder.run(None, {"image_embeddings": embedded.embedding.numpy(), **inputs})
        wanted = segmenter.decode(embedded, asked)
        assert masks.shape == (prompts, 4, 90, 33)
        np.testing.assert_allclose(iou, wanted.iou.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(low, wanted.logits.numpy(), atol=1e-4 * float(wanted.logits.abs().max()))
