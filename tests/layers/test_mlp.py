from __future__ import annotations

import torch
import torch.nn.functional as F

from regard.layers.mlp import Mlp


def test_mlp_is_two_linears_around_an_exact_gelu() -> None:
    mlp, x = Mlp(6, 24, drop=0.5).eval(), torch.randn(2, 5, 6)
    hidden = F.gelu(x @ mlp.fc1.weight.T + mlp.fc1.bias)
    torch.testing.assert_close(mlp(x), hidden @ mlp.fc2.weight.T + mlp.fc2.bias)


def test_dropout_acts_in_training_only() -> None:
    mlp, x = Mlp(6, 24, drop=0.5), torch.ones(1, 5, 6)
    torch.manual_seed(0)
    assert (mlp(x) == 0).any()
    assert torch.equal(mlp.eval()(x), mlp(x))
