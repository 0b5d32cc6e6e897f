"""Integrated gradients: against a plain sum in float64, Captum called directly, and completeness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation import asking
from regard.explanation.integrated_gradients import METHOD, completeness_gap, integrated_gradients
from regard.models.vit import ViT

pytest.importorskip("captum", reason="captum is not installed")
CLASSES = torch.tensor([2, 0])


def pictures(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def vit(height: int = 8, width: int = 12) -> ViT:
    torch.manual_seed(0)
    return ViT((height, width), 4, embed_dim=8, depth=2, num_heads=2, num_classes=3, drop_rate=0.5).eval()


class Square(nn.Module):
    """y_c = a_c * sum of the squared pixels, works in place: the integral is a_c x^2 for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x.square_().sum((1, 2, 3))[:, None] * self.scale


def test_a_polynomial_is_integrated_exactly() -> None:
    x = pictures(2, 3, 4, 5)
    kept = x.clone()
    for steps in (1, 2, 16):  # Gauss-Legendre is exact from one point on
        found = integrated_gradients(Square(), x, CLASSES, steps=steps)
        torch.testing.assert_close(found, (x.square() * torch.tensor([3.0, 1.0])[:, None, None, None]).sum(1))
    assert torch.equal(x, kept)


def test_a_plain_sum_of_gradients_on_the_way_in_float64() -> None:
    """The midpoint rule, one image and one point at a time, with points enough."""
    model, x = vit().double(), pictures(2, 3, 8, 12).double()
    found = integrated_gradients(model, x, CLASSES, steps=24)
    assert found.shape == (2, 8, 12) and found.dtype == torch.float32
    points = 100
    for number, cls in enumerate(CLASSES.tolist()):
        total = np.zeros((8, 12))
        for step in range(points):
            point = (x[number : number + 1] * ((step + 0.5) / points)).requires_grad_()
            model(point)[0, cls].backward()
            slope = point.grad
            assert slope is not None
            total += (slope[0] * x[number]).sum(0).numpy() / points
        np.testing.assert_allclose(found[number].numpy(), total, rtol=1e-3, atol=1e-4 * np.abs(total).max())


@pytest.mark.parametrize("count", [1, 5, 18])
def test_captum_called_directly_and_completeness(count: int) -> None:
    """In other batches than ours: one image, images that do not divide a pass, more than go into a pass."""
    from captum.attr import IntegratedGradients

    model, x = vit(), pictures(count, 3, 8, 12)
    classes = torch.arange(count) % 3
    found = integrated_gradients(model, x, classes, steps=24)
    theirs, delta = IntegratedGradients(model).attribute(
        x, baselines=torch.zeros_like(x), target=classes, n_steps=24, return_convergence_delta=True
    )
    assert isinstance(theirs, Tensor) and isinstance(delta, Tensor)
    torch.testing.assert_close(found, theirs.sum(1).detach(), rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    gap = completeness_gap(model, x, classes, found)
    torch.testing.assert_close(gap, delta.float(), rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        difference = (model(x) - model(torch.zeros_like(x))).gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(found.sum((1, 2)), difference, rtol=1e-2, atol=1e-2 * float(difference.abs().max()))


def test_passes_are_those_that_are_made() -> None:
    model, x, seen = vit(), pictures(5, 3, 8, 12), []
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    integrated_gradients(model, x, torch.arange(5) % 3, steps=7)
    assert METHOD.passes(model, x[:1], steps=7) == (sum(seen) / 5, 7) and max(seen) <= asking.PASS
    assert METHOD.chosen(["steps=7"]).passes(model, x[:1]).forward == 7


def test_the_model_is_left_as_it_was() -> None:
    model, x = vit(), pictures(2, 3, 8, 12)
    expected = integrated_gradients(model, x, CLASSES, steps=3)
    model.train().requires_grad_(False)
    with torch.inference_mode():
        torch.testing.assert_close(integrated_gradients(model, x.clone(), CLASSES, steps=3), expected)
    assert all(module.training for module in model.modules())
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())
    with pytest.raises(RegardError, match="class 3: does not exist"):
        integrated_gradients(model, x, torch.tensor([0, 3]), steps=3)
    assert model.training


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x = pictures(2, 3, 8, 12)
    with pytest.raises(RegardError, match="steps=0: expected 1 or more"):
        integrated_gradients(vit(), x, CLASSES, steps=0)
    monkeypatch.setattr(asking, "find_spec", lambda name: None)
    with pytest.raises(RegardError, match=r"pip install 'regard\[explain\]'"):
        integrated_gradients(vit(), x, CLASSES)
    assert "captum is not installed" in (METHOD.refusal(vit()) or "")
