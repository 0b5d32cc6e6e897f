"""Channels of q, k and v: each value where its patch is, in windows too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regard.analysis.qkv_channels import qkv_channels
from regard.errors import RegardError
from regard.models import create_model
from regard.models.swin import Swin
from regard.taps import record


def test_values_lie_where_their_patches_are() -> None:
    model, images = create_model("deit_nano_distilled_patch4_32", 3).eval(), torch.randn(2, 3, 32, 32)
    found = qkv_channels(model, images.split(1), layer=1, head=2)
    with record(model, "blocks.1.norm1") as seen, torch.no_grad():
        model(images[:1])
    qkv = (seen["blocks.1.norm1"][0] @ model.blocks[1].attn.qkv.weight.T + model.blocks[1].attn.qkv.bias).detach()
    assert (found.layer, found.head) == ("blocks.1.attn", 2)
    for third, images_of in enumerate((found.q, found.k, found.v)):
        assert images_of.shape == (32, 8, 8)
        for channel, row, column in ((0, 0, 0), (5, 2, 7), (31, 7, 1)):
            wanted = qkv[2 + 8 * row + column, 96 * third + 32 * 2 + channel]  # two tokens come before the patches
            assert images_of[channel, row, column] == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.parametrize("layer", range(4))  # shifted or not, filled up or not
def test_windows_are_put_back(layer: int) -> None:
    torch.manual_seed(1)
    model, image = Swin(28, 2, 4, 12, (2, 2), (2, 3), num_classes=3).eval(), torch.randn(1, 3, 28, 28)
    stage, block = divmod(layer, 2)
    name = f"layers.{stage}.blocks.{block}"
    with record(model, f"{name}.norm1") as seen, torch.no_grad():
        model(image)
    tokens, linear = seen[f"{name}.norm1"][0], model.get_submodule(f"{name}.attn.qkv")
    q, k, v = (tokens @ linear.weight.T + linear.bias).detach().chunk(3, dim=-1)
    found = qkv_channels(model, [image], layer=layer, head=1)
    width = len(found.q)
    for images_of, wanted in ((found.q, q), (found.k, k), (found.v, v)):
        of_head = wanted[:, width : 2 * width].T.unflatten(1, images_of.shape[1:])
        np.testing.assert_allclose(images_of, of_head, atol=1e-5)


def test_the_photo_is_as_it_was() -> None:
    model = create_model("vit_nano_patch4_32", 3)
    pixels = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    image = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    found = qkv_channels(model, [image[None]], mean=mean, std=std)
    assert np.array_equal(found.photo, pixels.permute(1, 2, 0).numpy())


def test_says_which_layers_and_heads_there_are() -> None:
    model, images = create_model("vit_nano_patch4_32", 3), torch.randn(1, 3, 32, 32)
    assert qkv_channels(model, [images]).layer == "blocks.3.attn"
    with pytest.raises(RegardError, match="layer=4: expected one of 0 to 3, or -1 for the last"):
        qkv_channels(model, [images], layer=4)
    with pytest.raises(RegardError, match="head=-4: expected one of 0 to 2"):
        qkv_channels(model, [images], head=-4)
    with pytest.raises(RegardError, match="qkv_channels: ResNet has no attention"):
        qkv_channels(create_model("resnet20_32", 3), [images])
