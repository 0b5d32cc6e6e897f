"""`Recipe`: every choice of a training run, as one frozen record; defaults by family and amount of data.

Sources of the defaults: AugReg (Steiner 2021, augmentation traded against data), DeiT (Touvron 2021,
appendix: AdamW, decay 0.05, RandAugment, MixUp 0.8, CutMix 1, erasing 0.25), MAE (He 2021, table 9: layer
decay when fine-tuning), ResNet practice (Goyal 2017: SGD 0.1 per 256 images, warm-up), LoRA (Hu 2021: adapters
bear a higher rate than weights) and the project's own runs on small images (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, Protocol, get_args

from regard.errors import RegardError
from regard.results import Problem
from regard.training.loop import Plan

Method = Literal["head", "finetune", "scratch", "lora"]
OptimiserName = Literal["adamw", "sgd"]
Precision = Literal["auto", "fp32", "bf16"]
Crop = Literal["resized", "pad", "centre"]
Head = Literal["linear", "sgd", "knn", "svm"]
Watch = Literal["top1", "nll", "map", "mae"]
Balance = Literal["none", "loss", "sampler"]

TINY_IMAGE = 24  # pixels; up to here no crop at all: every pixel is a part of the object
SGD_LR = 0.1  # per 128 images, of networks with batch normalisation
MOST_WATCHING = 0.2  # of the minutes of a run go to its evaluations
SMALL_IMAGE = 64  # pixels; up to here an object fills the frame and a resized crop destroys more than it varies


class Spec(Protocol):
    """What a recipe needs to know of a model; `regard.models.ModelSpec` has it."""

    @property
    def patch_size(self) -> int | None: ...

    @property
    def sgd_lr(self) -> float: ...


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Give one of `epochs`, `minutes`, `images_seen`; `steps` is filled in when the
    run starts.
    """

    method: Method = "scratch"
    """head: only the last layer, on frozen features; finetune: everything, from published weights; scratch:
    everything, from nothing; lora: the last layer and low-rank additions to the attention, from published weights
    """
    head: Head = "linear"
    """for `head`: linear, knn (nearest neighbours) and svm are solved on cached features; sgd trains a linear one
    over epochs of augmented views
    """
    lora_rank: int = 8
    """for `lora`: rank of what is added to each matrix of the attention"""
    epochs: float | None = None
    """passes over the training images"""
    minutes: float | None = None
    """wall time of training with its evaluations; turned into steps by a short measurement before step 0,
    then fixed
    """
    images_seen: int | None = None
    """training images that pass through the model, repeats counted"""
    steps: int | None = None
    """optimiser steps; the resolved form of the three above"""
    batch_size: int = 128
    """images per optimiser step"""
    accumulation: int = 1
    """parts in which a batch passes through the model, to save memory"""
    optimiser: OptimiserName = "adamw"
    """adamw or sgd (momentum 0.9, Nesterov)"""
    lr: float = 1e-3
    """highest learning rate, reached after the warm-up, from which a cosine falls to zero"""
    weight_decay: float = 0.05
    """not applied to norms, biases, position embedding and class token"""
    warmup: float = 0.05
    """share of the steps in which the learning rate rises linearly"""
    layer_decay: float = 1.0
    """learning rate of a block divided by that of the block above; 1: all equal"""
    clip_norm: float | None = 1.0
    """largest norm of the whole gradient; none: not clipped"""
    ema: float = 0.0
    """decay of the moving average of the weights that is evaluated and saved; 0: off"""
    dropout: float = 0.0
    """dropout inside the model"""
    drop_path: float = 0.0
    """stochastic depth of the last block; rises linearly from 0 at the first"""
    label_smoothing: float = 0.0
    """share of the target spread over all classes"""
    mixup: float = 0.0
    """alpha of MixUp; 0: off"""
    cutmix: float = 0.0
    """alpha of CutMix; 0: off"""
    mixing_probability: float = 1.0
    """share of the batches that are mixed, where mixup or cutmix is on"""
    randaugment: tuple[int, float] | None = None
    """RandAugment's number of operations and magnitude (0 to 10); none: off"""
    erasing: float = 0.0
    """probability that a random rectangle of an image becomes noise"""
    crop: Crop = "resized"
    """resized: a random part; pad: shifted by up to an eighth; centre: as at evaluation"""
    crop_scale: float = 0.25
    """smallest share of the image's area that a resized crop keeps"""
    flip: bool = True
    """mirror half of the images; switch off where left and right matter (digits, text)"""
    repeated_augmentation: int = 1
    """times that each drawn image comes in a row, augmented anew each time (Hoffer 2020; DeiT takes 3)"""
    balance: Balance = "none"
    """unequal classes; loss: an image weighs inversely to the frequency of its class; sampler: classes are drawn
    equally often
    """
    views: int = 2
    """for `head linear`: 1 uses the image, 2 its mirror too"""
    watch: Watch | None = None
    """validation metric that chooses the saved weights; none: top1, or map for several labels, mae for numbers"""
    evaluations: int = 20
    """evaluations on the validation images, evenly spread over the run; with `minutes`, in a fifth of them at most"""
    patience: int | None = None
    """stop after so many evaluations without improvement; none: run to the end"""
    snapshots: int = 0
    """copies of the weights kept from so many moments of the training, its start and end among them"""
    trials: int = 0
    """short trainings that choose the learning rate on the validation images before the run"""
    precision: Precision = "auto"
    """auto: bfloat16 where a short measurement finds it faster by a tenth"""
    deterministic: bool = False
    """no choices by measuring, and only operations that give the same bits each time"""
    seed: int = 0
    """redraws initialisation, order and augmentation"""

    def __post_init__(self) -> None:
        self._check_words()
        self._check_numbers()
        if sum(value is not None for value in (self.epochs, self.minutes, self.images_seen)) > 1:
            raise RegardError("--epochs, --minutes, --images-seen: name one, they all set the length of training")
        if self.batch_size % self.accumulation:
            raise RegardError(f"--accumulation {self.accumulation}: does not divide --batch-size {self.batch_size}")
        if self.deterministic and self.minutes is not None:
            raise RegardError("--minutes: depends on a measurement, so not with --deterministic; use --epochs")

    def _check_words(self) -> None:
        words = {
            "method": Method,
            "head": Head,
            "optimiser": OptimiserName,
            "crop": Crop,
            "balance": Balance,
            "watch": Watch,
            "precision": Precision,
        }
        for name, allowed in words.items():
            value = getattr(self, name)
            if value not in get_args(allowed) and not (name == "watch" and value is None):
                raise RegardError(f"{_flag(name)} {value}: expected {_either(get_args(allowed))}")

    def _check_numbers(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise RegardError(f"{_flag(name)} {value}: expected a number from {low:g} to {high:g}")
            if name in _WHOLE and value != int(value):
                raise RegardError(f"{_flag(name)} {value}: expected a whole number")
        for name in ("epochs", "minutes", "lr"):
            if getattr(self, name) == 0:
                raise RegardError(f"{_flag(name)} 0: expected a number above 0")
        if self.randaugment is not None:
            count, magnitude = _pair(self.randaugment)
            if not (1 <= count <= 10 and 0 <= magnitude <= 10):
                raise RegardError(f"--randaugment {self.randaugment}: expected operations 1-10 and a magnitude 0-10")

    @property
    def solved(self) -> bool:
        """The head is computed from cached features; there is no loop and nothing is drawn."""
        return self.method == "head" and self.head != "sgd"

    @property
    def micro_batch(self) -> int:
        """Images that pass through the model at once."""
        return self.batch_size // self.accumulation

    def length(self, n_train: int) -> int | None:
        """Optimiser steps, at least 1; None where `minutes` has not been measured yet."""
        if self.steps is not None:
            return self.steps
        if self.images_seen is not None:
            return max(1, math.ceil(self.images_seen / self.batch_size))
        if self.epochs is not None:
            return max(1, math.ceil(self.epochs * n_train / self.batch_size))
        return None

    @property
    def measuring(self) -> float:
        """Seconds for which steps should be measured: a hundredth of the minutes."""
        return 0.6 * (self.minutes or 0.0)

    def timed(self, step: float, evaluation: float) -> Recipe:
        """With as many steps as `minutes` hold, of the seconds that a step and an evaluation take.

        Evaluations beyond MOST_WATCHING of the time are left out, but one.
        """
        assert self.minutes is not None
        seconds, evaluations = 60 * self.minutes, self.evaluations
        if evaluations * evaluation > MOST_WATCHING * seconds:
            evaluations = max(1, int(MOST_WATCHING * seconds / evaluation))
        steps = max(1, int((seconds - evaluations * evaluation) / step))
        return replace(self, steps=steps, evaluations=evaluations)

    def measured_as(self, begun: Recipe) -> Recipe:
        """With what `begun`, the resolved recipe of the same run, has measured; the rest stays as it is given."""
        evaluations = self.evaluations if self.minutes is None else begun.evaluations
        return replace(self, steps=begun.steps, precision=begun.precision, evaluations=evaluations)

    def plan(self, watch: str, lower_is_better: bool = False) -> Plan:
        """What the loop does by a resolved recipe; watch: the evaluators' name that chooses the weights."""
        assert self.steps is not None and self.precision != "auto"
        return Plan(
            steps=self.steps,
            images_per_step=self.batch_size,
            warmup=round(self.warmup * self.steps),
            accumulation=self.accumulation,
            clip_norm=self.clip_norm,
            ema=self.ema,
            precision=self.precision,
            seed=self.seed,
            evaluate_every=-(-self.steps // self.evaluations),
            watch=watch,
            lower_is_better=lower_is_better,
            patience=self.patience,
            snapshots=self.snapshots,
        )

    def with_overrides(self, overrides: Mapping[str, Any]) -> Recipe:
        """The recipe with some fields replaced; naming one budget removes the others. Unknown names are
        refused.
        """
        _refuse_unknown(overrides)
        changes = _as_fields(overrides)
        if any(changes.get(name) is not None for name in _BUDGETS):
            changes = {**dict.fromkeys((*_BUDGETS, "steps")), **changes}
        return replace(self, **changes)

    def to_config(self) -> dict[str, Any]:
        """Plain values, for config.yaml."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_config`; unknown names are refused."""
        try:
            _refuse_unknown(config)
            return cls(**_as_fields(config))
        except (TypeError, ValueError, AttributeError) as error:
            raise RegardError(f"recipe: not one of ours ({error}); restore it or train anew") from None


_BUDGETS = ("epochs", "minutes", "images_seen")
_WHOLE = (
    "images_seen",
    "steps",
    "batch_size",
    "accumulation",
    "lora_rank",
    "repeated_augmentation",
    "views",
    "evaluations",
    "patience",
    "snapshots",
    "trials",
    "seed",
)
_RANGES = {
    "epochs": (0.0, 1e6),
    "minutes": (0.0, 1e6),
    "images_seen": (1, 1e12),
    "steps": (1, 1e10),
    "batch_size": (1, 1e6),
    "accumulation": (1, 1e6),
    "lr": (0.0, 100.0),
    "weight_decay": (0.0, 10.0),
    "warmup": (0.0, 0.9),
    "layer_decay": (0.01, 1.0),
    "clip_norm": (1e-6, 1e6),
    "ema": (0.0, 0.999999),
    "dropout": (0.0, 0.95),
    "drop_path": (0.0, 0.95),
    "label_smoothing": (0.0, 0.95),
    "mixup": (0.0, 10.0),
    "cutmix": (0.0, 10.0),
    "mixing_probability": (0.0, 1.0),
    "erasing": (0.0, 1.0),
    "crop_scale": (0.01, 1.0),
    "lora_rank": (1, 4096),
    "repeated_augmentation": (1, 100),
    "views": (1, 2),
    "evaluations": (1, 1e6),
    "patience": (1, 1e6),
    "snapshots": (0, 1000),
    "trials": (0, 100),
    "seed": (0, 2**31 - 1),
}


def recipe_for(
    spec: Spec | None,
    method: Method,
    n_train: int,
    img_size: int,
    images_seen: int | None = None,
    head: Head = "linear",
    problem: Problem = "single_label",
) -> Recipe:
    """A sensible recipe for `n_train` images of `img_size` pixels; without `images_seen` it sets `epochs`.

    spec: the registry's sheet; None, a module from elsewhere, is treated as a ResNet. problem: numbers often go with
    the size of what is seen, so for them images are shifted and not scaled.

    The amount of augmentation follows the number of times each image is seen: what is seen rarely cannot be
    memorised.
    """
    if method == "head":
        epochs = None if images_seen is not None or head != "sgd" else 30.0
        recipe = Recipe(
            method="head",
            head=head,
            epochs=epochs,
            images_seen=images_seen,
            batch_size=128,
            optimiser="sgd",
            lr=0.01,
            weight_decay=0.0,
            crop_scale=0.5,
        )
        return _for_numbers(recipe) if problem == "regression" else recipe
    epochs = _default_epochs(method, n_train)
    seen = images_seen if images_seen is not None else round(epochs * n_train)
    sgd_lr = spec.sgd_lr if spec else SGD_LR
    recipe = _sgd(method, seen, img_size, sgd_lr) if sgd_lr and method != "lora" else _adamw(method, seen, img_size)
    recipe = _augmented(recipe, sgd_lr == 0, repeats=seen / max(n_train, 1), img_size=img_size)
    if problem == "regression":
        recipe = _for_numbers(recipe)
    evaluations = max(4, min(20, round(seen / max(n_train, 1))))
    return replace(
        recipe,
        evaluations=evaluations,
        images_seen=images_seen,
        epochs=None if images_seen is not None else epochs,
    )


def _for_numbers(recipe: Recipe) -> Recipe:
    crop: Crop = "pad" if recipe.crop == "resized" else recipe.crop
    return replace(recipe, crop=crop, label_smoothing=0.0, mixup=0.0, cutmix=0.0)


def _default_epochs(method: Method, n_train: int) -> float:
    # 100 passes over a thousand photos, 30 over ten thousand, 10 over a hundred thousand; a third when
    # the weights are published ones.
    scratch = min(200.0, max(10.0, 100 * (1000 / max(n_train, 1)) ** 0.5))
    return float(round(scratch if method == "scratch" else max(5.0, scratch / 3)))


def _batch(seen: int, img_size: int) -> int:
    """A power of two that leaves some 600 steps: 16 to 128 images (64 for large ones)."""
    largest = 128 if img_size <= SMALL_IMAGE else 64
    return max(16, min(largest, 2 ** round(math.log2(max(seen, 600) / 600))))


def _adamw(method: Method, seen: int, img_size: int) -> Recipe:
    """For transformers, and what is built like them."""
    batch = _batch(seen, img_size)
    if method == "lora":
        return Recipe(method=method, batch_size=batch, lr=_round(2e-3 * (batch / 128) ** 0.5), warmup=0.1)
    if method == "finetune":
        return Recipe(
            method=method,
            batch_size=batch,
            lr=_round(3e-4 * (batch / 128) ** 0.5),
            weight_decay=0.05,
            warmup=0.1,
            layer_decay=0.75,
            drop_path=0.1,
        )
    # Small images mean narrow models, which bear a higher rate (docs/log.md, digits).
    lr = 3e-3 if img_size <= SMALL_IMAGE else 1e-3
    return Recipe(method=method, batch_size=batch, lr=_round(lr * (batch / 128) ** 0.5), weight_decay=0.05, warmup=0.1)


def _sgd(method: Method, seen: int, img_size: int, lr: float) -> Recipe:
    """For convolutional networks; lr: of 128 images, from scratch."""
    batch = _batch(seen, img_size)
    if method == "finetune":
        return Recipe(
            method=method,
            batch_size=batch,
            optimiser="sgd",
            lr=_round(0.2 * lr * batch / 128),
            weight_decay=1e-4,
            warmup=0.1,
        )
    return Recipe(
        method=method,
        batch_size=batch,
        optimiser="sgd",
        lr=_round(lr * batch / 128),
        weight_decay=5e-4,
        warmup=0.1,
    )


def _augmented(recipe: Recipe, transformer: bool, repeats: float, img_size: int) -> Recipe:
    """Three levels: each image seen fewer than 30 times, fewer than 100 times, more."""
    small, tiny = img_size <= SMALL_IMAGE, img_size <= TINY_IMAGE
    recipe = replace(recipe, crop="pad" if small else "resized", crop_scale=0.5, label_smoothing=0.1)
    if tiny:  # a shift by two pixels moves a stroke into another patch: accuracy falls by 29 points (docs/log.md)
        recipe = replace(recipe, crop="centre")
    if repeats < 30:
        return recipe
    recipe = replace(recipe, crop_scale=0.25, randaugment=(2, 5.0) if not small else (1, 5.0))
    recipe = replace(recipe, drop_path=0.1 if transformer else 0.0)
    if repeats < 100:
        return recipe
    return replace(
        recipe,
        randaugment=(2, 9.0) if transformer and not small else (2, 5.0),
        mixup=0.2,
        cutmix=1.0 if not small else 0.0,
        mixing_probability=0.5,
        erasing=0.25 if transformer and not small else 0.0,
    )


def warnings(recipe: Recipe, spec: Spec, img_size: int, n_train: int | None = None) -> tuple[str, ...]:
    """One line for each choice that is allowed but unlikely to be meant."""
    lines = []
    largest = {"adamw": 5e-3, "sgd": 1.0}[recipe.optimiser]
    smallest = {"adamw": 1e-6, "sgd": 1e-5}[recipe.optimiser]
    if recipe.lr > largest:
        lines.append(f"--lr {recipe.lr:g} is high for {recipe.optimiser} (usually < {largest:g}): it may diverge")
    if recipe.lr < smallest:
        lines.append(f"--lr {recipe.lr:g} is low for {recipe.optimiser} (usually > {smallest:g}): it may not learn")
    if recipe.method == "finetune" and recipe.lr > largest / 5:
        lines.append(f"--lr {recipe.lr:g} is high for fine-tuning: it may wipe out what the weights know")
    if spec.patch_size:
        lines += _patch_warnings(spec.patch_size, img_size)
    if recipe.patience is not None and recipe.patience >= recipe.evaluations:
        lines.append(f"--patience {recipe.patience} never acts: the run has {recipe.evaluations} evaluations")
    if n_train is not None and recipe.batch_size > n_train:
        lines.append(f"--batch-size {recipe.batch_size} exceeds the {n_train} training images: each step repeats some")
    idle = [name for name, unset in (("snapshots", 0), ("repeated_augmentation", 1)) if getattr(recipe, name) != unset]
    if recipe.solved and idle:
        lines.append(f"{', '.join(map(_flag, idle))}: a solved head is not trained step by step, so this does nothing")
    return tuple(lines)


def _patch_warnings(patch: int, img_size: int) -> list[str]:
    lines = []
    side = img_size // patch
    if img_size % patch:
        lines.append(
            f"--img-size {img_size} is no multiple of the patch size {patch}: "
            f"the last {img_size % patch} pixels are not seen; "
            f"{side * patch} or {(side + 1) * patch} would fit"
        )
    if side * side < 16:
        lines.append(f"--img-size {img_size} makes {side * side} patches of {patch} pixels: attention needs 16 or more")
    return lines


def _as_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _refuse_unknown(names: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Recipe)]
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
            raise RegardError(f"recipe: unknown field {name!r}; {hint}")


def _pair(value: Sequence[float]) -> tuple[float, float]:
    if isinstance(value, str) or len(value) != 2:
        raise RegardError(f"--randaugment {value}: expected two numbers, for instance 2 9")
    return value[0], value[1]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _either(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " or " + words[-1]


def _round(value: float) -> float:
    return float(f"{value:.2g}")
