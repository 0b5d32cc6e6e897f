"""A CLIP from a folder against transformers and open_clip reading the same files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from regard.errors import RegardError
from regard.inference.image_text import ImageText, load_clip
from regard.models.clip import CLIP
from regard.weights import save_state

pytest.importorskip("tokenizers", reason="tokenizers is not installed")
SIGNS = [*map(chr, [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]), *map(chr, range(256, 324))]
WORDS = [*SIGNS, *(f"{sign}</w>" for sign in SIGNS), "<|startoftext|>", "<|endoftext|>"]
SIZE = 32
TEXTS = ["a dog", "it's 42 cats", "x"]


def write_tokenizer(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def write_preprocessor(folder: Path, size: int = SIZE) -> None:
    config = {
        "size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}, "resample": 3,
        "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], "do_center_crop": True,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def shake(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim:
            nn.init.normal_(parameter, mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.15)
    return model.eval()


def hugging_face(folder: Path, **of_vision: Any) -> Any:
    """A tiny CLIP of transformers, saved as the hub has it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 40, "eos_token_id": len(WORDS) - 1,
        },
        vision_config={
            "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3,
            "image_size": SIZE, "patch_size": 8, **of_vision,
        },
        projection_dim=24,
    )  # fmt: skip
    model = shake(transformers.CLIPModel(config))
    model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    write_tokenizer(folder)
    write_preprocessor(folder)
    return model


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, 50, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


@torch.no_grad()
def test_a_folder_of_the_hub_compares_as_transformers_does(tmp_path: Path, picture: Image.Image) -> None:
    theirs = hugging_face(tmp_path)
    ours = load_clip(tmp_path)
    transformers = pytest.importorskip("transformers")
    words = transformers.CLIPTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    wide = np.asarray(picture)[:, 9:41]  # the middle
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
    images = torch.from_numpy(((wide / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    expected = theirs(pixel_values=images, **words).logits_per_image
    pixels = ours.preprocess.pixels(picture)[None]
    found = ours.scale * ours.images(pixels) @ ours.texts(TEXTS).T
    assert found.shape == expected.shape == (1, 3) and expected.std() > 0.01
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_weights_in_open_clips_names_with_their_own_heads(tmp_path: Path) -> None:
    module = pytest.importorskip("open_clip.model", reason="open_clip_torch is not installed")
    vision = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": SIZE}
    text = {"context_length": 40, "vocab_size": len(WORDS), "width": 32, "heads": 4, "layers": 2}
    theirs = shake(module.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=True))
    config = {"model_cfg": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}}
    save_state(tmp_path / "open_clip_model.safetensors", dict(theirs.state_dict()))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path)
    ours = load_clip(tmp_path / "open_clip_model.safetensors")
    pixels = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    images, texts = ours.preprocess.normalise(pixels), ours.tokenizer(TEXTS)
    expected = theirs.get_logits(images, texts)[0]  # pyright: ignore[reportCallIssue]
    found = ours.scale * ours.images(pixels) @ ours.texts(TEXTS).T
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    config["model_cfg"]["quick_gelu"] = False
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(RegardError, match=r"open_clip_config\.json: a CLIP with the activation gelu"):
        load_clip(tmp_path / "open_clip_model.safetensors")


def plain(folder: Path) -> ImageText:
    """A folder of weights and a tokenizer, and nothing else, loaded."""
    torch.manual_seed(0)
    model = CLIP(SIZE, 8, 64, 1, 1, 24, 64, 1, 1, context_length=40, vocabulary=len(WORDS))
    save_state(folder / "model.safetensors", model.state_dict())
    write_tokenizer(folder)
    return load_clip(folder)


def test_without_a_config_sizes_are_those_of_the_weights(tmp_path: Path) -> None:
    clip = plain(tmp_path)
    assert clip.model.visual.img_size == clip.preprocess.size == SIZE
    assert clip.preprocess.resize == "short" and clip.preprocess.mean[0] == pytest.approx(0.48145466)
    assert clip.messages == () and clip.scale == pytest.approx(1 / 0.07)
    vectors = clip.texts([*TEXTS, *TEXTS])
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(6)) and torch.allclose(vectors[:3], vectors[3:], atol=1e-6)
    assert torch.allclose(clip.texts(TEXTS[2:]), vectors[2:3], atol=1e-6)  # whatever stands beside it


def test_a_text_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match=r"text 'dogdog.*the model reads 40; shorten it"):
        plain(tmp_path).texts(["dog" * 20])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"vision_config": {"hidden_act": "gelu"}}', "a CLIP with the activation gelu; ours has"),
        ("config.json", "[1]", "damaged .a list where an object was expected"),
        ("config.json", '{"text_config": null}', "not the configuration of a CLIP"),
        (
            "config.json",
            '{"vision_config": {"num_attention_heads": 0}}',
            "not the configuration of a CLIP .0 where a c",
        ),
        ("open_clip_config.json", '{"model_cfg": {"quick_gelu": 1, "text_cfg": 3}}', "not the configuration of a CLIP"),
        ("config.json", "{", "damaged .Expecting property name"),
        ("preprocessor_config.json", '{"size": {"longest_edge": 3}}', "not the preprocessing of a CLIP .KeyError"),
        ("preprocessor_config.json", '{"size": 16}', "the model sees 32 pixels per side, .* beside it makes 16"),
        (
            "vocab.json",
            '{"<|startoftext|>": 0, "<|endoftext|>": 1}',
            "end of text is number 1, of the weights' 514 words",
        ),
        ("vocab.json", "{", "is no tokenizer"),
    ],
)
def test_a_folder_that_contradicts_itself_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    plain(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(RegardError, match=message) as caught:
        load_clip(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_what_is_no_clip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RegardError, match=r"nowhere/clip: no such file or folder; expected a name, a folder"):
        load_clip("nowhere/clip")
    with pytest.raises(RegardError, match=r"resnet50: its task is 'classify', it reads no texts; choose clip_vit"):
        load_clip("resnet50")
    save_state(tmp_path / "model.safetensors", {"weight": torch.zeros(2, 2)})
    with pytest.raises(RegardError, match=r"not weights of a CLIP with a ViT .'visual.conv1.weight' is missing"):
        load_clip(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RegardError, match=r"cannot be had .* give a folder that holds them and the tok") as caught:
        load_clip("clip_vit_base_patch32")
    assert "--method" not in str(caught.value)
