"""What the convolutional networks have in common: published counts, rates they have or refuse, small members."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.models import Features, Heads, count_gmacs, count_parameters, create_model, model_spec
from regard.models.convolutional import leave_heads_out, of_map

PUBLISHED = {  # facts: parameters, those without auxiliary classifiers, GMAC at the image size, classes
    "alexnet": (61_100_840, 61_100_840, 0.714, 1000),
    "vgg16": (138_357_544, 138_357_544, 15.470, 1000),
    "vgg16_bn": (138_365_992, 138_365_992, 15.470, 1000),
    "vgg19": (143_667_240, 143_667_240, 19.632, 1000),
    "googlenet": (13_004_888, 6_624_904, 1.498, 1000),
    "inception_v3": (27_161_264, 23_834_568, 5.713, 1000),
    "convnext_tiny": (28_589_128, 28_589_128, 4.456, 1000),
    "deeplabv3_resnet50": (42_004_074, 39_638_869, 168.731, 21),
    "deeplabv3_resnet101": (60_996_202, 58_630_997, 248.752, 21),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n == "deeplabv3_resnet101" else n for n in PUBLISHED]
)
def test_counts_are_the_published_ones(name: str) -> None:
    parameters, without, gmacs, classes = PUBLISHED[name]
    with torch.device("meta"):
        model = create_model(name, classes)
    assert count_parameters(model) == parameters
    plain = {key: p for key, p in model.named_parameters() if not key.lower().startswith("aux")}
    assert sum(p.numel() for p in plain.values()) == without
    size = {"inception_v3": 299, "deeplabv3_resnet50": 520, "deeplabv3_resnet101": 520}.get(name, 224)
    assert round(count_gmacs(model, size), 3) == gmacs


@pytest.mark.parametrize(
    "name", ["vgg_nano_32", "vgg_nano_bn_32", "googlenet_nano_32", "convnext_micro_32", "plain20_32"]
)
def test_small_members_are_small(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 10)
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert count_parameters(model) <= 1_500_000
    assert count_gmacs(model, 32) < 0.15


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("alexnet", "drop_path_rate"),
        ("vgg11", "drop_path_rate"),
        ("googlenet", "drop_path_rate"),
        ("inception_v3", "drop_path_rate"),
        ("convnext_tiny", "drop_rate"),
        ("deeplabv3_resnet50", "drop_path_rate"),
        ("plain20_32", "drop_rate"),
        ("plain20_32", "drop_path_rate"),
    ],
)
def test_a_rate_that_the_paper_has_not_is_refused(name: str, rate: str) -> None:
    with pytest.raises(RegardError, match=f"{rate}=0.1: {name} has no (dropout|stochastic depth); leave it at 0"):
        create_model(name, 10, **{rate: 0.1})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("alexnet", [0.25, 0.25]),
        ("vgg16", [0.25, 0.25]),
        ("googlenet", [0.25, 0.7, 0.7]),
        ("googlenet_nano_32", [0.25]),
        ("inception_v3", [0.25]),
        ("deeplabv3_resnet50", [0.1, 0.25]),
    ],
)
def test_dropout_is_where_the_paper_has_it_and_off_unless_asked_for(name: str, rates: list[float]) -> None:
    for asked, expected in ((0.25, rates), (0.0, [0.0] * len(rates))):
        with torch.device("meta"):
            model = create_model(name, 10, drop_rate=asked)
        assert sorted(m.p for m in model.modules() if isinstance(m, nn.Dropout)) == expected


@pytest.mark.parametrize(
    ("name", "smallest"),
    [("alexnet", 63), ("vgg11", 32), ("googlenet", 15), pytest.param("inception_v3", 299, marks=pytest.mark.long)],
)
def test_an_image_that_is_too_small_is_refused_and_the_smallest_is_not(name: str, smallest: int) -> None:
    with pytest.raises(
        RegardError, match=f"^img_size={smallest - 1}: {name} needs {smallest} pixels per side or more$"
    ):
        create_model(name, 10, smallest - 1)
    with torch.device("meta"):
        model = create_model(name, 10, smallest).train()
        answers = model(torch.zeros(2, 3, smallest, smallest))
    heads = (answers.logits, *answers.others) if isinstance(answers, Heads) else (answers,)
    assert {tuple(logits.shape) for logits in heads} == {(2, 10)}


@pytest.mark.parametrize(
    "name", ["resnet18", "plain20_32", "alexnet", "vgg11_bn", "googlenet", "inception_v3", "convnext_tiny"]
)
def test_the_sheet_says_that_it_is_convolutional_and_how_it_is_trained(name: str) -> None:
    spec = model_spec(name)
    assert spec.convolutional and spec.patch_size is None and "arXiv" in spec.paper
    # SGD but for ConvNeXt; a tenth of the rate without batch normalisation
    assert spec.sgd_lr == {"alexnet": 0.01, "convnext_tiny": 0.0}.get(name, 0.1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vgg_nano_bn_32", "googlenet_nano_32", "convnext_micro_32", "plain20_32"])
def test_channels_last_gives_the_same(name: str) -> None:
    torch.manual_seed(0)
    model, x = create_model(name, 10).eval(), torch.randn(2, 3, 32, 32)
    plain = model(x)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), plain, rtol=1e-4, atol=1e-5)


def test_tokens_are_the_pixels_of_the_map_row_by_row() -> None:
    x = torch.arange(2 * 5 * 2 * 3.0).reshape(2, 5, 2, 3)
    features = of_map(x, x.mean((-2, -1)))
    assert isinstance(features, Features) and features.grid == (2, 3) and features.prefix == 0 and features.cls is None
    assert torch.equal(features.tokens[1, 4], x[1, :, 1, 1])  # row 1, column 1 of 3


def test_a_model_without_its_heads_gives_what_they_would_read() -> None:
    torch.manual_seed(0)
    model, x = create_model("googlenet", 5).eval(), torch.randn(2, 3, 32, 32)
    pooled = model.features(x).pooled  # pyright: ignore[reportCallIssue]
    leave_heads_out(model)
    assert torch.equal(model(x), pooled)
    aux1, aux2 = model.train()(x).others
    assert aux1.shape == aux2.shape == (2, 1024)
