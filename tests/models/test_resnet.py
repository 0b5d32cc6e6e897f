from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from regard.models import count_gmacs, count_parameters, create_model
from regard.models.resnet import PlainBlock, ZeroPadShortcut

PUBLISHED = {  # facts: parameters, GMAC at 224
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    parameters, gmacs = PUBLISHED[name]
    assert count_parameters(model) == parameters
    assert round(count_gmacs(model, 224), 3) == gmacs


# He et al. 2015, Table 6: layers and millions of parameters with 10 classes
@pytest.mark.parametrize(
    ("name", "layers", "millions"),
    [("resnet20_32", 20, 0.27), ("resnet32_32", 32, 0.46), ("resnet56_32", 56, 0.85)],
)
def test_small_networks_have_the_papers_layers_and_parameters(name: str, layers: int, millions: float) -> None:
    model = create_model(name, num_classes=10)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers
    # The paper rounds down (resnet56: 0.8530), or counts without the norms' weights.
    assert abs(count_parameters(model) / 1e6 - millions) < 0.006


@pytest.mark.parametrize("size", [18, 34])
def test_plain_networks_have_the_residual_ones_weights_but_the_projections(size: int) -> None:
    with torch.device("meta"):
        plain, residual = create_model(f"plain{size}"), create_model(f"resnet{size}")
    ours, theirs = plain.state_dict(), residual.state_dict()
    projections = {key for key in theirs if ".downsample." in key}
    assert len(projections) == 3 * 6  # a convolution and a norm (5 tensors) at the start of each later stage
    assert {key: t.shape for key, t in ours.items()} == {k: t.shape for k, t in theirs.items() if k not in projections}
    macs = sum(
        theirs[f"layer{i}.0.downsample.0.weight"].numel() * side**2
        for i, side in zip((2, 3, 4), (28, 14, 7), strict=True)
    )
    assert count_gmacs(residual, 224) - count_gmacs(plain, 224) == pytest.approx(macs / 1e9)


@pytest.mark.parametrize("layers", [20, *(pytest.param(n, marks=pytest.mark.long) for n in (32, 56))])
def test_small_plain_networks_have_exactly_the_residual_ones_weights(layers: int) -> None:
    with torch.device("meta"):
        plain, residual = create_model(f"plain{layers}_32", 10), create_model(f"resnet{layers}_32", 10)
    shapes = [{key: t.shape for key, t in m.state_dict().items()} for m in (plain, residual)]
    assert shapes[0] == shapes[1]


@torch.no_grad()
def test_nothing_leads_around_a_plain_block() -> None:
    """With its last norm at zero a block gives zeros, where a residual one gives its input."""
    x = torch.rand(2, 8, 4, 4) + 1
    for block, expected in ((PlainBlock(8, 8, 1, nn.Identity()), torch.zeros_like(x)), (BasicBlock(8, 8), x)):
        nn.init.zeros_(block.bn2.weight)  # pyright: ignore[reportArgumentType]
        assert torch.equal(block.eval()(x), expected)
        assert [name for name, _ in block.named_children()] == ["conv1", "bn1", "relu", "conv2", "bn2"]


def test_the_parameter_free_shortcut_takes_every_second_pixel_and_pads_channels() -> None:
    x = torch.randn(2, 4, 6, 6)
    y = ZeroPadShortcut()(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 6:].any()


@pytest.mark.parametrize(
    ("size", "kernel", "grid"), [(32, 3, (4, 4)), (63, 3, (8, 8)), (64, 7, (2, 2)), (96, 7, (3, 3))]
)
def test_the_stem_follows_the_image_size(size: int, kernel: int, grid: tuple[int, int]) -> None:
    model = create_model("resnet18", num_classes=3, img_size=size).eval()
    assert model.get_parameter("conv1.weight").shape == (64, 3, kernel, kernel)
    features = model.features(torch.zeros(1, 3, size, size))  # pyright: ignore[reportCallIssue]
    assert features.grid == grid and features.tokens.shape == (1, grid[0] * grid[1], 512)


def test_channels_last_gives_the_same() -> None:
    torch.manual_seed(0)
    model, x = create_model("resnet20_32", num_classes=10).eval(), torch.randn(2, 3, 32, 32)
    plain = model(x)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), plain, rtol=1e-4, atol=1e-5)
