"""Ours against Hugging Face's and open_clip's CLIP: max |difference| <= 1e-5 max |reference| in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models import create_model
from regard.models.clip import CLIP
from regard.weights import convert, load_state

SIZES = {
    "img_size": 32, "patch_size": 8, "width": 64, "depth": 3, "num_heads": 1, "embed_dim": 24,
    "text_width": 32, "text_depth": 2, "text_heads": 4, "context_length": 11, "vocabulary": 70,
}  # fmt: skip  # one head: open_clip's image heads are 64 wide
END = 69


def shake(model: nn.Module) -> nn.Module:
    """Draws every parameter anew, so that none hides behind its 0 or 1."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        norm = name.endswith("weight") and parameter.ndim == 1
        nn.init.normal_(parameter, mean=1.0 if norm else 0.0, std=0.15)
    return model.eval()


def assert_parity(ours: Tensor, reference: Tensor) -> None:
    assert ours.shape == reference.shape and reference.std() > 0.01
    assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()


def pairs() -> tuple[Tensor, Tensor]:
    """Three images and four texts, whose ends are at 2, 4, 6 and 8."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, END, (4, 11), generator=generator)
    for row in range(4):
        tokens[row, 2 * row + 2] = END
        tokens[row, 2 * row + 3 :] = 0
    return torch.randn(3, 3, 32, 32, generator=generator), tokens


def converted(theirs: nn.Module, constants: dict[str, Tensor]) -> CLIP:
    """Our model with their weights, which lie in the file beside `constants`."""
    ours = CLIP(**SIZES).eval()
    said = load_state(ours, dict(theirs.state_dict()) | constants)
    assert said == [f"left out {', '.join(constants)}: numbers that follow from the model, no weights"]
    return ours


@torch.no_grad()
def test_hugging_faces_clip_gives_the_same_features_and_logits() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": 70, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 11, "eos_token_id": END, "bos_token_id": 68,
        },
        vision_config={
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 1,
            "image_size": 32, "patch_size": 8,
        },
        projection_dim=24,
    )  # fmt: skip
    theirs = shake(transformers.CLIPModel(config))
    ids = {
        "text_model.embeddings.position_ids": torch.arange(11)[None],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    ours = converted(theirs, ids)
    images, tokens = pairs()
    found = theirs(input_ids=tokens, pixel_values=images)
    assert_parity(ours(images, tokens), found.logits_per_image)
    image = theirs.get_image_features(pixel_values=images).pooler_output  # pyright: ignore[reportCallIssue]
    text = theirs.get_text_features(input_ids=tokens).pooler_output  # pyright: ignore[reportCallIssue]
    assert_parity(ours.encode_image(images), image)
    assert_parity(ours.encode_text(tokens), text)


@torch.no_grad()
def test_open_clips_clip_gives_the_same_features_and_logits() -> None:
    model = pytest.importorskip("open_clip.model", reason="open_clip_torch is not installed")
    theirs = shake(
        model.CLIP(
            embed_dim=24,
            vision_cfg={"layers": 3, "width": 64, "head_width": 64, "patch_size": 8, "image_size": 32},
            text_cfg={"context_length": 11, "vocab_size": 70, "width": 32, "heads": 4, "layers": 2},
            quick_gelu=True,
        )
    )
    constants = {name: torch.tensor(0) for name in ("input_resolution", "context_length", "vocab_size")}
    constants["attn_mask"] = torch.zeros(11, 11)
    ours = converted(theirs, constants)
    images, tokens = pairs()
    image = theirs.encode_image(images)  # pyright: ignore[reportCallIssue]
    text = theirs.encode_text(tokens)  # pyright: ignore[reportCallIssue]
    assert_parity(ours.encode_image(images), image)
    assert_parity(ours.encode_text(tokens), text)
    assert_parity(ours(images, tokens), theirs.get_logits(images, tokens)[0])  # pyright: ignore[reportCallIssue]


def test_a_strange_name_is_named() -> None:
    names = ("text_model.embeddings.token_embedding.weight", "text_model.pooler.weight")
    with pytest.raises(RegardError, match=r"text_model\.pooler\.weight: no part of a Hugging Face CLIP"):
        convert(dict.fromkeys(names, torch.zeros(2, 2)))


def test_weights_of_a_clip_are_refused_for_a_vit_and_the_other_way_round() -> None:
    state = CLIP(**SIZES).state_dict()
    with pytest.raises(RegardError, match="weights of a CLIP, but vit_tiny_patch16_224 is of the family vit"):
        convert(state, "vit_tiny_patch16_224")
    with pytest.raises(RegardError, match="but clip_vit_base_patch16 is of the family clip"):
        convert(create_model("vit_nano_patch4_32").state_dict(), "clip_vit_base_patch16")


def test_a_file_that_lacks_a_part_is_refused_by_name() -> None:
    state = CLIP(**SIZES).state_dict()
    del state["visual.ln_pre.weight"]
    with pytest.raises(RegardError, match=r"the weights lack visual\.ln_pre\.weight"):
        load_state(CLIP(**SIZES), state)


@pytest.mark.parametrize("patch_size", [32, 16])
def test_full_size_has_open_clips_names_and_shapes(patch_size: int) -> None:
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    with torch.device("meta"):
        theirs = open_clip.CLIP(**open_clip.get_model_config(f"ViT-B-{patch_size}-quickgelu"))
        ours = create_model(f"clip_vit_base_patch{patch_size}")
    shapes = [{name: t.shape for name, t in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
