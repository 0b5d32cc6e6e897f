"""SAM as a module: batches, number formats, export, image sizes, and what its taps show. Parity: tests/parity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from regard.analysis.attention_distance import attention_distance
from regard.analysis.cka import cka
from regard.analysis.position_similarity import position_products, position_similarity
from regard.errors import RegardError
from regard.models import create_model, features_of, head_names
from regard.models.attending import EMPTY, attention_layers
from regard.models.sam import SAM, ImageToToken, Prompts, TokenToImage
from regard.taps import record


def tiny(side: int = 40) -> SAM:
    """A map of 5 x 5 patches, in windows of 4 that are filled up, and in one layer as a whole."""
    torch.manual_seed(0)
    model = SAM(side, 8, 12, 3, 2, (1,), 4, dim=16, decoder_heads=2, decoder_hidden=8)
    for name, parameter in model.named_parameters():
        if "pos" in name:
            nn.init.normal_(parameter)
    return model.eval()


def asked(count: int = 3, side: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Images, two prompts of two points to each, and their labels."""
    random = torch.Generator().manual_seed(1)
    points = side * torch.rand(count, 2, 2, 2, generator=random)
    labels = torch.randint(-1, 2, (count, 2, 2), generator=random)
    return torch.randn(count, 3, side, side, generator=random), points, labels


@torch.no_grad()
def test_an_image_and_a_prompt_know_nothing_of_their_neighbours() -> None:
    model, (images, points, labels) = tiny().double(), (given.double() for given in asked())
    masks = model(images, points, labels)
    assert masks.logits.shape == (6, 4, 20, 20) and masks.iou.shape == (6, 4)
    alone = model(images[1:2], points[1:2], labels[1:2])
    torch.testing.assert_close(masks.logits[2:4], alone.logits)
    torch.testing.assert_close(masks.iou[2:4], alone.iou)
    one = model.decode(model.embed(images[1:2]), Prompts(points[1, :1], labels[1, :1]))
    torch.testing.assert_close(masks.logits[2:3], one.logits)
    images[0] = 100.0
    assert torch.equal(model(images, points, labels).logits[2:], masks.logits[2:])


@torch.no_grad()
def test_features_are_the_embedding_as_tokens() -> None:
    model, (images, *_) = tiny(), asked()
    features, embedding = features_of(model, images), model.embed(images)
    assert features.grid == (5, 5) and features.prefix == 0 and features.cls is None
    assert torch.equal(features.tokens[:, 7], embedding[:, :, 1, 2])
    torch.testing.assert_close(features.pooled, embedding.mean((2, 3)))
    assert head_names(model) == ("",)


@torch.no_grad()
def test_the_encoder_is_exported_whole() -> None:
    model, (images, *_) = tiny(), asked(1)
    program = torch.export.export(model.image_encoder, (images,))
    torch.testing.assert_close(program.module()(images), model.embed(images))


@torch.no_grad()
def test_the_encoder_in_bfloat16_says_nearly_the_same() -> None:
    model, (images, *_) = tiny(), asked()
    exact = model.embed(images)
    rough = model.bfloat16().embed(images.bfloat16())
    assert rough.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact.flatten(1), rough.float().flatten(1)).min() > 0.995


@torch.no_grad()
def test_distances_of_attention_are_those_of_a_plain_loop_over_windows() -> None:
    model, (images, *_) = tiny(), asked()
    found = attention_distance(model, [images[:2], images[2:]])
    assert found.layers == tuple(f"image_encoder.blocks.{number}.attn" for number in range(3))
    layers = attention_layers(model)
    assert [layer.windows is None for layer in layers] == [False, True, False]
    names = [f"{layer.name}.pattern" for layer in layers]
    with record(model, *names) as seen:
        model.embed(images)
    for number, layer in enumerate(layers):
        windows = torch.arange(25)[None] if layer.windows is None else layer.windows
        pattern = seen[names[number]].unflatten(0, (3, -1)).double()  # (B, W, H, n, n)
        totals = torch.zeros(2, dtype=torch.float64)
        for w, window in enumerate(windows.tolist()):
            inside = [place for place, token in enumerate(window) if token != EMPTY]
            for i in inside:
                weights = pattern[:, w, :, i, inside]  # (B, H, m)
                apart = torch.tensor([8 * math.dist(divmod(window[i], 5), divmod(window[j], 5)) for j in inside])
                totals += ((weights / weights.sum(-1, keepdim=True)) @ apart.double()).sum(0)
        torch.testing.assert_close(torch.from_numpy(found.pixels[number]), totals / (3 * 25), rtol=1e-5, atol=1e-5)


def test_figures_of_positions_and_of_layers() -> None:
    model, (images, *_) = tiny(), asked(8)
    similarity = position_similarity(model)
    assert similarity.grid == (5, 5)
    places = model.image_encoder.pos_embed.detach()[0]
    expected = torch.cosine_similarity(places[1, 2], places[3, 4], dim=0)
    assert similarity.similarity[7, 19] == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(RegardError, match="learns its positions; position_similarity shows those"):
        position_products(model)
    assert "blocks.1.tokens" in cka(model.image_encoder, [images]).rows


def test_what_it_cannot_take_is_one_line() -> None:
    with pytest.raises(RegardError, match=r"drop_path_rate=0\.1: sam_nano_128 has no dropout"):
        create_model("sam_nano_128", drop_path_rate=0.1)
    with pytest.raises(RegardError, match="32x32"):
        tiny().embed(torch.zeros(1, 3, 32, 32))
    with pytest.raises(RegardError, match="num_heads=5: does not divide the width 12"):
        SAM(40, 8, 12, 1, 5, (), 4, dim=16)
    with pytest.raises(RegardError, match="decoder_heads=3: does not divide the width 16"):
        SAM(40, 8, 12, 1, 2, (), 4, dim=16, decoder_heads=3)


@pytest.mark.parametrize("shared", [True, False], ids=["one image", "an image for each prompt"])
def test_attention_that_projects_the_tokens_only_is_that_of_the_paper(shared: bool) -> None:
    torch.manual_seed(0)
    prompts, image = torch.randn(3, 6, 16), torch.randn(1 if shared else 3, 25, 16)
    places = torch.randn(25, 16)
    for layer, asked in (
        (TokenToImage(16, 2, 8), (prompts, image + places, image)),
        (ImageToToken(16, 2, 8), (image + places, prompts, prompts + 1)),
    ):
        layer, given = layer.double(), [part.double().requires_grad_() for part in asked]
        short = layer(*given)
        with record(layer, "q", "pattern") as seen:
            written = layer(*given)
        torch.testing.assert_close(short, written)
        torch.testing.assert_close(seen["pattern"].sum(-1), torch.ones(seen["pattern"].shape[:-1]).double())
        weights = [*given, *(weight for name, weight in layer.named_parameters() if name != "k_proj.bias")]
        wanted = torch.randn(short.shape, dtype=torch.float64)
        for ours, theirs in zip(
            torch.autograd.grad((short * wanted).sum(), weights),
            torch.autograd.grad((written * wanted).sum(), weights),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_a_listener_of_the_decoder_changes_nothing_but_the_rounding() -> None:
    model, (images, points, labels) = tiny(), asked(1)
    alone = model(images, points, labels)
    with record(model, "mask_decoder.**.pattern", "mask_decoder.pixels") as seen:
        heard = model(images, points, labels)
    torch.testing.assert_close(heard.logits, alone.logits)
    torch.testing.assert_close(heard.iou, alone.iou)
    rounds = "mask_decoder.transformer.layers.1."
    assert seen[f"{rounds}self_attn.pattern"].shape == (2, 2, 8, 8)  # 5 tokens, 2 points and one that fills up
    assert seen[f"{rounds}cross_attn_token_to_image.pattern"].shape == (2, 2, 8, 25)
    assert seen[f"{rounds}cross_attn_image_to_token.pattern"].shape == (2, 2, 25, 8)
    assert seen["mask_decoder.pixels"].shape == (2, 2, 20, 20)
