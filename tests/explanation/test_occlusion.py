"""Occlusion: a linear model by hand, plain loops, Captum called directly; windows, passes, fills."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation import asking
from regard.explanation.faithfulness import filled
from regard.explanation.occlusion import METHOD, occlusion, window
from regard.models import create_model
from regard.models.vit import ViT

pytest.importorskip("captum", reason="captum is not installed")
CLASSES = torch.tensor([2, 0])


def pictures(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT((8, 12), 4, embed_dim=8, depth=2, num_heads=2, num_classes=3, drop_rate=0.5).eval()


class Linear(nn.Module):
    """y_c = sum of w_c * x, works in place."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, *size, generator=torch.Generator().manual_seed(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mul_(1) @ self.weight.flatten(1).T


def test_a_linear_model_by_hand() -> None:
    """A window takes away its part of the sum: w * (x - mean colour) over its pixels."""
    model, x = Linear(3, 4, 6), pictures(2, 3, 4, 6)
    kept = x.clone()
    found = occlusion(model, x, CLASSES, size=2)
    change = (model.weight[CLASSES] * (x - x.mean((2, 3), keepdim=True))).sum(1).detach()  # (B, 4, 6)
    parts = change.unflatten(1, (2, 2)).unflatten(3, (3, 2)).sum((2, 4))  # (B, 2, 3)
    expected = parts.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("size", "stride", "fill"), [(3, 2, "mean"), (4, 4, "blur"), (5, 3, "blur"), (8, 1, "mean")])
def test_plain_loops(size: int, stride: int, fill: str) -> None:
    """One window at a time, in float64; windows that stick out are cut, pixels have the mean of what covers them."""
    model, x = vit().double(), pictures(2, 3, 8, 12).double()
    found = occlusion(model, x, CLASSES, size=size, stride=stride, fill=fill)
    assert found.shape == (2, 8, 12) and found.dtype == torch.float32
    windows = 0
    with torch.no_grad():
        for number, cls in enumerate(CLASSES.tolist()):
            total, times = np.zeros((8, 12)), np.zeros((8, 12))
            other = filled(x[number])[fill == "blur"]
            whole = float(model(x[number : number + 1])[0, cls])
            top = 0
            while True:
                left = 0
                while True:
                    area = np.s_[top : top + size, left : left + size]
                    covered = x[number].clone()
                    covered[:, area[0], area[1]] = other[:, area[0], area[1]]
                    total[area] += whole - float(model(covered[None])[0, cls])
                    times[area] += 1
                    windows += number == 0
                    if left + size >= 12:
                        break
                    left += stride
                if top + size >= 8:
                    break
                top += stride
            np.testing.assert_allclose(found[number].numpy(), total / times, rtol=1e-5, atol=1e-7)
    assert METHOD.passes(model, x, size=size, stride=stride).forward == windows + 1


@pytest.mark.parametrize("count", [1, 5, 18])
def test_captum_called_directly(count: int) -> None:
    from captum.attr import Occlusion

    model, x = vit(), pictures(count, 3, 8, 12)
    classes, baselines = torch.arange(count) % 3, x.mean((2, 3), keepdim=True).expand_as(x)
    found = occlusion(model, x, classes, size=4, stride=3)
    theirs = Occlusion(model).attribute(x, (3, 4, 4), (3, 3, 3), baselines, target=classes)
    assert isinstance(theirs, Tensor)
    torch.testing.assert_close(found, theirs[:, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 17])
def test_passes_are_those_that_are_made(count: int) -> None:
    model, x, seen = vit(), pictures(count, 3, 8, 12), []
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    occlusion(model, x, torch.arange(count) % 3, size=3, stride=2)
    assert METHOD.passes(model, x[:1], size=3, stride=2) == (sum(seen) / count, 0) and max(seen) <= asking.PASS
    assert METHOD.chosen(["size=3", "stride=2"]).passes(model, x).forward == sum(seen) / count


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("vit_small_patch16_224", 224, 16),
        ("vit_small_patch32_224", 224, 32),
        ("vit_small_patch14_dinov2", 518, 42),
        ("swin_tiny_patch4_window7_224", 224, 16),
        ("t2t_vit_14", 224, 16),
        ("resnet50", 224, 16),
        ("vit_nano_patch4_32", 32, 4),
        ("resnet20_32", 32, 2),
        ("resnet20_32", 8, 1),
    ],
)
def test_the_window_is_a_14th_of_the_side_in_whole_patches(name: str, side: int, expected: int) -> None:
    with torch.device("meta"):
        model, x = create_model(name, img_size=side), torch.empty(1, 3, side, side)
    assert window(model, x, 0, 0) == (expected, expected)
    assert window(model, x, 3, 0) == (3, 3)
    assert window(model, x, 3, 2) == (3, 2)


def test_the_model_is_left_as_it_was() -> None:
    model, x = vit(), pictures(2, 3, 8, 12)
    expected = occlusion(model, x, CLASSES, size=4)
    model.train()
    with torch.inference_mode():
        torch.testing.assert_close(occlusion(model, x.clone(), CLASSES, size=4), expected)
    assert all(module.training for module in model.modules())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    with pytest.raises(RegardError, match="class 3: does not exist"):
        occlusion(model, x, torch.tensor([0, 3]))
    assert model.training


def test_refusals() -> None:
    x = pictures(2, 3, 8, 12)
    with pytest.raises(RegardError, match="size=9: expected 1 to 8 pixels"):
        occlusion(vit(), x, CLASSES, size=9)
    with pytest.raises(RegardError, match="stride=4: expected 1 to 3 pixels"):
        occlusion(vit(), x, CLASSES, size=3, stride=4)
    with pytest.raises(RegardError, match="fill=black: expected one of mean, blur"):
        occlusion(vit(), x, CLASSES, fill="black")
    with pytest.raises(RegardError, match="expected one of mean, blur"):
        METHOD.chosen(["fill=black"])
