from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.errors import RegardError
from regard.layers.position import (
    integer_positions,
    normalised_positions,
    resample_distances,
    resample_positions,
    sinusoidal_positions,
)


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


@pytest.mark.parametrize(("old", "new"), [(4, 7), (7, 4), (3, 3), (1, 5), (5, 1)])
def test_distances_are_resampled_on_the_straight_line_between_two_rows(old: int, new: int) -> None:
    table = torch.randn(2 * old - 1, 3)
    moved = resample_distances(table, new)
    assert moved.shape == (2 * new - 1, 3)
    for row in range(2 * new - 1):
        place = (row + 0.5) * (2 * old - 1) / (2 * new - 1) - 0.5
        place = min(max(place, 0), 2 * old - 2)
        below = min(int(place), 2 * old - 2)
        above = min(below + 1, 2 * old - 2)
        expected = table[below] + (place - below) * (table[above] - table[below])
        torch.testing.assert_close(moved[row], expected)


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


@pytest.mark.parametrize(("count", "dim"), [(1, 4), (50, 128), (197, 7)])
def test_sinusoidal_positions_are_the_papers_formula(count: int, dim: int) -> None:
    """Section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos of the same angle."""
    codes = sinusoidal_positions(count, dim)
    assert codes.shape == (count, dim) and codes.dtype == torch.float32
    for place in range(count):
        for i in range((dim + 1) // 2):
            angle = place / 10000 ** (2 * i / dim)
            assert codes[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-7)
            if 2 * i + 1 < dim:
                assert codes[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-7)


def test_integer_positions_are_numbers_and_normalised_ones_lie_between_0_and_1() -> None:
    assert integer_positions(3, 2).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert normalised_positions(5, 2).tolist() == [[0, 0], [0.25, 0.25], [0.5, 0.5], [0.75, 0.75], [1, 1]]
    assert normalised_positions(1, 2).tolist() == [[0, 0]]
