"""Methods by name: all of them, those of a model, and errors that name what there is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.explanation.methods import METHODS, applicable, default_methods, method
from regard.models import create_model

OF_ANY = ("gradcam", "integrated_gradients", "occlusion")


def test_every_method_has_the_name_of_its_file() -> None:
    assert list(METHODS) == [
        "attention", "rollout", "gradient_rollout", "relevance", "gradcam", "integrated_gradients", "occlusion",
    ]  # fmt: skip
    for name, one in METHODS.items():
        assert one.name == name == one.explain.__module__.rpartition(".")[2]


@pytest.mark.parametrize(
    ("name", "found", "usual"),
    [
        ("vit_nano_patch4_32", tuple(METHODS), ("relevance", "rollout", "gradcam")),
        ("resnet20_32", OF_ANY, ("gradcam",)),
    ],
)
def test_a_model_has_the_methods_that_are_defined_for_it(name: str, found: tuple, usual: tuple) -> None:
    model = create_model(name, num_classes=3).eval()
    assert applicable(model) == found
    assert default_methods(model) == usual
    images, classes = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    for one in found:
        bound = method(f"{one}+steps=2") if one == "integrated_gradients" else METHODS[one]
        maps = bound.explain(model, images, classes)
        assert (maps.shape[0], maps.ndim, maps.dtype) == (2, 3, torch.float32)
        assert bound.passes(model, images[:1]).forward >= 1


def test_a_module_of_the_users_has_those_that_need_no_attention() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    model(torch.zeros(1, 3, 8, 8))
    assert applicable(model) == OF_ANY


def test_names_and_options() -> None:
    assert method("rollout+fusion=max+discard=0.9").name == "rollout+fusion=max+discard=0.9"
    with pytest.raises(RegardError, match=r"^grad-cam: no such method of explanation; nearest: gradcam"):
        method("grad-cam")
    with pytest.raises(RegardError, match=r"^lime: no such method of explanation; the methods are attention, rollout"):
        method("lime")
    with pytest.raises(RegardError, match="no such option; it has"):
        method("rollout+layers=3")
