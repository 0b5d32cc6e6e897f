"""Filters: components equal those of the covariance; filters shown as they are give what the layer gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regard.analysis.filters import filters
from regard.errors import RegardError
from regard.models import create_model
from regard.taps import record


@pytest.mark.parametrize(
    ("name", "layer", "side", "shown"),
    [
        ("vit_tiny_patch16_224", "patch_embed.proj", 16, 28),
        ("swin_nano_patch2_window4_32", "patch_embed.proj", 2, 12),
        ("pixel_transformer_8", "patch_embed.proj", 1, 3),
    ],
)
def test_components_are_those_of_the_covariance(name: str, layer: str, side: int, shown: int) -> None:
    torch.manual_seed(1)
    model = create_model(name, 3)
    found = filters(model)
    weight = model.get_submodule(layer).weight.detach().double().flatten(1).numpy()
    assert (found.layer, found.count, found.tiles.shape) == (layer, len(weight), (shown, side, side, 3))
    values, vectors = np.linalg.eigh(np.cov(weight.T))
    values, vectors = values[::-1][:shown], vectors[:, ::-1][:, :shown].T
    tiles = found.tiles.transpose(0, 3, 1, 2).reshape(shown, -1)
    assert found.share is not None
    np.testing.assert_allclose(found.share, values / np.trace(np.cov(weight.T)), rtol=1e-8)
    np.testing.assert_allclose(np.abs((tiles * vectors).sum(1)), 1, rtol=1e-6)
    largest = np.abs(tiles).argmax(1)
    assert (tiles[np.arange(shown), largest] > 0).all()
    assert np.array_equal(filters(model).tiles, found.tiles)


def test_a_cnns_filters_are_shown_as_they_are() -> None:
    model = create_model("resnet20_32", 3)
    found = filters(model)
    weight = model.get_submodule("conv1").weight.detach()
    assert found.share is None
    np.testing.assert_allclose(found.tiles, weight.permute(0, 2, 3, 1))


def test_a_hybrids_stem_is_shown_as_it_works() -> None:
    model, patch = create_model("vit_nano_r8_s4_32", 3), torch.randn(1, 3, 32, 32)
    found = filters(model)
    with record(model, found.layer) as seen, torch.no_grad():
        model(patch)
    padded = F.pad(patch, (2, 3, 2, 3))[0].double()  # SAME padding of a 7x7 window with stride 2
    window = padded[:, 10:17, 6:13].permute(1, 2, 0).numpy()  # row 5, column 3 of the output
    np.testing.assert_allclose(seen[found.layer][0, :, 5, 3], (found.tiles * window).sum((1, 2, 3)), atol=1e-5)


@pytest.mark.parametrize("mixer", ["performer", "transformer"])
def test_t2ts_values_are_the_filters_on_normalised_windows(mixer: str) -> None:
    from regard.models.t2t import T2TViT

    torch.manual_seed(1)
    windows = ((3, 1, 1), (3, 2, 1), (3, 2, 1))
    model = T2TViT(16, 12, 1, 3, 2, mixer=mixer, token_dim=8, windows=windows, num_classes=3).eval()
    nn.init.normal_(model.tokens_to_token.attention1.norm1.weight)
    found = filters(model)
    image = torch.randn(1, 3, 16, 16)
    with record(model, "tokens_to_token.attention1.**.v") as seen, torch.no_grad():
        model(image)
    (values,) = seen.values()
    window = image[0, :, 4:7, 8:11].double()  # the one in the middle of which is pixel (5, 9)
    window = ((window - window.mean()) / (window.var(correction=0) + 1e-5).sqrt()).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(values[0, 0, 5 * 16 + 9], (found.tiles * window).sum((1, 2, 3)), atol=1e-5)


def test_any_model_whose_first_convolution_reads_colours() -> None:
    found = filters(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    assert (found.layer, found.tiles.shape) == ("0", (4, 5, 5, 3))
    with pytest.raises(RegardError, match="filters: Linear has no convolution of three channels"):
        filters(nn.Linear(3, 2))
