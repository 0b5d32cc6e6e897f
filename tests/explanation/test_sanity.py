"""The randomised-weights check and the other class, on methods whose answer is known."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from regard.explanation.method import Method, Passes
from regard.explanation.sanity import (
    ALIKE,
    across_classes,
    cascade,
    layer_groups,
    maps_of,
    rank_correlation,
    shuffle,
)
from regard.models import create_model


def gradient(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    logits = model(images).gather(1, classes[:, None]).sum()
    return torch.autograd.grad(logits, images)[0].sum(1)


def edges(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Looks at the image alone."""
    return images.diff(dim=2, prepend=images[:, :, :1]).abs().sum(1)


def signed_edges(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The image's edges with signs that the model sets."""
    sign = gradient(model, images, classes).sign()
    return edges(model, images, classes) * sign


def passes(model: nn.Module, images: Tensor) -> Passes:
    return Passes(1, 1)


GRADIENT = Method("gradient", gradient, True, passes)
EDGES = Method("edges", edges, False, passes)
SIGNED = Method("signed_edges", signed_edges, True, passes)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(),
        nn.Flatten(), nn.Linear(8 * 144, 5),
    ).eval()  # fmt: skip


# Ranks ----------------------------------------------------------------------------------------------------------


def test_rank_correlation_equals_scipy_and_plain_loops() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 7)), rng.integers(0, 5, (6, 7)).astype(float)  # b has ties
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    ranks = [[sum(x < y for x in m) + (sum(x == y for x in m) - 1) / 2 for y in m] for m in (a.ravel(), b.ravel())]
    means = [sum(row) / len(row) for row in ranks]
    moved = [[rank - mean for rank in row] for row, mean in zip(ranks, means, strict=True)]
    dot = sum(x * y for x, y in zip(*moved, strict=True))
    assert rank_correlation(a, b) == pytest.approx(dot / np.prod([sum(x * x for x in row) ** 0.5 for row in moved]))
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)


@pytest.mark.parametrize("odd", [np.ones((4, 4)), np.full((4, 4), np.nan)])
def test_a_map_without_ranks_is_like_no_other(odd: np.ndarray) -> None:
    assert rank_correlation(odd, np.arange(16.0).reshape(4, 4)) == 0


# Layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "head"),
    [
        ("vit_nano_patch4_32", 32, {"head.weight", "head.bias"}),
        ("resnet20_32", 32, {"fc.weight", "fc.bias"}),
        ("swin_nano_patch2_window4_32", 32, {"head.fc.weight", "head.fc.bias"}),
    ],
)
def test_groups_go_from_the_head_to_the_input_and_hold_each_parameter_once(name: str, size: int, head: set) -> None:
    model = create_model(name, num_classes=4, img_size=size).eval()
    groups = layer_groups(model, torch.zeros(1, 3, size, size))
    names = [parameter for _, parameters in groups for parameter in parameters]
    assert sorted(names) == sorted(one for one, _ in model.named_parameters())
    assert set(groups[0][1]) == head
    assert len(groups) == 5
    assert groups[-1][0] == "all layers"
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_blocks_stay_whole_and_follow_each_other() -> None:
    model = create_model("vit_nano_patch4_32", num_classes=4).eval()
    groups = layer_groups(model, torch.zeros(1, 3, 32, 32))
    where = {name: place for place, (_, names) in enumerate(groups) for name in names}
    places = [{where[name] for name in where if name.startswith(f"blocks.{number}.")} for number in range(4)]
    assert all(len(place) == 1 for place in places)
    assert [min(place) for place in places] == sorted((min(place) for place in places), reverse=True)
    assert where["cls_token"] == where["pos_embed"] == len(groups) - 1
    assert where["norm.weight"] == 1


def test_layers_that_run_in_another_order_than_they_are_named() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Linear(3, 4)
            self.unused = nn.Linear(2, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.first(images.mean((2, 3))))

    groups = layer_groups(Backwards(), torch.zeros(1, 3, 4, 4))
    assert [set(names) for _, names in groups] == [
        {"last.weight", "last.bias"},
        {"first.weight", "first.bias"},
        {"unused.weight", "unused.bias"},
    ]


def test_a_model_without_parameters_has_no_check() -> None:
    model = nn.Flatten()
    assert layer_groups(model, torch.zeros(1, 3, 4, 4)) == []
    assert cascade(model, [EDGES], torch.zeros(1, 3, 4, 4), torch.zeros(1).long()) is None


def test_shuffle_keeps_the_numbers_and_not_their_places() -> None:
    parameter = nn.Parameter(torch.arange(60.0).reshape(3, 20))
    shuffle(parameter, torch.Generator().manual_seed(0))
    assert sorted(parameter.flatten().tolist()) == list(range(60))
    assert (parameter.flatten() != torch.arange(60.0)).sum() > 50


# Checks ---------------------------------------------------------------------------------------------------------


def test_a_method_of_the_model_passes_and_one_of_the_image_fails() -> None:
    model, images, classes = network(), torch.randn(6, 3, 12, 12), torch.tensor([0, 1, 2, 3, 4, 0])
    found = cascade(model, [GRADIENT, EDGES, SIGNED], images, classes)
    assert found is not None
    assert found.reached == ("6", "3", "2", "all layers")
    assert found.signed.shape == found.absolute.shape == (3, 4, 6)
    gradients, image, signed = found.left()[:, -1]
    assert gradients < 0.2
    assert image == pytest.approx(1)
    assert signed > ALIKE  # the values alone would let it pass
    assert np.abs(found.signed[2, -1]).mean() < 0.2


def test_stages_add_up_and_equal_a_model_shuffled_by_hand() -> None:
    model, images, classes = network(), torch.randn(2, 3, 12, 12), torch.tensor([0, 3])
    found = cascade(model, [GRADIENT], images, classes, seed=4)
    assert found is not None
    copy, generator = deepcopy(model), torch.Generator().manual_seed(4)
    for stage, names in enumerate((("6.weight", "6.bias"), ("3.weight", "3.bias"), ("2.weight", "2.bias"))):
        for name in names:
            shuffle(copy.get_parameter(name), generator)
        pairs = zip(maps_of(GRADIENT, model, images, classes), maps_of(GRADIENT, copy, images, classes), strict=True)
        expected = [spearmanr(one.ravel(), other.ravel()).statistic for one, other in pairs]
        np.testing.assert_allclose(found.signed[0, stage], expected)


def test_the_model_of_the_user_is_not_touched() -> None:
    model, images, classes = network(), torch.randn(2, 3, 12, 12), torch.tensor([0, 3])
    before = deepcopy(model.state_dict())
    cascade(model, [GRADIENT], images, classes)
    across_classes(model, [GRADIENT], images, classes, classes.flip(0))
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_another_class_has_another_map_where_the_method_knows_of_classes() -> None:
    model, images = network(), torch.randn(5, 3, 12, 12)
    classes = torch.tensor([0, 1, 2, 3, 4])
    gradients, image = across_classes(model, [GRADIENT, EDGES], images, classes, classes.roll(1))
    np.testing.assert_allclose(image, 1)
    assert np.abs(gradients).max() < ALIKE
    np.testing.assert_allclose(across_classes(model, [GRADIENT], images, classes, classes), 1)
    assert across_classes(model, [], images, classes, classes).shape == (0, 5)
