"""Deletion and insertion against plain loops, and on models that look at a known place."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.faithfulness import (
    DELETION,
    FILLS,
    INSERTION,
    cell_grid,
    cell_order,
    centre_map,
    faithfulness,
    log_odds,
    passes,
)
from regard.explanation.method import Method, Passes


def method_of(name: str, explain: Callable[[Tensor], Tensor]) -> Method:
    """A method that looks at the images only."""
    return Method(name, lambda model, images, classes: explain(images), False, lambda model, images: Passes(0))


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).eval()


# The reference ------------------------------------------------------------------------------------------------


def reference(model: nn.Module, image: np.ndarray, klass: int, order: list[int], grid: int, steps: int) -> dict:
    """Curves (F, steps + 1) by name, and their areas, pixel by pixel in float64."""
    side = image.shape[1]
    mean = np.empty_like(image)
    for channel in range(3):
        mean[channel] = sum(image[channel].ravel().tolist()) / side**2
    sigma = side / 16
    blur = np.stack([gaussian_filter(one, sigma, mode="mirror", radius=round(3 * sigma)) for one in image])
    found: dict[str, list[list[float]]] = {"deletion": [], "insertion": []}
    for fill in (mean, blur):
        for curve, values in found.items():
            row = []
            for step in range(steps + 1):
                first = set(order[: round(step * len(order) / steps)])
                changed = np.empty_like(image)
                for y in range(side):
                    for x in range(side):
                        cell = (y * grid // side) * grid + x * grid // side
                        original = (cell in first) == (curve == "insertion")
                        changed[:, y, x] = image[:, y, x] if original else fill[:, y, x]
                with torch.no_grad():
                    logits = model(torch.from_numpy(changed)[None])[0].tolist()
                others = sum(math.exp(one) for number, one in enumerate(logits) if number != klass)
                row.append(logits[klass] - math.log(others))
            values.append(row)
    return found


def area(curve: list[float]) -> float:
    return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)


@pytest.mark.parametrize(("side", "grid", "steps"), [(20, 10, 14), (23, 14, 5)])
def test_equals_plain_loops(side: int, grid: int, steps: int) -> None:
    torch.manual_seed(1)
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    model = small_model().double()
    model(images)
    maps = torch.rand(2, side, side)
    places = iter(maps)
    method = method_of("given", lambda images: next(places)[None])
    found = faithfulness(model, [method], images, torch.tensor([2, 0]), steps=steps)
    assert found.names == ("given", "random", "centre")
    assert cell_grid((side, side)) == (grid, grid)
    for number, (image, klass) in enumerate(zip(images.numpy(), (2, 0), strict=True)):
        cells = nn.functional.adaptive_avg_pool2d(maps[number][None].double(), grid)[0].numpy()
        order = np.argsort(-cells, axis=None, kind="stable").tolist()
        expected = reference(model, image, klass, order, grid, steps)
        for which, curve in ((DELETION, "deletion"), (INSERTION, "insertion")):
            np.testing.assert_allclose(found.curves[0, number, which], expected[curve], rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(found.areas()[0, number, which], [area(one) for one in expected[curve]], 1e-6)
        score = np.mean([area(one) for one in expected["insertion"]]) - np.mean(
            [area(one) for one in expected["deletion"]]
        )
        assert found.scores()[0, number] == pytest.approx(score, abs=1e-6)


def test_cells_are_means_of_a_finer_map_and_between_the_values_of_a_coarser_one() -> None:
    ties = np.random.default_rng(0).permutation(16)
    fine = torch.rand(12, 12)
    cells = [[fine[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean().item() for x in range(4)] for y in range(4)]
    assert cell_order(fine, (4, 4), ties).tolist() == np.argsort(-np.array(cells), axis=None).tolist()
    coarse = torch.tensor([[0.0, 1.0], [4.0, 9.0]])
    order = cell_order(coarse, (4, 4), ties).tolist()
    assert order[0] == 15
    assert order[-1] == 0
    assert order.index(12) < order.index(3)


def test_the_grid_divides_the_image_where_it_can() -> None:
    found = {side: cell_grid((side, side))[0] for side in (8, 16, 28, 32, 64, 224, 299, 331, 384)}
    assert found == {8: 8, 16: 16, 28: 14, 32: 16, 64: 16, 224: 14, 299: 13, 331: 14, 384: 12}
    assert cell_grid((28, 64)) == (14, 16)


# Neutral ------------------------------------------------------------------------------------------------------


def test_ties_are_broken_at_random_and_not_from_the_top() -> None:
    ties = np.random.default_rng(0).permutation(256)
    constant = cell_order(torch.ones(7, 7), (16, 16), ties)
    assert sorted(constant.tolist()) == list(range(256))
    assert abs(np.corrcoef(constant, np.arange(256))[0, 1]) < 0.15
    halves = torch.zeros(16, 16)
    halves[8:] = 1
    order = cell_order(halves, (16, 16), ties)
    assert set(order[:128].tolist()) == set(range(128, 256))
    assert abs(np.corrcoef(order[:128], np.arange(128))[0, 1]) < 0.25


def test_a_constant_map_scores_as_random_where_a_scan_would_not() -> None:
    """The model sums the upper half of the image."""
    images = 1 + torch.rand(16, 3, 16, 16)
    images[:, :, 8:] = 0
    scan = -torch.arange(256.0).reshape(1, 16, 16)
    methods = [method_of("constant", lambda images: torch.full((1, 4, 4), 0.3)), method_of("scan", lambda images: scan)]
    scores = faithfulness(Sum((0, 8), (0, 16)), methods, images, torch.zeros(16).long()).scores()
    constant, scanned = scores[:2]
    assert scanned.min() > 1
    assert abs(constant.mean()) < 2.5 * constant.std(ddof=1) / 4
    assert np.abs(constant).max() < 0.4 * scanned.min()


def test_the_random_map_is_an_order_and_its_reverse() -> None:
    images = torch.randn(3, 3, 28, 28)
    model = small_model()
    model(images)
    classes = torch.tensor([0, 1, 2])
    found = faithfulness(model, [], images, classes, seed=7)
    drawn = [np.random.default_rng([7, number]) for number in range(3)]
    orders = [(rng.permutation(196), rng.permutation(196))[1] for rng in drawn]
    forth = iter([map_of(order) for order in orders])
    back = iter([map_of(order[::-1]) for order in orders])
    methods = [method_of("forth", lambda images: next(forth)), method_of("back", lambda images: next(back))]
    both = faithfulness(model, methods, images, classes, seed=7)
    np.testing.assert_allclose(found.curves[0], both.curves[:2].mean(axis=0), atol=1e-5)
    assert np.abs(found.scores()[0]).max() < 1e-12
    np.testing.assert_allclose(both.scores()[0], -both.scores()[1], atol=1e-5)


def map_of(order: np.ndarray) -> Tensor:
    """(1, 14, 14): a map of this order."""
    return -torch.from_numpy(np.argsort(order).copy()).reshape(1, 14, 14).float()


def test_the_same_seed_gives_the_same_numbers() -> None:
    images = torch.randn(2, 3, 16, 16)
    model = small_model()
    model(images)
    one, same, other = (
        faithfulness(model, [], images, torch.tensor([0, 1]), seed=seed).curves[0] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


# What is read, and what it costs ------------------------------------------------------------------------------


def test_log_odds_are_those_of_the_probability() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)
    classes = torch.tensor([2, 1])
    p = logits.softmax(1).gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(log_odds(logits, classes), (p / (1 - p)).log())
    torch.testing.assert_close(log_odds(logits + 5, classes), log_odds(logits, classes))
    p = logits.sigmoid().gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(log_odds(logits, classes, independent=True), (p / (1 - p)).log())
    sure = torch.tensor([[60.0, 0.0], [50.0, 0.0]])
    assert log_odds(sure, torch.zeros(2).long()).tolist() == [60.0, 50.0]  # the probability is 1.0 in both


class Counting(nn.Module):
    """Counts the images that pass, and the largest batch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.largest = 0

    def forward(self, images: Tensor) -> Tensor:
        self.count += len(images)
        self.largest = max(self.largest, len(images))
        return images.mean((2, 3))


@pytest.mark.parametrize("steps", [14, 5])
def test_passes_are_known_before_and_one_map_is_a_batch(steps: int) -> None:
    model = Counting()
    methods = [method_of("a", lambda images: images[:, 0]), method_of("b", lambda images: images[:, 1])]
    faithfulness(model, methods, torch.randn(3, 3, 16, 16), torch.zeros(3).long(), steps=steps)
    assert model.count == passes(2, 3, steps)
    assert model.largest == 2 * len(FILLS) * (steps - 1)


def test_bf16_is_near_and_the_model_is_left_alone() -> None:
    images = torch.randn(2, 3, 16, 16)
    model = small_model()
    model(images)
    before = deepcopy(model.state_dict())
    methods = [method_of("a", lambda images: images[:, 0])]
    done: list[int] = []
    exact = faithfulness(model, methods, images, torch.tensor([0, 1]), on_image=done.append)
    rough = faithfulness(model, methods, images, torch.tensor([0, 1]), precision="bf16")
    assert done == [1, 2]
    assert 0 < np.abs(exact.curves - rough.curves).max() < 0.05
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_map_that_is_not_finite_is_named() -> None:
    method = method_of("odd", lambda images: torch.full((1, 4, 4), torch.nan))
    with pytest.raises(RegardError, match=r"odd: its map of image 0 is not finite"):
        faithfulness(Counting(), [method], torch.zeros(1, 3, 16, 16), torch.zeros(1).long())


# Known places -------------------------------------------------------------------------------------------------


class Sum(nn.Module):
    """Two classes, told apart by the sum over one rectangle."""

    def __init__(self, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        super().__init__()
        self.rows, self.columns = slice(*rows), slice(*columns)

    def forward(self, images: Tensor) -> Tensor:
        inside = images[:, :, self.rows, self.columns].mean((1, 2, 3))
        return 3 * torch.stack([inside, -inside], 1)


def corner_scores(model: nn.Module, rows: slice, columns: slice) -> tuple[dict[str, np.ndarray], Tensor]:
    """Scores by map: of the place itself, of all but the place, of the baselines, on images bright in that place."""
    torch.manual_seed(3)
    images = 0.3 * torch.randn(12, 3, 32, 32)
    images[:, :, rows, columns] += 1 + torch.rand(12, 1, 1, 1)
    place = torch.zeros(1, 32, 32)
    place[:, rows, columns] = 1
    methods = [method_of("oracle", lambda images: place), method_of("anti", lambda images: -place)]
    found = faithfulness(model, methods, images, torch.zeros(12).long())
    return dict(zip(found.names, found.scores(), strict=True)), images


def test_the_place_that_a_model_sums_wins_and_all_else_loses() -> None:
    scores, _ = corner_scores(Sum((2, 10), (20, 28)), slice(2, 10), slice(20, 28))
    assert scores["oracle"].min() > 1
    assert scores["anti"].max() < -1
    assert (scores["oracle"] > scores["centre"] + 1).all()


def test_the_centre_map_wins_where_the_object_is_in_the_centre() -> None:
    scores, _ = corner_scores(Sum((12, 20), (12, 20)), slice(12, 20), slice(12, 20))
    assert scores["centre"].min() > 1
    assert scores["oracle"].min() > 1
    assert np.abs(scores["oracle"] - scores["centre"]).max() < 0.35 * scores["oracle"].min()


def test_the_centre_map_falls_from_the_middle() -> None:
    order = cell_order(centre_map((16, 16)), (16, 16), np.arange(256)).tolist()
    assert set(order[:4]) == {7 * 16 + 7, 7 * 16 + 8, 8 * 16 + 7, 8 * 16 + 8}
    assert set(order[-4:]) == {0, 15, 240, 255}


def test_a_trained_network_is_explained_by_the_spot_and_by_its_own_gradient() -> None:
    """The class is the colour of a spot that lies anywhere."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(80):
        images, classes, _ = spots(32)
        loss = nn.functional.cross_entropy(model(images), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    images, classes, masks = spots(20)
    assert (model(images).argmax(1) == classes).float().mean() > 0.9

    def gradient(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        images = images.clone().requires_grad_()
        model(images).gather(1, classes[:, None]).sum().backward()
        return (images * images.grad).sum(1)  # type: ignore[operator]

    spot = iter(masks)
    methods = [
        method_of("oracle", lambda images: next(spot)[None]),
        Method("gradient", gradient, True, lambda model, images: Passes(1, 1)),
    ]
    oracle, gradients, _, centre = faithfulness(model, methods, images, classes).scores()
    for scores in (oracle, gradients):
        assert scores.mean() > 4 * scores.std() / 20**0.5
        assert (scores - centre).mean() > 4 * (scores - centre).std() / 20**0.5


def spots(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, 16, 16) of noise with a red or a blue spot of 4 x 4, its colour, its place (B, 16, 16)."""
    images, masks = 0.2 * torch.randn(count, 3, 16, 16), torch.zeros(count, 16, 16)
    classes = torch.randint(2, (count,))
    for image, mask, klass in zip(images, masks, classes, strict=True):
        y, x = torch.randint(12, (2,)).tolist()
        mask[y : y + 4, x : x + 4] = 1
        image[2 * int(klass)] += 2 * mask
    return images, classes, masks
