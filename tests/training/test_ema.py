from __future__ import annotations

import torch
from torch import nn

from regard.training.ema import Ema


def test_follows_by_the_formula_and_copies_counts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    ema = Ema(model, 0.9)
    expected = model[0].weight.detach().clone()
    for step in range(1, 60):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(3, 3))
        model(torch.randn(4, 3))
        decay = min(0.9, 1 - (1 + step) ** (-2 / 3))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
        ema.update(model, step)
    torch.testing.assert_close(ema.average[0].weight, expected)
    assert ema.average[1].num_batches_tracked == 59
    assert not torch.equal(ema.average[1].running_mean, model[1].running_mean)
    assert not ema.average.training
    assert not any(parameter.requires_grad for parameter in ema.average.parameters())
