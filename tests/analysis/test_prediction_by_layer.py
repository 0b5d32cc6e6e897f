"""Prediction by layer equals what the model cut off after that block answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from regard.analysis.prediction_by_layer import prediction_by_layer
from regard.errors import RegardError
from regard.models import create_model
from regard.models.swin import Swin

NAMES = (
    "vit_nano_patch4_32",
    "vit_nano_patch4_32+pool=mean",
    "vit_nano_patch4_32+pool=max",
    "deit_nano_distilled_patch4_32",
    "vit_nano_patch4_reg4_dinov2_32",
    "t2t_vit_nano_32",
    "vit_nano_r8_s4_32",
    "swin_nano_patch2_window4_32",
)


def cut(model: nn.Module, blocks: int) -> nn.Module:
    """The model with so many of its (last stage's) blocks."""
    model = copy.deepcopy(model)
    if isinstance(model, Swin):
        stage = model.layers[-1]
        stage.blocks = stage.blocks[:blocks]
    else:
        model.blocks = model.get_submodule("blocks")[:blocks]
    return model


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_model_cut_off(name: str) -> None:
    torch.manual_seed(1)
    model, images = create_model(name, 5).eval(), torch.randn(3, 3, 32, 32)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    found = prediction_by_layer(model, images.split(2), top=5)
    swin = isinstance(model, Swin)
    assert found.skipped == (5 if swin else 0)
    assert len(found.depths) == (2 if swin else 5)
    with torch.no_grad():
        final = model(images)
        for place in range(len(found.depths)):
            answers = cut(model, place + 1 if swin else place)(images)
            order = [int(number.removeprefix("class ")) for number in found.classes]
            wanted = answers[0].double().softmax(0)[order].numpy()
            np.testing.assert_allclose(found.probabilities[place], wanted, atol=2e-6)
            share = sum(answers[i].argmax() == final[i].argmax() for i in range(3)) / 3
            assert found.agreement[place] == pytest.approx(float(share))
    assert found.agreement[-1] == 1
    assert found.images == 3
    assert (np.diff(found.probabilities[-1]) <= 0).all(), "the most probable class comes first"
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-6)


def test_names_and_refusals() -> None:
    model, images = create_model("vit_nano_patch4_32", 3), torch.randn(1, 3, 32, 32)
    found = prediction_by_layer(model, [images], classes=("cat", "dog", "boat"), top=2)
    assert len(found.classes) == 2
    assert set(found.classes) < {"cat", "dog", "boat"}
    with pytest.raises(RegardError, match="has no head of classes"):
        prediction_by_layer(create_model("vit_nano_patch4_32", 0), [images])
    with pytest.raises(RegardError, match="ResNet has no tokens"):
        prediction_by_layer(create_model("resnet20_32", 3), [images])
    with torch.device("meta"), pytest.raises(RegardError, match="CLIP has no head of classes"):
        prediction_by_layer(create_model("clip_vit_base_patch32"), [images])
