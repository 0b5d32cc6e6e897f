"""Deletion and insertion: how a model's answer changes as an image is removed, or revealed, in the order of a map.

From Petsiuk, Das and Saenko, "RISE" (2018, arXiv 1806.07421, section 4.3). The image is cut into square cells, about
14 x 14, the same for every map, so that a coarse map and a fine one are ranked on equal terms. Deletion replaces the
cells by a fill, the most important first; insertion starts from the fill and puts them back, the most important first.
Under each curve lies its mean over the share of the image, 0 to 1: low is good for deletion, high for insertion.

What is read is the log-odds of the class, ln p / (1 - p): with a softmax the logit less the log of the sum of the other
exponentials, with one sigmoid for each output the logit. A probability saturates: where a model is sure it stays near 1
until little of the image is left, and then near 0, so that only the few steps between would decide; log-odds keep on
moving. A bare logit is out, since a softmax does not feel a number that is added to all of them.

The score of a map is insertion less deletion, the mean of both fills: the area between removing the most and the least
important cells first (Schulz et al. 2020, arXiv 2001.00396, section 4.4). For any order and its reverse the two curves
change places, so the score of a random order is 0 on average. The random map is such a pair: an order, drawn for each
image, and its reverse, averaged; its score is exactly 0, and no luck of the draw enters a comparison with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from regard.errors import RegardError
from regard.explanation.method import Method
from regard.inference.memory import InParts
from regard.inference.precision import Precision, autocast, device_of

STEPS = 14
FILLS: tuple[str, ...] = ("mean", "blur")
RANDOM, CENTRE = "random", "centre"
BASELINES: tuple[str, ...] = (RANDOM, CENTRE)
BLUR = 16  # the blur's standard deviation is this part of the image's side: about one cell
DELETION, INSERTION = 0, 1  # places in an array of curves


@dataclass(frozen=True)
class Faithfulness:
    """Curves of several maps on the same images.

    names: M methods, then RANDOM and CENTRE; shares: (P,) of the image removed or revealed, 0 to 1; curves: (M + 2, N,
    2, F, P) log-odds, by map, image, DELETION or INSERTION, and fill.
    """

    names: tuple[str, ...]
    shares: np.ndarray
    curves: np.ndarray

    def areas(self) -> np.ndarray:
        """(M + 2, N, 2, F): mean log-odds over the share of the image, by the trapezoid rule."""
        return np.trapezoid(self.curves, self.shares, axis=-1)

    def scores(self) -> np.ndarray:
        """(M + 2, N): insertion less deletion, the mean of both fills; more is better."""
        areas = self.areas()
        return (areas[:, :, INSERTION] - areas[:, :, DELETION]).mean(axis=-1)


def faithfulness(
    model: nn.Module,
    methods: Sequence[Method],
    images: Tensor,
    classes: Tensor,
    *,
    steps: int = STEPS,
    precision: Precision = "fp32",
    independent: bool = False,
    seed: int = 0,
    on_image: Callable[[int], object] = lambda done: None,
) -> Faithfulness:
    """Curves of each method, of a random map and of a centre map, on (N, 3, H, W) normalised images.

    classes: (N,) whose log-odds are read; steps: in which the image goes, of equally many cells; precision: of the
    passes on changed images (maps are made in float32); independent: each output has a sigmoid of its own; on_image:
    told after each image how many are done. One image and one map at a time are in memory: 52 changed images at 14
    steps. Raises RegardError where a method gives a map that is not finite.
    """
    score = scorer(model, precision, independent)
    device = device_of(model)
    grid = cell_grid(images.shape[-2:])
    curves = []
    for number, (image, klass) in enumerate(zip(images, classes, strict=True)):
        image, klass = image.to(device), klass.to(device)
        rng = np.random.default_rng([seed, number])
        ties = rng.permutation(grid[0] * grid[1])  # the same for all maps of an image
        maps = [*(one_map(method, model, image, klass, number) for method in methods), centre_map(grid)]
        orders = [cell_order(map_, grid, ties) for map_ in maps]
        *found, centre, drawn = image_curves(score, image, klass, [*orders, rng.permutation(len(ties))], grid, steps)
        curves.append(np.stack([*found, both_ways(drawn), centre]))
        on_image(number + 1)
    names = (*(method.name for method in methods), *BASELINES)
    return Faithfulness(names, np.arange(steps + 1) / steps, np.stack(curves, axis=1))


def passes(maps: int, images: int, steps: int = STEPS) -> int:
    """Forward passes of one image that the curves of so many maps, and of both baselines, take."""
    return images * (1 + len(FILLS) + (maps + len(BASELINES)) * 2 * len(FILLS) * (steps - 1))


def log_odds(logits: Tensor, classes: Tensor, independent: bool = False) -> Tensor:
    """(B,) float64: ln p / (1 - p) of a class from (B, K) logits, p by a softmax, or by a sigmoid where independent."""
    logits = logits.double()
    own = logits.gather(1, classes[:, None])[:, 0]
    if independent:
        return own
    return own - logits.scatter(1, classes[:, None], -torch.inf).logsumexp(1)


def scorer(model: nn.Module, precision: Precision, independent: bool) -> Callable[[Tensor, Tensor], np.ndarray]:
    """(B, 3, H, W) images, a class () -> (B,) log-odds; where memory does not suffice, images pass in parts."""
    run, device = InParts(model), device_of(model)

    def score(images: Tensor, klass: Tensor) -> np.ndarray:
        with torch.inference_mode(), autocast(precision, device):
            logits = run(images)
        return log_odds(logits, klass.expand(len(images)), independent).cpu().numpy()

    return score


def one_map(method: Method, model: nn.Module, image: Tensor, klass: Tensor, number: int) -> Tensor:
    """(h, w): a method's map of one image, checked."""
    found = method.explain(model, image[None], klass[None])[0].detach().float().cpu()
    if not found.isfinite().all():
        raise RegardError(f"{method.name}: its map of image {number} is not finite; leave the method out")
    return found


def cell_grid(size: Sequence[int]) -> tuple[int, int]:
    """Cells (down, across) of an image: the divisors of its sides next to 14, between 10 and 20, else 14."""
    down, across = (min(side, min(range(10, 21), key=lambda n: (side % n > 0, abs(n - 14)))) for side in size)
    return down, across


def cell_order(map_: Tensor, grid: tuple[int, int], ties: np.ndarray) -> np.ndarray:
    """(n,) cells in row order's numbers, the most important first.

    A finer map is averaged in each cell, a coarser one interpolated (bilinear). Cells of equal importance come in the
    order of `ties`, a permutation: a constant map is a random one, not a scan from the top.
    """
    finer = map_.numel() >= grid[0] * grid[1]
    resampled = F.interpolate(map_.double()[None, None], grid, mode="area" if finer else "bilinear")
    return np.lexsort((ties, -resampled.flatten().numpy()))


def centre_map(grid: tuple[int, int]) -> Tensor:
    """(g, g): the nearer to the middle, the more important."""
    down, across = (torch.linspace(-1, 1, count, dtype=torch.float64) for count in grid)
    return -(down[:, None] ** 2 + across**2)


def filled(image: Tensor) -> list[Tensor]:
    """(3, H, W) each, by FILLS: the image's mean colour; the image blurred, with a deviation of a 16th of its side."""
    side = min(image.shape[-2:])
    sigma = side / BLUR
    reach = min(round(3 * sigma), side - 1)  # the border is mirrored, once
    mean = image.mean((1, 2), keepdim=True).expand_as(image)
    return [mean, gaussian_blur(image, [2 * reach + 1] * 2, [sigma] * 2)]


def image_curves(
    score: Callable[[Tensor, Tensor], np.ndarray],
    image: Tensor,
    klass: Tensor,
    orders: Sequence[np.ndarray],
    grid: tuple[int, int],
    steps: int,
) -> list[np.ndarray]:
    """(2, F, steps + 1) log-odds for each order of the cells; the whole image and the bare fills are looked at once."""
    fills = filled(image)
    whole, *bare = score(torch.stack([image, *fills]), klass)
    cells = cell_of_pixel(image.shape[-2:], grid)
    gone = np.rint(np.arange(1, steps) * len(orders[0]) / steps)  # cells removed, or revealed, after each step
    found = []
    for order in orders:
        rank = np.argsort(order)
        revealed = rank < gone[:, None]  # (steps - 1, n)
        kept = torch.from_numpy(np.stack([~revealed, revealed])[..., cells]).to(image.device)  # (2, steps - 1, H, W)
        changed = [torch.where(kept[:, :, None], image, fill) for fill in fills]  # (2, steps - 1, 3, H, W)
        inner = score(torch.stack(changed, 1).flatten(0, 2), klass).reshape(2, len(fills), steps - 1)
        curves = np.empty((2, len(fills), steps + 1))
        curves[..., 1:-1] = inner
        curves[DELETION, :, 0] = curves[INSERTION, :, -1] = whole
        curves[DELETION, :, -1] = curves[INSERTION, :, 0] = bare
        found.append(curves)
    return found


def cell_of_pixel(size: Sequence[int], grid: tuple[int, int]) -> np.ndarray:
    """(H, W): the number of the cell in which each pixel lies."""
    down, across = (np.arange(side) * count // side for side, count in zip(size, grid, strict=True))
    return down[:, None] * grid[1] + across


def both_ways(curves: np.ndarray) -> np.ndarray:
    """(2, F, P): the mean of an order's curves and its reverse's, whose deletion is the order's insertion backwards."""
    deletion = (curves[DELETION] + curves[INSERTION][:, ::-1]) / 2
    return np.stack([deletion, deletion[:, ::-1]])
