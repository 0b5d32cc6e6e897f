"""The last place that an answer depends on, in classifiers of every kind; grids of tokens."""

from __future__ import annotations

import pytest
import torch
from classifiers import Attending, ChannelsLast, Tokens, Wrapped, cnn, pictures, seeded
from torch import nn

from regard.errors import RegardError
from regard.explanation.gradcam import gradcam
from regard.explanation.places import find_place, is_known, last_place, token_grid
from regard.models import create_model


@pytest.mark.parametrize(
    ("make", "size", "name"),
    [
        (cnn, (13, 9), "6 (map 7x5)"),
        (lambda: Tokens(True, "token"), (16, 16), "layers.2.norm1 (patches 4x4)"),
        (lambda: Tokens(False, "token"), (16, 16), "layers.1 (patches 4x4)"),
        (lambda: Tokens(False, "token", different=1), (16, 16), "layers.0 (patches 4x4)"),
        (lambda: Tokens(True, "mean"), (16, 16), "layers.2 (patches 4x4)"),
        (Attending, (16, 16), "norm (patches 8x8)"),
        (ChannelsLast, (16, 24), "norm (map 4x6)"),
        (lambda: Wrapped(Attending()), (16, 16), "model.norm (patches 8x8)"),
        (lambda: cnn().requires_grad_(False), (13, 9), "6 (map 7x5)"),
    ],
)
def test_the_place_in_a_module_of_the_users(make, size: tuple[int, int], name: str) -> None:
    model, x = seeded(make), pictures(2, 3, *size)
    assert str(last_place(model, x)) == name
    found = gradcam(model, x[:1].repeat(5, 1, 1, 1), torch.arange(5))
    assert found.isfinite().all() and found.max() > 0


def test_a_module_that_is_called_again_is_read_at_the_right_call() -> None:
    model, x = seeded(lambda: Tokens(False, "token", different=1)), pictures(2, 3, 16, 16)
    classes = torch.tensor([2, 0])
    apart = seeded(lambda: Tokens(False, "token"))
    for layer in apart.layers:  # pyright: ignore[reportGeneralTypeIssues]
        layer.load_state_dict(model.layers[0].state_dict())  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("start", "places", "patch", "head"):
        setattr(apart, name, getattr(model, name))
    assert (last_place(model, x).name, last_place(model, x).call) == ("layers.0", 1)
    assert (last_place(apart, x).name, last_place(apart, x).call) == ("layers.1", 0)
    torch.testing.assert_close(gradcam(model, x, classes), gradcam(apart, x, classes))


@pytest.mark.parametrize(
    ("tokens", "sides", "grid"),
    [
        (196, (224, 224), (14, 14)),
        (98, (224, 112), (14, 7)),
        (24, (64, 96), (4, 6)),
        (15, (75, 45), (5, 3)),
        (12, (70, 90), (3, 4)),  # filled up
        (197, (224, 224), None),
        (1, (32, 32), None),
        (2, (32, 32), None),
    ],
)
def test_the_grid_of_so_many_tokens(tokens: int, sides: tuple[int, int], grid: tuple[int, int] | None) -> None:
    assert token_grid(tokens, sides) == grid


class Latents(nn.Module):
    """Answers from 7 latent vectors, a convolution's 3x3 map before them: 7 are no 2x2 patches after 3 others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 7, 4, 4)
        self.mix = nn.LayerNorm(9)
        self.head = nn.Linear(9, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.stem(x).flatten(2)).mean(1))


class WithPositions(nn.Module):
    """A module gives positions (1, T, D), last of all: they are not of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.positions = nn.LayerNorm(8)
        self.table = nn.Parameter(torch.randn(1, 16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head((x * self.positions(self.table)).mean(1))


@pytest.mark.parametrize(
    ("make", "side", "name"), [(Latents, 12, "stem (map 3x3)"), (WithPositions, 16, "patch (map 4x4)")]
)
def test_what_is_no_patch_is_passed_over(make, side: int, name: str) -> None:
    assert str(last_place(seeded(make), pictures(2, 3, side, side))) == name


def test_what_the_answer_does_not_depend_on_is_no_place() -> None:
    model, x = seeded(cnn), pictures(2, 3, 13, 9)
    nn.init.zeros_(model[9].weight)  # pyright: ignore[reportIndexIssue]
    with pytest.raises(RegardError, match="no gradient reaches a map of it"):
        last_place(model, x)
    with pytest.raises(RegardError, match="none of its modules gives a map"):
        last_place(nn.Sequential(nn.Flatten(), nn.Linear(351, 5)), x)


def test_a_place_of_a_registered_transformer_needs_no_pass() -> None:
    with torch.device("meta"):
        model, x = create_model("vit_base_patch14_reg4_dinov2"), torch.empty(1, 3, 518, 518)
    place = last_place(model, x)
    assert is_known(model) and (str(place), place.prefix) == ("blocks.11.norm1 (patches 37x37)", 5)
    assert not is_known(cnn())
    assert find_place(seeded(cnn), pictures(1, 3, 13, 9)).name == "6"
