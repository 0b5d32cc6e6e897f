from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.models import create_model
from regard.models.vgg import VGG


@pytest.mark.parametrize(("name", "layers"), [("vgg11", 11), ("vgg13", 13), ("vgg16", 16), ("vgg19", 19)])
def test_layers_with_weights_are_those_of_the_name(name: str, layers: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers
    assert all(m.kernel_size == (3, 3) for m in model.modules() if isinstance(m, nn.Conv2d))


def test_n_stacked_convolutions_see_2n_plus_1_pixels() -> None:
    """The deck's count: seven 3x3 convolutions see 15x15 pixels with 63 weights per pair of channels, not 225."""
    n = 7
    model = VGG((n,), (1,), side=1, hidden=2, num_classes=1)
    stack = nn.Sequential(*[m for m in model.features if isinstance(m, nn.Conv2d)][1:], nn.Conv2d(1, 1, 3, padding=1))
    for module in stack:
        nn.init.ones_(module.weight)  # pyright: ignore[reportArgumentType]
    image = torch.zeros(1, 1, 31, 31, requires_grad=True)
    stack(image)[0, 0, 15, 15].backward()
    assert image.grad is not None
    rows, columns = image.grad[0, 0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 22, 8, 22)  # 15 of 31 pixels
    assert sum(m.weight.numel() for m in stack) == 9 * n  # pyright: ignore[reportCallIssue,reportArgumentType]


def test_features_reach_past_the_hidden_layers() -> None:
    """The last map has other channels than what the head reads."""
    model = create_model("vgg_nano_32", 5).eval()
    features = model.final_features(torch.randn(2, 3, 32, 32))  # pyright: ignore[reportCallIssue]
    assert features.tokens.shape == (2, 4 * 4, 128) and features.grid == (4, 4)
    assert features.pooled.shape == (2, 256)


def test_fresh_weights_are_as_the_table_says() -> None:
    torch.manual_seed(0)
    model = VGG((2, 2), (32, 64), batch_norm=True, side=4, hidden=256)
    convolution, linear = model.get_submodule("features.3"), model.get_submodule("classifier.0")
    assert isinstance(convolution, nn.Conv2d) and isinstance(linear, nn.Linear) and convolution.bias is not None
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.03)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert not convolution.bias.any() and not linear.bias.any()
    ours = create_model("vgg_nano_32").get_submodule("classifier.0")
    assert isinstance(ours, nn.Linear) and ours.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.03)
