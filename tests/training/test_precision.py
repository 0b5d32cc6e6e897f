from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from regard.training.precision import choose_precision, measure_steps


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def test_measuring_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    seconds = measure_steps(model, itertools.repeat(torch.ones(8, 4)), loss, ("fp32", "bf16"), 2, seconds=0.0)
    assert set(seconds) == {"fp32", "bf16"}
    assert all(value > 0 for value in seconds.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.rand(2), expected)


def test_a_long_run_is_measured_for_longer():
    def rounds(**how: float) -> int:
        batches = itertools.count()
        measure_steps(nn.Linear(4, 4), (torch.ones(8, 4) for _ in batches), loss, ("fp32",), **how)
        return next(batches)

    assert rounds(seconds=0.0) == 2
    assert rounds() == 9
    assert rounds(least=0.2) > 9


def test_a_gain_below_a_tenth_is_noise():
    assert choose_precision({"fp32": 1.0, "bf16": 0.95}) == "fp32"
    assert choose_precision({"fp32": 1.0, "bf16": 0.80}) == "bf16"
