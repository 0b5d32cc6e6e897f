"""One registry of models: a name, what it takes and how it is built. Knows no weights and no training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, cast

from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.patch import patch_grid

FEWEST_PATCHES = 16
Task = Literal["classify", "segment", "seq2seq", "image-text", "generate", "mask-generation"]


class Features(NamedTuple):
    """What a model knows of (B, 3, S, S) images just before its head.

    tokens: (B, prefix + height*width, D) after the final norm; grid: (height, width) of the token map;
    prefix: tokens before the patches; cls: (B, D) or None; pooled: (B, D), exactly what the head multiplies (of
    another width than the tokens where hidden layers lie between).
    """

    tokens: Tensor
    grid: tuple[int, int]
    prefix: int
    cls: Tensor | None
    pooled: Tensor


class Heads(NamedTuple):
    """What a model with several heads gives in training: (B, K) of the main one, then of the others.

    In evaluation it gives one tensor. The loss is that of `logits` plus the model's `OTHERS_WEIGHT` times those of
    `others`, the heads that it names in `OTHER_HEADS`.
    """

    logits: Tensor
    others: tuple[Tensor, ...]


class Build(Protocol):
    """Makes an untrained model; num_classes 0 leaves the head out. Options are those of the spec.

    For the task "seq2seq", num_classes are the words of the vocabulary and img_size is 0.
    """

    def __call__(
        self, *args: Any, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float, **options: Any
    ) -> nn.Module: ...


@dataclass(frozen=True)
class ModelSpec:
    """The sheet of one registered model.

    img_size: pixels per side where nothing else is asked, 0 for a model that sees no images; patch_size: pixels per
    side, None for a CNN.
    smallest: pixels per side of the smallest image it takes, 0 where 4x4 patches (or 32 pixels) will do.
    options: keyword arguments of `build` with their allowed values, the first being the default; a name carries
    them as `NAME+option=value`. paper: authors, title, year and where. task: what its output is.
    timm: (architecture, model_args) with which `timm.create_model(architecture, num_classes=K, **model_args)`
    has the same state-dict names and shapes, from `timm_from` pixels upwards; None where timm has none. timm_options:
    (option, value) -> what it adds to model_args; timm has none of the others.
    deviations: what differs from the paper, in one line.
    convolutional: mostly convolutions, which run faster with channels last in memory.
    sgd_lr: the learning rate of 128 images where it is trained from scratch by SGD with momentum; 0: by AdamW.
    """

    name: str
    family: str
    build: Build = field(repr=False)
    img_size: int
    patch_size: int | None = None
    smallest: int = 0
    task: Task = "classify"
    options: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    paper: str = ""
    timm: tuple[str, Mapping[str, Any]] | None = None
    timm_from: int = 0
    timm_options: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    deviations: str = ""
    convolutional: bool = False
    sgd_lr: float = 0.0


_SPECS: dict[str, ModelSpec] = {}


def register_model(spec: ModelSpec) -> None:
    """Adds a model under a name of its own.

    For the task "classify", its `build` gives a module with forward (B, 3, S, S) -> (B, K), a method for `features_of`
    and an attribute HEAD, the name of its last `nn.Linear`; OTHER_HEADS and OTHERS_WEIGHT where it has more (see
    `Heads`). Raises RegardError for a name that is taken.
    """
    if spec.name in _SPECS:
        raise RegardError(f"{spec.name}: is registered already; choose another name")
    _SPECS[spec.name] = spec


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that fit a shell pattern (`vit_*_32`), sorted."""
    return sorted(name for name in _SPECS if fnmatchcase(name, pattern))


def model_spec(name: str) -> ModelSpec:
    """The sheet of a model, `NAME` or `NAME+option=value+...`.

    Raises RegardError with the nearest names for one that is unknown, and with what is allowed for an option.
    """
    bare, *choices = name.split("+")
    if bare not in _SPECS:
        nearest = get_close_matches(bare, _SPECS, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(nearest)}" if nearest else "regard.list_models() names them all"
        raise RegardError(f"{bare}: no such model; {hint}")
    spec = _SPECS[bare]
    return _chosen(spec, choices) if choices else spec


def _chosen(spec: ModelSpec, choices: list[str]) -> ModelSpec:
    """The spec of `NAME+option=value`: its build bound to the options."""
    options: dict[str, str] = {}
    for choice in choices:
        option, _, value = choice.partition("=")
        if value not in spec.options.get(option, ()):
            known = "; ".join(f"{name}={'|'.join(values)}" for name, values in spec.options.items())
            raise RegardError(f"{spec.name}+{choice}: no such option; it has {known or 'none'}")
        if value != spec.options[option][0]:
            options[option] = value
    if not options:
        return spec
    suffix = "".join(f"+{option}={options[option]}" for option in spec.options if option in options)
    build: Build = partial(spec.build, **options)
    timm = spec.timm
    for choice in options.items():
        timm = (timm[0], {**timm[1], **spec.timm_options[choice]}) if timm and choice in spec.timm_options else None
    return replace(spec, name=spec.name + suffix, build=build, timm=timm)


def create_model(
    name: str,
    num_classes: int = 1000,
    img_size: int | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    force: bool = False,
) -> nn.Module:
    """An untrained model: forward(x (B, 3, S, S)) -> logits (B, num_classes).

    Args:
        name: as `list_models()` gives it.
        num_classes: outputs of the head; 0 leaves the head out. Of a model of sequences: words of the vocabulary.
        img_size: pixels per side, a multiple of the patch; the model's own where None.
        drop_rate: dropout where the paper has it, in [0, 1).
        drop_path_rate: stochastic depth of the last block, in [0, 1), rising linearly from 0 at the first.
        force: allow fewer than 16 patches.

    Raises:
        RegardError: an unknown name (with the nearest), an image size or a rate that the model cannot take.
    """
    spec = model_spec(name)
    size = spec.img_size if img_size is None else img_size
    if num_classes < 0:
        raise RegardError(f"num_classes={num_classes}: expected a count; 0 leaves the head out")
    if size < 1 and spec.img_size:
        raise RegardError(f"img_size={size}: expected pixels per side, for example {spec.img_size}")
    for rate, label in ((drop_rate, "drop_rate"), (drop_path_rate, "drop_path_rate")):
        if not 0 <= rate < 1:
            raise RegardError(f"{label}={rate}: expected a probability in [0, 1)")
    if spec.patch_size is None and size < spec.smallest:
        raise RegardError(f"img_size={size}: {name} needs {spec.smallest} pixels per side or more")
    if spec.patch_size is not None and not force:
        _check_patches(name, size, spec.patch_size)
    return spec.build(num_classes=num_classes, img_size=size, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


def _check_patches(name: str, img_size: int, patch_size: int) -> None:
    rows, columns = patch_grid(img_size, patch_size)
    if rows * columns < FEWEST_PATCHES:
        raise RegardError(
            f"img_size={img_size}: {name} would see {rows}x{columns} patches, fewer than {FEWEST_PATCHES}; "
            f"use img_size {4 * patch_size} or more, a smaller patch, or force"
        )


def timm_reference(spec: ModelSpec, img_size: int) -> tuple[str, dict[str, Any]] | None:
    """(architecture, model_args) of the same model in timm at this image size; None where timm has none."""
    if spec.timm is None or img_size < spec.timm_from:
        return None
    architecture, arguments = spec.timm
    size = {"img_size": img_size} if spec.patch_size is not None else {}
    return architecture, {**arguments, **size}


def features_method(model: nn.Module) -> Callable[[Tensor], Features] | None:
    """By which a model says what it knows of images (B, 3, S, S) before its head; None where it does not say.

    That is `features`, or `final_features` where `features` is a submodule (so it is in torchvision's AlexNet, VGG and
    ConvNeXt, whose names of weights begin with it).
    """
    for name in ("features", "final_features"):
        method = getattr(model, name, None)
        if callable(method) and not isinstance(method, nn.Module):
            return cast("Callable[[Tensor], Features]", method)
    return None


def features_of(model: nn.Module, images: Tensor) -> Features:
    """What a registered model knows of images (B, 3, S, S) before its head. Raises RegardError for another module."""
    method = features_method(model)
    if method is None:
        raise RegardError(f"{type(model).__name__}: has no method features(images) that says what its head reads")
    return method(images)


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Dotted names of the last layers of a registered model, the main one first ("head",).

    Raises RegardError for another module.
    """
    name = getattr(model, "HEAD", None)
    if not isinstance(name, str):
        raise RegardError(f"{type(model).__name__}: is no registered model; give it HEAD, its last layer's name")
    return (name, *getattr(model, "OTHER_HEADS", ()))


def reset_head(model: nn.Module, num_classes: int) -> None:
    """Puts fresh heads of `num_classes` outputs on a registered model, all zero (ViT paper, section 3.2).

    Raises RegardError where the model was made without a head.
    """
    for name in head_names(model):
        old = model.get_submodule(name)
        if not isinstance(old, nn.Linear):
            raise RegardError(f"{type(model).__name__}: was made without a head (num_classes=0); make it with one")
        head = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        model.set_submodule(name, head)
