"""Similarity of tokens by depth: loops over pairs in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.analysis.token_similarity import token_similarity
from regard.errors import RegardError
from regard.models import create_model
from regard.taps import edit, record

PREFIX = {
    "vit_nano_patch4_32": 1,
    "vit_nano_patch4_32+pool=mean": 0,
    "deit_nano_distilled_patch4_32": 2,
    "vit_nano_patch4_reg4_dinov2_32": 5,
    "t2t_vit_nano_32": 1,
    "vit_nano_r8_s4_32": 1,
    "swin_nano_patch2_window4_32": 0,
}


def pairs(tokens: list[list[float]]) -> float:
    """Mean cosine of all pairs of different tokens."""
    lengths = [math.sqrt(sum(x * x for x in token)) for token in tokens]
    cosines = [
        sum(a * b for a, b in zip(tokens[i], tokens[j], strict=True)) / (lengths[i] * lengths[j])
        for i in range(len(tokens))
        for j in range(i)
    ]
    return sum(cosines) / len(cosines)


def test_equals_a_loop_over_pairs() -> None:
    torch.manual_seed(1)
    model, images = create_model("vit_nano_patch4_32", 3).eval(), torch.randn(2, 3, 32, 32)
    with record(model, "embedded", "blocks.3.tokens") as seen, torch.no_grad():
        model(images)
    found = token_similarity(model, images.split(1))
    for place, name in ((0, "embedded"), (4, "blocks.3.tokens")):
        each = [pairs(tokens[1:].double().tolist()) for tokens in seen[name]]
        assert found.depths[place] == name
        assert found.similarity[place] == pytest.approx(np.mean(each), abs=1e-6)
        assert found.spread[place] == pytest.approx(np.std(each), abs=1e-6)


@pytest.mark.parametrize("name", PREFIX)
def test_patches_alone_count_in_every_model(name: str) -> None:
    torch.manual_seed(1)
    model, images = create_model(name, 3).eval(), torch.randn(2, 3, 32, 32)

    def alike(tokens: Tensor) -> Tensor:
        """The same vector in every patch, and random ones before."""
        same = torch.randn_like(tokens[:, :1]).expand_as(tokens).clone()
        same[:, : PREFIX[name]] = torch.randn_like(same[:, : PREFIX[name]])
        return same

    last = token_similarity(model, [images]).depths[-1]
    with edit(model, {last: alike}):
        found = token_similarity(model, [images])
    assert found.similarity[-1] == pytest.approx(1, abs=1e-5)
    assert found.similarity[0] < 0.9
    assert found.depths[0] == "embedded"


def test_refuses_by_name() -> None:
    with pytest.raises(RegardError, match=r"token_similarity: ResNet has no tokens.*ViT, DeiT"):
        token_similarity(create_model("resnet20_32", 3), [torch.randn(1, 3, 32, 32)])
    with pytest.raises(RegardError, match="token_similarity: Conv2d has no tokens"):
        token_similarity(nn.Conv2d(3, 3, 1), [torch.randn(1, 3, 32, 32)])
