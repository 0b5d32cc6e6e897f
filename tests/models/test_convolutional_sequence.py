from __future__ import annotations

import pytest
import torch

from regard.errors import RegardError
from regard.models.convolutional_sequence import ByteNet


def small(dilations: tuple[int, ...], kernel: int = 3) -> ByteNet:
    torch.manual_seed(0)
    return ByteNet(9, 8, kernel, dilations, room=2).eval().requires_grad_(False)


def reached(model: ByteNet, out: torch.Tensor, embedded: torch.Tensor) -> list[int]:
    (gradient,) = torch.autograd.grad(out.sum(), embedded)
    return gradient[0].ne(0).any(1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("kernel", "dilations", "side"), [(3, (1,), 1), (3, (1, 2), 3), (5, (1, 2), 6), (3, (1, 2, 4), 7)]
)
def test_a_column_of_the_encoder_sees_so_far_to_both_sides(kernel: int, dilations: tuple[int, ...], side: int) -> None:
    model = small(dilations, kernel)
    x = torch.randn(1, 31, 8, requires_grad=True)
    out = model.encoder(x, torch.ones(1, 31, 1, dtype=torch.bool))
    weights = torch.randn(8)
    assert reached(model, out[0, 15] * weights, x) == list(range(15 - side, 15 + side + 1))


@pytest.mark.parametrize(("kernel", "dilations", "back"), [(3, (1,), 2), (3, (1, 2), 6), (5, (1,), 4)])
def test_a_column_of_the_decoder_looks_back_only(kernel: int, dilations: tuple[int, ...], back: int) -> None:
    model = small(dilations, kernel)
    x = torch.randn(1, 20, 8, requires_grad=True)
    out, _ = model.decoder(x, model.start(torch.zeros(1, 1, 8)).past)
    assert reached(model, out[0, 12] * torch.randn(8), x) == list(range(12 - back, 13))


def test_a_target_may_be_longer_than_source_and_room() -> None:
    model = small((1, 2))
    assert model.encode(torch.tensor([[3, 4]])).shape == (1, 4, 8)
    assert model(torch.tensor([[3, 4]]), torch.full((1, 9), 5)).shape == (1, 9, 9)


def test_room_is_computed_and_what_lies_beyond_is_zero() -> None:
    columns = small((1, 2)).encode(torch.tensor([[3, 4, 5, 6], [7, 0, 0, 0]]))
    assert columns.shape == (2, 6, 8)
    assert columns[1, :3].any(1).all() and not columns[1, 3:].any()


def test_a_kernel_without_a_middle_is_refused() -> None:
    with pytest.raises(RegardError, match="kernel=4: expected an odd number from 3 on"):
        small((1,), kernel=4)
