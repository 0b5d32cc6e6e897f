"""How a classifier is asked: logits in several wrappings, classes that exist, modes that go back."""

from __future__ import annotations

import pytest
import torch
from classifiers import Wrapped, cnn, pictures, seeded
from torch import nn

from regard.errors import RegardError
from regard.explanation.asking import class_scores, followed, logits_of, observed


def test_logits_come_plain_or_in_an_object() -> None:
    model, x = seeded(cnn), pictures(2, 3, 13, 9)
    assert torch.equal(logits_of(Wrapped(model), x.clone()), logits_of(model, x.clone()))
    with pytest.raises(RegardError, match=r"Flatten: gave a tuple for 2 images; expected logits \(2, classes\)"):
        tuples = nn.Flatten()
        tuples.register_forward_hook(lambda module, args, output: (output,))
        logits_of(tuples, x)
    with pytest.raises(RegardError, match=r"Identity: gave \(2, 3, 13, 9\) for 2 images"):
        logits_of(nn.Identity(), x)


def test_scores_are_those_of_classes_that_exist() -> None:
    logits = torch.arange(6.0).reshape(2, 3)
    assert class_scores(logits, torch.tensor([2, 0])).tolist() == [2, 3]
    for wrong in (3, -1):
        with pytest.raises(RegardError, match=f"class {wrong}: does not exist; the model has 0 to 2"):
            class_scores(logits, torch.tensor([0, wrong]))


def test_modes_go_back_after_an_exception_too() -> None:
    model = cnn().train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(KeyError), torch.inference_mode(), observed(model):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == modes


def test_gradients_reach_images_of_inference_mode_through_layers_in_place() -> None:
    with torch.inference_mode():
        x = pictures(1, 3, 4, 4)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2)).requires_grad_(False)
    with observed(model):
        copy = followed(x)
        assert model(copy).requires_grad and copy.grad_fn is not None
    assert not x.requires_grad and (x < 0).any()
