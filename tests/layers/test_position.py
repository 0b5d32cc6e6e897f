from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.errors import RegardError
from regard.layers.position import resample_positions


@settings(max_examples=25, deadline=None)
@given(
    old=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    new=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    prefix=st.integers(0, 2),
)
def test_resampling_is_timms(old: tuple[int, int], new: tuple[int, int], prefix: int) -> None:
    timm = pytest.importorskip("timm.layers")
    positions = torch.randn(1, prefix + old[0] * old[1], 5)
    ours = resample_positions(positions, new, prefix, old)
    theirs = timm.resample_abs_pos_embed(positions, list(new), list(old), num_prefix_tokens=prefix)
    assert ours.shape == (1, prefix + new[0] * new[1], 5)
    torch.testing.assert_close(ours, theirs)


def test_the_class_token_is_kept_and_an_equal_grid_changes_nothing() -> None:
    positions = torch.randn(1, 17, 6)
    assert torch.equal(resample_positions(positions, (4, 4)), positions)
    assert torch.equal(resample_positions(positions, (7, 5))[:, 0], positions[:, 0])


def test_half_precision_is_computed_in_single_and_given_back_in_half() -> None:
    positions = torch.randn(1, 17, 6).bfloat16()
    moved = resample_positions(positions, (8, 8))
    assert moved.dtype == torch.bfloat16
    assert torch.equal(moved, resample_positions(positions.float(), (8, 8)).bfloat16())


@pytest.mark.parametrize("tokens", [1, 13])
def test_positions_that_fill_no_grid_are_refused(tokens: int) -> None:
    with pytest.raises(RegardError, match="positions"):
        resample_positions(torch.zeros(1, tokens, 4), (4, 4))
