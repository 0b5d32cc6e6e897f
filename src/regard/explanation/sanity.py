"""Two questions to a method of explanation that say nothing of how good it is, only whether it looks at the model.

Randomised weights, cascading (Adebayo et al. 2018, arXiv 1810.03292, section 3.1): from the head down to the first
layer, group after group of layers loses what it has learned, and the map is compared with the original one by
Spearman's rank correlation, of the values and of their absolute values (a method that mostly shows the edges of the
image keeps the latter). A group loses what it has learned by a shuffle of the numbers within each of its parameters:
that works for any module, needs no initialisation of its own, and keeps the size of the numbers.

Another class: the map for the class in question against that for the class least likely. A method that is the same for
every class by definition does not fail here; it is blind to the class.

Maps are alike above a correlation of 0.5, where one explains a quarter of the variance of the other's ranks. By chance,
95% of pairs of unrelated maps stay below 0.14 (14 x 14 independent values) or 0.28 (7 x 7), and a mean over images
far below.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from regard.explanation.method import Method

ALIKE = 0.5
GROUPS = 5
BATCH = 4  # images that a method explains at once


@dataclass(frozen=True)
class Cascade:
    """How alike the maps remain while a model is randomised.

    reached: for each of G stages, down to which layer; signed, absolute: (M, G, N) rank correlations with the original
    map, of the values and of their absolute values, by method, stage and image.
    """

    reached: tuple[str, ...]
    signed: np.ndarray
    absolute: np.ndarray

    def left(self) -> np.ndarray:
        """(M, G): the mean over the images, the larger of both; a method fails where the last is above ALIKE."""
        return np.maximum(self.signed.mean(axis=-1), self.absolute.mean(axis=-1))


def cascade(
    model: nn.Module, methods: Sequence[Method], images: Tensor, classes: Tensor, groups: int = GROUPS, seed: int = 0
) -> Cascade | None:
    """The randomised-weights check on (N, 3, H, W) normalised images, on a copy of the model.

    classes: (N,) explained, the same ones throughout; groups: stages, the head being the first. None for a model
    without parameters.
    """
    stages = layer_groups(model, images[:1], groups)
    if not stages:
        return None
    copy = deepcopy(model)
    original = [maps_of(method, copy, images, classes) for method in methods]
    generator = torch.Generator().manual_seed(seed)
    signed = np.empty((len(methods), len(stages), len(images)))
    absolute = np.empty_like(signed)
    for stage, (_, names) in enumerate(stages):
        for name in names:
            shuffle(copy.get_parameter(name), generator)
        for number, method in enumerate(methods):
            found = maps_of(method, copy, images, classes)
            signed[number, stage] = [rank_correlation(*pair) for pair in zip(original[number], found, strict=True)]
            sizes = zip(np.abs(original[number]), np.abs(found), strict=True)
            absolute[number, stage] = [rank_correlation(*pair) for pair in sizes]
    return Cascade(tuple(label for label, _ in stages), signed, absolute)


def across_classes(
    model: nn.Module, methods: Sequence[Method], images: Tensor, classes: Tensor, others: Tensor
) -> np.ndarray:
    """(M, N): rank correlation of each method's map for a class (N,) with that for another (N,), image by image."""
    found = []
    for method in methods:
        pair = (maps_of(method, model, images, classes), maps_of(method, model, images, others))
        found.append([rank_correlation(one, other) for one, other in zip(*pair, strict=True)])
    return np.array(found).reshape(len(methods), len(images))


def maps_of(method: Method, model: nn.Module, images: Tensor, classes: Tensor) -> np.ndarray:
    """(N, h, w) float32."""
    parts = zip(images.split(BATCH), classes.split(BATCH), strict=True)
    return np.concatenate([method.explain(model, *part).detach().float().cpu().numpy() for part in parts])


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two maps, ties by mean ranks; 0 where one is constant or not finite."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    ranks = np.stack([rankdata(a), rankdata(b)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    size = np.sqrt((ranks**2).sum(axis=1)).prod()
    return float(ranks[0] @ ranks[1] / size) if size else 0.0


def layer_groups(model: nn.Module, image: Tensor, groups: int = GROUPS) -> list[tuple[str, tuple[str, ...]]]:
    """(the layer reached, names of parameters) of at most `groups` groups of layers, from the head to the input.

    Layers are taken in the order in which they run on `image` (1, 3, H, W); blocks stay whole. The first group is what
    runs last, the head; the others share the remaining layers evenly. Parameters of modules that are never called
    count to the module around them.
    """
    started: dict[str, int] = {}

    def note(name: str, *_: object) -> None:
        started.setdefault(name, len(started))

    hooks = [module.register_forward_pre_hook(partial(note, name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    layers: dict[str, list[str]] = {}
    start: dict[str, int] = {}
    for parameter, _ in model.named_parameters():
        owner = parameter.rpartition(".")[0]
        while owner not in started:
            owner = owner.rpartition(".")[0]
        layer = re.match(r"(.*?\d+)(?:\.|$)|.*", owner)
        label = (layer[1] or layer[0]) if layer else owner
        layers.setdefault(label, []).append(parameter)
        start[label] = min(start.get(label, started[owner]), started[owner])
    order = sorted(layers, key=lambda label: -start[label])
    count = min(groups, len(order)) - 1
    parts = (
        [order[:1], *(list(part) for part in np.array_split(np.array(order[1:], object), count))]
        if count > 0
        else [order]
    )
    found = [(part[-1], tuple(name for label in part for name in layers[label])) for part in parts if part]
    return [*found[:-1], ("all layers", found[-1][1])] if found else []


@torch.no_grad()
def shuffle(parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Puts the numbers of a parameter in random places."""
    places = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
    parameter.copy_(parameter.flatten()[places].view_as(parameter))
