"""What differs by problem: the watched metric, the augmentations that make sense, the targets and the loss.

| problem      | outputs            | loss                                                        | watched        |
|--------------|--------------------|-------------------------------------------------------------|----------------|
| single_label | scores of classes  | cross-entropy                                               | top1, or nll   |
| multi_label  | a score per label  | binary cross-entropy, mean over labels                      | map, or nll    |
| regression   | standard deviations| smooth L1 (Girshick 2015, arXiv 1504.08083, equation 3)     | mae            |

Numbers are learned as standard deviations from the mean of the training labels; at the end both are folded into
the last Linear, so that the saved model answers in the units of the labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import RegardError
from regard.results import Problem
from regard.training.recipe import Recipe, Watch

if TYPE_CHECKING:
    from regard.data.sources import ImageSet
    from regard.inference.loaded import LoadedModel

WATCHES: dict[Problem, tuple[Watch, ...]] = {  # the first is the default
    "single_label": ("top1", "nll"),
    "multi_label": ("map", "nll"),
    "regression": ("mae",),
}
WORDS: dict[Problem, str] = {
    "single_label": "one label a photo",
    "multi_label": "several labels a photo",
    "regression": "numbers",
}
UNEQUAL = 10  # times as many images of the largest class as of the smallest, from which `advice` speaks


def suited(recipe: Recipe, problem: Problem, boxes: bool = False) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe as this problem can use it, and a line for each thing that had to be switched off.

    Raises RegardError for a watched metric that the problem does not have, and for a balance where there are no
    classes or nothing is drawn.
    """
    allowed = WATCHES[problem]
    if recipe.watch is not None and recipe.watch not in allowed:
        raise RegardError(f"--watch {recipe.watch}: the labels are {WORDS[problem]}; expected {' or '.join(allowed)}")
    _check_balance(recipe, problem)
    off: dict[str, Any] = {}
    if problem == "regression":
        off |= {"label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0}
    if boxes:
        off |= {"crop": "centre", "randaugment": None}
    changed = {name: value for name, value in off.items() if getattr(recipe, name) != value}
    notes = []
    if flags := [f"--{name.replace('_', '-')}" for name in changed if name != "crop"]:
        notes.append(f"{', '.join(flags)}: not with {'boxes' if boxes else WORDS[problem]}, switched off")
    if "crop" in changed:
        notes.append("--crop centre: a cropped photo would lose a part of its box, so the whole photo is used")
    return replace(recipe, watch=recipe.watch or allowed[0], **changed), tuple(notes)


def _check_balance(recipe: Recipe, problem: Problem) -> None:
    if recipe.balance == "none":
        return
    if problem == "regression":
        raise RegardError(f"--balance {recipe.balance}: the labels are numbers, which have no classes; leave it out")
    if recipe.solved and recipe.balance == "sampler":
        raise RegardError("--balance sampler: a solved head draws no images; use --balance loss")
    if recipe.solved and recipe.head == "knn":
        raise RegardError("--balance loss: neighbours have no loss to weigh; use --head linear or svm")


@dataclass(frozen=True)
class Task:
    """A problem with what its training labels say: weights of classes, mean and scale of numbers.

    weights: (K,) of classes, (2, K) of labels (absent, present), or None; mean, scale: (K,) of numbers.
    """

    problem: Problem
    weights: Tensor | None = None
    mean: Tensor | None = None
    scale: Tensor | None = None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch, a scalar. outputs (B, K) float32; targets as in `Batch`, NaN counts as no error.

        The mean is over all images and labels, known or not, so that the parts of a batch add up to the whole.
        """
        if self.problem == "single_label":
            weights = None if self.weights is None else self.weights.to(outputs.device)
            return F.cross_entropy(outputs, targets, weight=weights, reduction="none").mean()
        known = ~targets.isnan()
        if self.problem == "regression":
            errors = F.smooth_l1_loss(outputs, self._standard(targets.nan_to_num()), reduction="none")
            return (errors * known).mean()
        targets = targets.nan_to_num()
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        if self.weights is not None:
            absent, present = self.weights.to(outputs.device)
            losses = losses * torch.lerp(absent.expand_as(targets), present.expand_as(targets), targets)
        return (losses * known).mean()

    def _standard(self, targets: Tensor) -> Tensor:
        assert self.mean is not None and self.scale is not None
        return (targets - self.mean.to(targets.device)) / self.scale.to(targets.device)

    def answers(self, outputs: Tensor) -> Tensor:
        """(B, K) what the trained module gave, in the units of the labels."""
        if self.mean is None or self.scale is None:
            return outputs
        return outputs * self.scale.to(outputs.device) + self.mean.to(outputs.device)

    def fold(self, loaded: LoadedModel) -> None:
        """Let the model itself answer in the units of the labels: mean and scale go into its last Linears."""
        if self.mean is None or self.scale is None:
            return
        # One layer may answer in several places (`set_head_module`): it is folded once.
        for linear in {loaded.model.get_submodule(head) for head in loaded.heads}:
            assert isinstance(linear, nn.Linear) and linear.bias is not None  # `refuse_unfoldable` has seen to it
            with torch.no_grad():
                device, kind = linear.weight.device, linear.weight.dtype
                scale, mean = self.scale.double().to(device), self.mean.double().to(device)
                linear.weight.copy_((linear.weight.double() * scale[:, None]).to(kind))
                linear.bias.copy_((linear.bias.double() * scale + mean).to(kind))


def task_for(images: ImageSet, rows: np.ndarray, recipe: Recipe) -> Task:
    """The task that the training rows pose."""
    labels = images.labels[rows]
    if images.problem == "regression":
        mean, scale = standardisation(labels, images.classes)
        return Task("regression", mean=torch.from_numpy(mean).float(), scale=torch.from_numpy(scale).float())
    weights = None
    if recipe.balance == "loss":
        weights = torch.from_numpy(class_weights(labels, len(images.classes))).float()
    return Task(images.problem, weights)


def refuse_unfoldable(loaded: LoadedModel, problem: Problem) -> None:
    """Numbers need a last Linear with a bias that takes up their mean and scale: RegardError where there is none."""
    linear = loaded.model.get_submodule(loaded.head) if loaded.head else None
    if problem == "regression" and (not isinstance(linear, nn.Linear) or linear.bias is None):
        raise RegardError(
            f"{loaded.name}: its output comes from no nn.Linear with a bias, which numbers need for their mean and "
            "scale; give the model one as its last layer"
        )


def standardisation(labels: np.ndarray, columns: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(mean (K,), standard deviation (K,)) float64 of the known labels (N, K); a constant column keeps scale 1."""
    known = ~np.isnan(labels)
    for number in np.flatnonzero(~known.any(axis=0)):
        raise RegardError(f"{columns[number]}: no training image has a number there; leave it out of --target")
    labels = labels.astype(np.float64)
    mean, scale = np.asarray(np.nanmean(labels, axis=0)), np.asarray(np.nanstd(labels, axis=0))
    return mean, np.where(scale > 1e-12 * np.maximum(np.abs(mean), 1e-30), scale, 1.0)


def class_weights(labels: np.ndarray, count: int) -> np.ndarray:
    """Weights inverse to frequency, with mean 1 over the images: (K,) for labels (N,), (2, K) for labels (N, K).

    A class or label without images has weight 0 there: it is never asked. Of several labels each is a problem of two
    classes, absent and present, over the images where it is known.
    """
    if labels.ndim == 1:
        counts = np.bincount(labels, minlength=count).astype(float)
        return _inverse(counts[:, None]).ravel()
    present = np.nansum(labels, axis=0)
    return _inverse(np.stack([(~np.isnan(labels)).sum(axis=0) - present, present]))


def _inverse(counts: np.ndarray) -> np.ndarray:
    """(C, K) images of each class -> weights: total / (classes that occur * images), column by column."""
    some = counts > 0
    return np.where(some, counts.sum(axis=0) / (some.sum(axis=0) * np.maximum(counts, 1)).clip(1), 0.0)


def advice(images: ImageSet, rows: np.ndarray, recipe: Recipe) -> str | None:
    """A line where classes are very unequal and nothing is done about it; else None."""
    if recipe.balance != "none" or images.problem == "regression" or (recipe.solved and recipe.head == "knn"):
        return None
    labels = images.labels[rows]
    several = images.problem == "multi_label"
    counts = np.nansum(labels, axis=0) if several else np.bincount(labels, minlength=len(images.classes))
    occurring = np.where(counts > 0, counts, np.inf)
    largest, smallest = int(counts.argmax()), int(occurring.argmin())
    ratio = counts[largest] / occurring[smallest]
    if ratio < UNEQUAL:
        return None
    named = f"{images.classes[largest]} ({int(counts[largest]):,}) and {images.classes[smallest]}"
    return (
        f"{named} ({int(counts[smallest]):,} training images) differ {ratio:.0f} times: --balance loss lets rare "
        f"{'labels' if several else 'classes'} count as much as frequent ones"
    )
