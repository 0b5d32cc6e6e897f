"""One registry of models: a name, what it takes and how it is built. Knows no weights and no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.patch import patch_grid

FEWEST_PATCHES = 16


class Features(NamedTuple):
    """What a model knows of (B, 3, S, S) images just before its head.

    tokens: (B, prefix + height*width, D) after the final norm; grid: (height, width) of the token map;
    prefix: tokens before the patches; cls: (B, D) or None; pooled: (B, D), exactly what the head multiplies.
    """

    tokens: Tensor
    grid: tuple[int, int]
    prefix: int
    cls: Tensor | None
    pooled: Tensor


class Build(Protocol):
    """Makes an untrained model; num_classes 0 leaves the head out."""

    def __call__(self, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> nn.Module: ...


@dataclass(frozen=True)
class ModelSpec:
    """The sheet of one registered model.

    img_size: pixels per side where nothing else is asked; patch_size: pixels per side, None for a CNN.
    timm: (architecture, model_args) with which `timm.create_model(architecture, num_classes=K, **model_args)`
    has the same state-dict names and shapes, from `timm_from` pixels upwards; None where timm has none.
    deviations: what differs from the paper, in one line.
    """

    name: str
    family: str
    build: Build = field(repr=False)
    img_size: int
    patch_size: int | None = None
    task: str = "classify"
    timm: tuple[str, Mapping[str, Any]] | None = None
    timm_from: int = 0
    deviations: str = ""


_SPECS: dict[str, ModelSpec] = {}


def register_model(spec: ModelSpec) -> None:
    """Adds a model under a name of its own.

    Its `build` gives a module with forward (B, 3, S, S) -> (B, K), `features` -> `Features` and an attribute
    HEAD, the name of its last `nn.Linear`. Raises RegardError for a name that is taken.
    """
    if spec.name in _SPECS:
        raise RegardError(f"{spec.name}: is registered already; choose another name")
    _SPECS[spec.name] = spec


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that fit a shell pattern (`vit_*_32`), sorted."""
    return sorted(name for name in _SPECS if fnmatchcase(name, pattern))


def model_spec(name: str) -> ModelSpec:
    """The sheet of a model. Raises RegardError with the nearest names for one that is unknown."""
    if name not in _SPECS:
        nearest = get_close_matches(name, _SPECS, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(nearest)}" if nearest else "regard.list_models() names them all"
        raise RegardError(f"{name}: no such model; {hint}")
    return _SPECS[name]


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
        num_classes: outputs of the head; 0 leaves the head out.
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
    if size < 1:
        raise RegardError(f"img_size={size}: expected pixels per side, for example {spec.img_size}")
    for rate, label in ((drop_rate, "drop_rate"), (drop_path_rate, "drop_path_rate")):
        if not 0 <= rate < 1:
            raise RegardError(f"{label}={rate}: expected a probability in [0, 1)")
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


def head_name(model: nn.Module) -> str:
    """Dotted name of the last layer of a registered model ("head", "fc"); RegardError for another module."""
    name = getattr(model, "HEAD", None)
    if not isinstance(name, str):
        raise RegardError(f"{type(model).__name__}: is no registered model; give it HEAD, its last layer's name")
    return name


def reset_head(model: nn.Module, num_classes: int) -> None:
    """Puts a fresh head of `num_classes` outputs on a registered model, all zero (ViT paper, section 3.2).

    Raises RegardError where the model was made without a head.
    """
    name = head_name(model)
    old = model.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise RegardError(f"{type(model).__name__}: was made without a head (num_classes=0); make it with one")
    head = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    model.set_submodule(name, head)
