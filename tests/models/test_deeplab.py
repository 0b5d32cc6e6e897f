from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.models import Heads, create_model

CLASSES = 4


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("deeplabv3_resnet50", CLASSES, 32)


@torch.no_grad()
def test_every_pixel_has_logits_and_the_auxiliary_head_speaks_in_training_only(model: nn.Module) -> None:
    said = []
    handle = model.get_submodule("aux_classifier").register_forward_hook(lambda m, args, output: said.append(output))
    x = torch.randn(2, 3, 33, 48)
    logits = model.eval()(x)
    assert logits.shape == (2, CLASSES, 33, 48) and not said
    state = {key: value.clone() for key, value in model.state_dict().items()}
    heads = model.train()(x)
    model.load_state_dict(state)  # training moved the running statistics
    handle.remove()
    assert isinstance(heads, Heads) and heads.logits.shape == (2, CLASSES, 33, 48)
    assert [other.shape for other in heads.others] == [(2, CLASSES, 33, 48)] and len(said) == 1


@torch.no_grad()
def test_its_last_stages_keep_the_resolution(model: nn.Module) -> None:
    """Output stride 8: rates in place of strides (the replaced stride's own block keeps the rate before)."""
    rates = {
        stage: [unit.conv2.dilation[0] for unit in model.get_submodule(f"backbone.{stage}")]  # pyright: ignore
        for stage in ("layer3", "layer4")
    }
    assert rates == {"layer3": [1, 2, 2, 2, 2, 2], "layer4": [2, 4, 4]}
    assert model.eval().features(torch.zeros(1, 3, 32, 48)).grid == (4, 6)  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def test_the_head_of_the_pooled_features_gives_the_mean_logits(model: nn.Module) -> None:
    x = torch.randn(2, 3, 32, 32)
    features = model.eval().features(x)  # pyright: ignore[reportCallIssue]
    head = model.get_submodule("classifier.4")
    low = head(features.tokens.transpose(1, 2).reshape(2, 256, 4, 4))  # (2, K, 4, 4)
    upsampled = nn.functional.interpolate(low, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled, model(x))
    torch.testing.assert_close(head(features.pooled[:, :, None, None])[..., 0, 0], low.mean((2, 3)))
