from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.models import count_parameters
from regard.models.clip import CLIP, SPECS
from regard.taps import Tap, edit, record

TINY = {
    "img_size": 32, "patch_size": 8, "width": 48, "depth": 2, "num_heads": 3, "embed_dim": 20,
    "text_width": 32, "text_depth": 3, "text_heads": 4, "context_length": 12, "vocabulary": 60,
}  # fmt: skip
END = 59


def tiny() -> CLIP:
    torch.manual_seed(0)
    return CLIP(**TINY).eval()


def texts(count: int = 4) -> torch.Tensor:
    """Rows of 12 with the end of text at 3, 4, ... and zeros behind it."""
    tokens = torch.randint(1, END, (count, 12), generator=torch.Generator().manual_seed(2))
    for row in range(count):
        tokens[row, row + 3] = END
        tokens[row, row + 4 :] = 0
    return tokens


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("patch_size", "whole", "image_tower"), [(32, 151_277_313, 87_849_216), (16, 149_620_737, 86_192_640)]
)
def test_counts_are_the_published_ones_to_the_digit(patch_size: int, whole: int, image_tower: int) -> None:
    spec = next(spec for spec in SPECS if spec.patch_size == patch_size)
    with torch.device("meta"):
        model = spec.build(num_classes=1000, img_size=224, drop_rate=0.0, drop_path_rate=0.0)
    assert isinstance(model, CLIP)
    assert count_parameters(model) == whole
    assert count_parameters(model.visual) == image_tower
    assert whole - image_tower - 1 == 63_428_096  # the text tower


def test_dropout_is_refused_by_name() -> None:
    with pytest.raises(RegardError, match=r"drop_rate=0.1: clip_vit_base_patch32 has no dropout"):
        SPECS[0].build(num_classes=1000, img_size=224, drop_rate=0.1, drop_path_rate=0.0)


@torch.no_grad()
def test_logits_are_scaled_cosines() -> None:
    model, x, tokens = tiny(), images(), texts()
    image, text = model.encode_image(x), model.encode_text(tokens)
    assert image.shape == (3, 20) and text.shape == (4, 20)
    logits = model(x, tokens)
    for i in range(3):
        for t in range(4):
            cosine = torch.cosine_similarity(image[i], text[t], dim=0)
            assert logits[i, t].item() == pytest.approx(cosine.item() / 0.07, rel=1e-4)
    assert torch.equal(model.features(x).pooled @ model.visual.proj, image)


@torch.no_grad()
def test_an_image_and_a_text_do_not_know_their_neighbours() -> None:
    model, x, tokens = tiny(), images(), texts()
    logits = model(x, tokens)
    assert torch.allclose(model(x[1:2], tokens[2:3]), logits[1:2, 2:3], atol=1e-5)


@torch.no_grad()
def test_a_text_ends_at_its_end() -> None:
    model, tokens = tiny(), texts()
    before = model.encode_text(tokens)
    padded = tokens.clone()
    padded[tokens == 0] = 7  # behind the end of every row
    assert torch.equal(model.encode_text(padded), before)
    assert torch.allclose(model.encode_text(tokens[:, :8]), before, atol=1e-6)
    changed = tokens.clone()
    changed[:, 1] = (tokens[:, 1] + 1) % 50 + 1
    assert not torch.allclose(model.encode_text(changed), before, atol=1e-4)


@torch.no_grad()
def test_listening_changes_nothing_and_no_token_sees_a_later_one() -> None:
    model, x, tokens = tiny(), images(), texts()
    plain = model(x, tokens)
    with record(model, "**") as seen:
        listened = model(x, tokens)
    assert (listened - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert torch.equal(model(x, tokens), plain)
    taps = {name for name, module in model.named_modules() if isinstance(module, Tap)}
    assert taps <= seen.keys()
    image, text = seen["visual.transformer.resblocks.0.attn.pattern"], seen["transformer.resblocks.2.attn.pattern"]
    assert image.shape == (3, 3, 17, 17) and image.gt(0).all()
    assert text.shape == (4, 4, 12, 12) and text.triu(1).eq(0).all()
    assert torch.allclose(text.sum(-1), torch.ones(4, 4, 12))
    assert seen["visual.patches"].shape == (3, 16, 48) and seen["transformer.resblocks.1.mlp.hidden"].shape[-1] == 128


@torch.no_grad()
def test_what_is_changed_in_a_tap_reaches_the_logits() -> None:
    model, x, tokens = tiny(), images(), texts()
    plain = model(x, tokens)
    for name in ("visual.transformer.resblocks.1.attn.pattern", "transformer.resblocks.0.mlp.hidden", "positions"):
        with edit(model, {name: torch.zeros_like}):
            assert not torch.allclose(model(x, tokens), plain, atol=1e-4), name


def test_backward_reaches_every_parameter() -> None:
    model = tiny().train()
    logits = model(images(4), texts(4))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_fresh_weights_follow_the_table() -> None:
    torch.manual_seed(0)
    w, n = 128, 3
    model = CLIP(
        img_size=32, patch_size=8, width=w, depth=2, num_heads=4, embed_dim=64, text_width=w, text_depth=n,
        text_heads=4, context_length=32, vocabulary=500,
    )  # fmt: skip
    stds = {
        "token_embedding.weight": 0.02, "positional_embedding": 0.01, "text_projection": w**-0.5,
        "transformer.resblocks.1.attn.in_proj_weight": w**-0.5,
        "transformer.resblocks.1.attn.out_proj.weight": (2 * n * w) ** -0.5,
        "transformer.resblocks.1.mlp.c_fc.weight": (2 * w) ** -0.5,
        "transformer.resblocks.1.mlp.c_proj.weight": (2 * n * w) ** -0.5,
        "visual.class_embedding": w**-0.5, "visual.positional_embedding": w**-0.5, "visual.proj": w**-0.5,
        "visual.transformer.resblocks.0.attn.in_proj_weight": (2 / (4 * w)) ** 0.5,
        "visual.transformer.resblocks.0.attn.out_proj.weight": (3 * w) ** -0.5,
        "visual.conv1.weight": (3 * 3 * 64) ** -0.5,
    }  # fmt: skip
    for name, std in stds.items():
        tolerance = 0.25 if name == "visual.class_embedding" else 0.1  # 128 numbers only
        assert model.get_parameter(name).std().item() == pytest.approx(std, rel=tolerance), name
    for name, parameter in model.named_parameters():
        if name.endswith(("in_proj_bias", "out_proj.bias")):
            assert not parameter.any(), name
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_images_and_texts_of_another_size_are_refused() -> None:
    model = tiny()
    with pytest.raises(RegardError, match="images: are 40x40, the model was made for 32x32"):
        model.encode_image(torch.zeros(1, 3, 40, 40))
    with pytest.raises(RegardError, match="tokens: rows of 13, the model reads at most 12"):
        model.encode_text(torch.zeros(1, 13, dtype=torch.long))


@torch.no_grad()
def test_it_exports() -> None:
    model, x, tokens = tiny(), images(), texts()
    exported = torch.export.export(model, (x, tokens)).module()
    assert torch.allclose(exported(x, tokens), model(x, tokens), atol=1e-5)
