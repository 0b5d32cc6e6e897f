"""Relevance (ICCV 2021) against (T, T) matrices multiplied in loops, and what all methods with gradients promise."""

from __future__ import annotations

import copy

import pytest
import torch
from plain_attention import (
    MODELS,
    Matrix,
    backbone,
    gradients,
    patterns,
    plain_map,
    plus,
    read_of,
    stacked,
    times,
    tiny,
)
from torch import Tensor

from regard.errors import RegardError
from regard.explanation import attention as attention_file
from regard.explanation import flow
from regard.explanation import gradient_rollout as gradient_rollout_file
from regard.explanation import relevance as relevance_file
from regard.explanation import rollout as rollout_file
from regard.explanation.flow import patterns_and_gradients
from regard.explanation.relevance import relevance
from regard.models import create_model
from regard.models.attending import attention_stack
from regard.models.clip import CLIP
from regard.taps import Tap, edit, record

WITH_GRADIENTS = [relevance_file.METHOD, gradient_rollout_file.METHOD]


@pytest.mark.parametrize("name", MODELS)
def test_relevance_is_the_product_of_matrices(name: str) -> None:
    model, images, classes = tiny(name)
    maps = relevance(model, images, classes)
    seen, slopes, layers = patterns(model, images), gradients(model, images, classes), backbone(model)
    assert maps.shape == (2, *layers[0].grid) and maps.dtype == torch.float32
    for image in range(2):
        matrices = {layer.name: abar(seen[layer.name][image], slopes[layer.name][image]) for layer in layers}
        product = stacked(layers, matrices, lambda matrix, found: plus(found, times(matrix, found)))
        wanted = plain_map(product, read_of(name, layers[-1].tokens), layers[0])
        assert wanted.std() > 1e-6
        torch.testing.assert_close(maps[image].double(), wanted, rtol=2e-7, atol=1e-12)  # float32


def abar(pattern: Tensor, gradient: Tensor) -> Matrix:
    """mean_h max(0, A G), of (H, T, T) each."""
    heads = list(zip(pattern.tolist(), gradient.tolist(), strict=True))
    size = range(pattern.shape[-1])
    return [[sum(max(a[i][j] * g[i][j], 0) for a, g in heads) / len(heads) for j in size] for i in size]


@pytest.mark.parametrize("name", ["token", "swin filled"])
def test_gradients_are_those_of_the_logit_by_the_pattern(name: str) -> None:
    """By finite differences, at the largest entry of the first and of the last layer."""
    model, images, classes = tiny(name)
    stack = attention_stack(model)
    found = patterns_and_gradients(model, stack, images, classes)
    for layer in (stack[0], stack[-1]):
        _, gradient = found[layer.name]
        place = torch.unravel_index(gradient[-1].abs().argmax(), gradient[-1].shape)
        logits = []
        for step in (1e-5, -1e-5):

            def nudge(pattern: Tensor, place=place, step=step) -> Tensor:
                pattern = pattern.clone()
                pattern[-1][place] += step
                return pattern

            with torch.no_grad(), edit(model, {f"{layer.name}.pattern": nudge}):
                logits.append(model(images)[1, classes[1]])
        assert float(gradient[-1][place]) == pytest.approx(float(logits[0] - logits[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("method", WITH_GRADIENTS, ids=lambda method: method.name)
def test_each_image_is_asked_for_its_own_class(method) -> None:
    model, images, classes = tiny("distilled")
    together = method.explain(model, images, classes)
    for number in range(2):
        one = slice(number, number + 1)
        torch.testing.assert_close(together[one], method.explain(model, images[one], classes[one]))
        other = method.explain(model, images[one], classes[one] - 1 if number == 0 else classes[one] + 1)
        assert not torch.allclose(together[one], other)
    assert method.of_class and tuple(method.passes(model, images)) == (1, 1)


@pytest.mark.parametrize("method", WITH_GRADIENTS, ids=lambda method: method.name)
def test_a_model_is_left_as_it_was_and_may_be_frozen(method) -> None:
    model, images, classes = tiny("token")
    wanted, weights = method.explain(model, images, classes), copy.deepcopy(model.state_dict())
    assert not wanted.requires_grad
    model.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(method.explain(model, images, classes), wanted)
    with torch.inference_mode():
        torch.testing.assert_close(method.explain(model, images.clone(), classes), wanted)
    assert not images.requires_grad and all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert not any(module.listening or module._forward_hooks for module in model.modules() if isinstance(module, Tap))


@pytest.mark.parametrize("method", WITH_GRADIENTS, ids=lambda method: method.name)
def test_a_bfloat16_model_gives_about_the_same_map(method) -> None:
    model, images, classes = tiny("token")
    wanted = method.explain(model, images, classes)
    found = method.explain(model.bfloat16(), images.bfloat16(), classes)
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize(
    "method", [*WITH_GRADIENTS, rollout_file.METHOD, attention_file.METHOD], ids=lambda method: method.name
)
def test_what_does_not_fit_at_once_takes_several_passes(method, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 images of 2 heads of 7 x 7 float32: 392 bytes a layer, 2,352 with gradients of all three."""
    model, images, classes = tiny("token")
    images, classes = images[[0, 1, 0, 1, 1]], classes[[0, 1, 1, 0, 1]]
    wanted = method.explain(model, images, classes)
    monkeypatch.setattr(flow, "PATTERN_BYTES", 2 * (2352 if method.of_class else 392) + 1)
    with record(model, "norm", keep=len) as seen:
        torch.testing.assert_close(method.explain(model, images, classes), wanted)
    assert seen["norm"] == [2, 2, 1]


@pytest.mark.parametrize("method", WITH_GRADIENTS, ids=lambda method: method.name)
def test_what_cannot_be_asked(method) -> None:
    model, images, _ = tiny("token")
    for wrong in (3, -1):
        with pytest.raises(RegardError, match=f"class {wrong}: does not exist; the model has 0 to 2"):
            method.explain(model, images, torch.tensor([0, wrong]))
    assert "gradcam" in method.refusal(create_model("resnet20_32", 3))
    with torch.device("meta"):
        clip = CLIP(16, 4, 8, 2, 2, 8, text_width=8, text_depth=1, text_heads=2, vocabulary=9)
    assert "attention and rollout are defined" in method.refusal(clip)
    assert method.refusal(clip.visual) is None
