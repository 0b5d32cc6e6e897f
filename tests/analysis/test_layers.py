"""Which outputs of a model are its layers, and what a place, a class token and a mean of them are."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from regard.analysis.layers import Layer, layers_of, probes, seen_layers
from regard.errors import RegardError
from regard.models import create_model

RESNET20 = ["maxpool", *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2))]
VIT = ["embedded", *(f"blocks.{n}.tokens" for n in range(4))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_nano_patch4_32", VIT),
        ("deit_nano_distilled_patch4_32", VIT),
        ("vit_nano_patch4_reg4_dinov2_32", VIT),
        ("resnet20_32", RESNET20),
        ("plain20_32", RESNET20),
        ("vgg_nano_bn_32", [*(f"features.{n}" for n in (2, 6, 9, 13, 16, 20)), "classifier.1", "classifier.4"]),
        ("convnext_micro_32", ["features.0.1", *(f"features.{n}" for n in ("1.0", "1.1", "2.1", "3.0", "3.1", "3.2"))]),
        ("googlenet_nano_32", ["conv1", *(f"inception{n}" for n in ("3a", "3b", "4a", "4b", "5a", "5b"))]),
        ("t2t_vit_nano_32", ["tokens_to_token.attention1.tokens", "tokens_to_token.attention2.tokens", *VIT]),
        (
            "vit_nano_r8_s4_32",
            [f"patch_embed.backbone.{n}" for n in ("stem.pool", "stages.0.blocks.0", "stages.0.blocks.1")] + VIT,
        ),
    ],
)
def test_blocks_of_the_registry(name: str, expected: list[str]) -> None:
    found = layers_of(create_model(name, 3), torch.zeros(1, 3, 32, 32))
    assert [layer.name for layer in found] == expected
    assert all(layer.grid is not None for layer in found if not layer.name.startswith("classifier"))


def test_merged_tokens_keep_their_own_grids() -> None:
    found = layers_of(create_model("swin_nano_patch2_window4_32", 3), torch.zeros(1, 3, 32, 32))
    assert [(layer.grid, layer.prefix) for layer in found] == [((16, 16), 0)] * 3 + [((8, 8), 0)] * 3 + [
        ((4, 4), 0)
    ] * 3


def test_modules_of_others() -> None:
    vit = torchvision.models.VisionTransformer(16, 4, 2, 2, 8, 16)
    assert [(layer.name, layer.grid, layer.prefix) for layer in layers_of(vit, torch.zeros(1, 3, 16, 16))][1:] == [
        (f"encoder.layers.encoder_layer_{n}", (4, 4), 1) for n in (0, 1)
    ]
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 2))
    assert [(layer.name, layer.grid) for layer in layers_of(mlp, torch.zeros(1, 3, 4, 4))] == [("2", None)]


class Last(nn.Module):
    """Gives (B, h, w, C), and a second thing beside it."""

    def forward(self, images: Tensor) -> tuple[Tensor, int]:
        return images.permute(0, 2, 3, 1)[..., :2], 1


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Last()

    def forward(self, images: Tensor) -> Tensor:
        self.inner(images)
        return self.inner(images + 1)[0].mean((1, 2))


def test_tuples_channels_last_and_repeated_calls() -> None:
    images = torch.randn(2, 3, 4, 4)
    (layer,) = layers_of(Twice(), images)
    assert (layer.name, layer.grid, layer.last) == ("inner", (4, 4), True)
    model = Twice()
    with seen_layers(model, [layer]) as seen:
        model(images)
    tokens = layer.tokens(seen["inner"])
    assert torch.equal(tokens, (images + 1)[:, :2].flatten(2).transpose(1, 2))
    assert torch.equal(layer.feature(seen["inner"], "mean"), tokens.mean(1))
    assert torch.equal(layer.feature(seen["inner"], "tokens"), tokens.flatten(1))


def test_features_of_tokens() -> None:
    layer, tokens = Layer("x", (5, 3), (2, 2), 1, True), torch.randn(2, 5, 3)
    assert torch.equal(layer.feature(tokens, "class"), tokens[:, 0])
    assert torch.equal(layer.feature(tokens, "mean"), tokens[:, 1:].mean(1))


def test_probes_give_the_squared_length() -> None:
    random = torch.Generator().manual_seed(0)
    vector = torch.randn(7, generator=random)
    exact = (probes(1, 7, 7, random)[:, 0] @ vector).square().sum()
    drawn = (probes(1, 7, 6, random).shape, probes(4000, 7, 6, random))
    assert exact == pytest.approx(float(vector.square().sum()), rel=1e-5)
    assert drawn[0] == (6, 1, 7)
    assert float((drawn[1] @ vector).square().sum(0).mean()) == pytest.approx(float(exact), rel=0.05)


def test_refusals() -> None:
    model = create_model("resnet20_32", 3)
    with pytest.raises(RegardError, match="layer9: matches no tap or module"):
        layers_of(model, torch.zeros(1, 3, 32, 32), ["layer9"])
    with pytest.raises(RegardError, match="consists of no parts"):
        layers_of(nn.Flatten(), torch.zeros(1, 3, 4, 4))
