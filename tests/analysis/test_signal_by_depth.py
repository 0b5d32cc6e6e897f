"""Signals by depth against full Jacobians, and shortcuts against none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.analysis.signal_by_depth import signal_by_depth
from regard.models import create_model


@pytest.fixture(scope="module")
def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*layers).double().eval()


def images(count: int, side: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_jacobians(mlp: nn.Sequential) -> None:
    given = [images(3), images(2, seed=1)]
    (found,) = signal_by_depth(mlp, given).signals
    assert found.layers == ("2", "4")
    for number, cut in enumerate((3, 5)):
        energy, squares = [], []
        for image in torch.cat(given):
            inner = mlp[:cut](image[None]).detach()
            jacobian = torch.autograd.functional.jacobian(lambda h, cut=cut: mlp[cut:](h), inner)
            energy.append(float(jacobian.square().sum()) / 3)
            squares.append(float(inner.square().mean()))
        assert found.gradient[number] == pytest.approx(np.sqrt(np.mean(energy)), rel=1e-12)
        assert found.amplitude[number] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-12)


def test_random_signs_give_the_same_on_average(mlp: nn.Sequential) -> None:
    (exact,) = signal_by_depth(mlp, [images(2)]).signals
    (drawn,) = signal_by_depth(mlp, [images(2)] * 400, draws=2).signals
    np.testing.assert_allclose(drawn.gradient, exact.gradient, rtol=0.05)


def test_shortcuts_keep_the_gradient_closer_to_level_at_initialisation() -> None:
    torch.manual_seed(0)
    given = [torch.randn(8, 3, 32, 32)]
    found = signal_by_depth(
        create_model("plain20_32", 10), given, against=create_model("resnet20_32", 10), against_batches=given,
        names=("plain", "residual"), draws=2,
    )  # fmt: skip
    plain, residual = found.signals
    assert plain.layers == residual.layers and len(plain.layers) == 10
    # Batch norm keeps what leaves each plain block at one size; with shortcuts the blocks of a stage add up.
    assert plain.amplitude[1:].max() / plain.amplitude[1:].min() < 1.3
    assert residual.amplitude[3] > 1.3 * residual.amplitude[1]
    # With batch norm the gradient does not vanish on the way back, it grows; without shortcuts faster.
    assert plain.gradient[0] / plain.gradient[-1] > 1.5 * residual.gradient[0] / residual.gradient[-1]


def test_the_model_is_left_as_it_was() -> None:
    model = create_model("resnet20_32", 3)
    model.layer1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    signal_by_depth(model, [torch.randn(4, 3, 32, 32)], draws=1)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in model.modules()] == modes
    assert all(module.track_running_stats for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def test_norms_that_have_seen_images_keep_their_statistics() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_32", 3)
    model.train()(torch.randn(8, 3, 32, 32))
    alone = signal_by_depth(model, [images(1, 32).float()], draws=3).signals[0].amplitude
    together = signal_by_depth(model, [images(1, 32).float().repeat(3, 1, 1, 1)], draws=3).signals[0].amplitude
    np.testing.assert_allclose(alone, together, rtol=1e-5)


@pytest.mark.parametrize("lang", ["en", "fr", "ro"])
def test_draws(mlp: nn.Sequential, lang: str) -> None:
    found = signal_by_depth(mlp, [images(2)], names=("a$b$c", ""))
    assert "a$b$c" in found.svg(lang)  # pyright: ignore[reportArgumentType]
    assert found.csv().splitlines()[0] == "model,number,layer,gradient_norm,activation_amplitude"
    assert len(found.csv().splitlines()) == 3
