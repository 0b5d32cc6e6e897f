from __future__ import annotations

import pytest
import torch

from regard.layers.drop import DropPath, drop_path_rates


def test_whole_samples_are_dropped_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    kept = DropPath(0.25)(torch.ones(4000, 2, 3))
    first = kept[:, 0, 0]
    assert torch.equal(kept, first[:, None, None].expand_as(kept))
    torch.testing.assert_close(first.unique(), torch.tensor([0, 4 / 3]))
    assert abs(first.mean().item() - 1) < 0.03


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero() -> None:
    x = torch.randn(8, 3)
    assert torch.equal(DropPath(0.9).eval()(x), x)
    assert torch.equal(DropPath()(x), x)


def test_rates_rise_linearly_to_the_last_block() -> None:
    assert drop_path_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 1) == [0]
