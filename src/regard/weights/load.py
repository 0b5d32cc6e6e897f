"""Strict loading: every tensor has a place and every place is filled, or one line says why not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.position import resample_distances, resample_positions
from regard.models import ModelSpec, create_model, head_names, list_models, model_spec
from regard.models.sam import SAM
from regard.models.swin import TABLE, WindowAttention, resize_table
from regard.models.vitdet import Block
from regard.weights.convert import convert, detect_dialect, left_out
from regard.weights.detect import shortened
from regard.weights.dialects import State

POSITIONS = "pos_embed"
PATCHES = ("patch_embed.proj.weight", "image_encoder.patch_embed.proj.weight")
DISTANCES = ("rel_pos_h", "rel_pos_w")  # tables whose rows follow the image size where attention sees all of it
COUNTER = "num_batches_tracked"


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: str | Path = "the weights",
    num_classes: int | None = None,
) -> list[str]:
    """Copies `state` into `model` and returns what was changed on the way, one line each, to be said aloud.

    state: in any published dialect (`convert` is applied where the names are not the model's own).
    num_classes: the class count that the user asked for; only then may a head of another count, or none,
    leave the model's own fresh head in place. A position embedding for another image size is resampled to
    the model's grid, and tables of relative positions to its windows or grid; parts that hand on what they get
    until they are trained may be missing. path: for messages.

    Raises RegardError, naming the first names that do not fit and, where there is one, the model that they
    would fit. The model is unchanged in that case.
    """
    own = model.state_dict()
    given = dict(state)
    notes: list[str] = []
    if set(given) != set(own):
        notes += left_out(given)
        given = convert(given, path=path)
    fitting = dict(given)
    try:
        _check_patch(own, fitting)
        notes += _fit_head(model, own, fitting, num_classes)
        notes += _fit_positions(model, own, fitting)
        notes += _fit_tables(model, own, fitting)
        notes += _fit_map(model, own, fitting)
        notes += _keep_fresh(model, own, fitting)
        # Files of before torch 0.4.1 lack this counter; only a momentum of None would read it.
        fitting |= {name: own[name] for name in own.keys() - fitting.keys() if name.endswith(COUNTER)}
        _check_names(own, fitting)
        _check_tensors(own, fitting)
    except _Misfit as misfit:
        raise RegardError(f"{path}: {shortened(str(misfit))}; {misfit.advice or _name_fitting(given)}") from None
    model.load_state_dict(fitting, strict=True)
    return notes


class _Misfit(Exception):
    """What does not fit, and the advice where it is another than to name the fitting model."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def _check_patch(own: State, state: State) -> None:
    theirs, ours = _patch_side(state), _patch_side(own)
    if theirs and ours and theirs != ours:
        raise _Misfit(f"weights for patches of {theirs} pixels, the model has patches of {ours}")


def _patch_side(state: Mapping[str, Tensor]) -> int | None:
    """Pixels per side of the patches that the weights cut from an image; None where they are of no such model."""
    patch = next((state[name] for name in PATCHES if name in state), None)
    return int(patch.shape[-1]) if patch is not None and patch.ndim == 4 and patch.shape[1] == 3 else None


def _fit_head(model: nn.Module, own: State, state: State, num_classes: int | None) -> list[str]:
    """Leaves the model's fresh head in `state` where the class counts differ and the user asked for that."""
    prefixes = tuple(f"{name}." for name in head_names(model))
    ours = {name: tensor for name, tensor in own.items() if name.startswith(prefixes)}
    theirs = {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}
    if not ours:
        for name in theirs:
            del state[name]
        return [f"left out the head of the weights ({', '.join(theirs)}): the model has none"] if theirs else []
    if len({tensor.shape[:1] for tensor in theirs.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in theirs.items())
        raise _Misfit(
            f"a head that contradicts itself: {shapes}; the first side of each should be the class count",
            "turn it the right way round, or take another copy",
        )
    if theirs.keys() == ours.keys() and _rows(theirs) == _rows(ours):
        return []
    if theirs and theirs.keys() != ours.keys():
        return []  # another kind of head: the names are judged below
    found = f"a head of {_rows(theirs):,} classes" if theirs else "no head"
    if num_classes is None or num_classes != _rows(ours):
        raise _Misfit(
            f"the weights have {found}, the model has one of {_rows(ours):,}",
            f"ask for num_classes={_rows(ours)} to put a fresh head there",
        )
    state.update(ours)
    return [f"the weights have {found}: a fresh head of {num_classes} classes was put there, untrained"]


def _rows(head: Mapping[str, Tensor]) -> int:
    """Classes of a head: the first axis of its last tensor (weight (K, D), bias (K,))."""
    last = list(head.values())[-1] if head else None
    return int(last.shape[0]) if last is not None and last.ndim else 0


def _fit_positions(model: nn.Module, own: State, state: State) -> list[str]:
    """Resamples the position embedding (1, prefix + h*w, D) to the model's grid; prefix: tokens that have a row of it.

    The weights are taken to be of square images.
    """
    new = getattr(model, "grid", None)
    if new is None or POSITIONS not in own or POSITIONS not in state or own[POSITIONS].shape == state[POSITIONS].shape:
        return []
    theirs, ours = state[POSITIONS], own[POSITIONS]
    prefix = ours.shape[1] - new[0] * new[1]
    side = _side(theirs, prefix)
    if side is None or theirs.shape[-1] != ours.shape[-1]:
        return []  # not a matter of image size: the shapes are judged below
    state[POSITIONS] = resample_positions(theirs, new, prefix)
    return [f"position embedding resampled from {side}x{side} to {new[0]}x{new[1]} patches"]


def _fit_tables(model: nn.Module, own: State, state: State) -> list[str]:
    """Resizes the tables of relative positions, ((2w - 1)^2, H) of square windows, to the windows of the model."""
    resized: Counter[tuple[int, tuple[int, int]]] = Counter()
    for layer, module in model.named_modules():
        name = f"{layer}.{TABLE}"
        if not isinstance(module, WindowAttention) or name not in state:
            continue
        theirs, ours = state[name], own[name]
        side = math.isqrt(len(theirs)) if theirs.ndim == 2 else 0
        if len(theirs) != len(ours) and theirs.shape[1] == ours.shape[1] and side * side == len(theirs) and side % 2:
            state[name] = resize_table(theirs, module.window)
            resized[(side + 1) // 2, module.window] += 1
    return [
        f"relative positions of {count} layers resized from windows of {side}x{side} to {rows}x{columns} tokens"
        for (side, (rows, columns)), count in resized.items()
    ]


def _fit_map(model: nn.Module, own: State, state: State) -> list[str]:
    """Resamples what a SAM knows of places to the model's grid: the map of positions (1, h, w, D), and the tables of
    distances of the blocks that see all of it.
    """
    name = f"image_encoder.{POSITIONS}"
    if not isinstance(model, SAM) or name not in state:
        return []
    theirs, new = state[name], model.grid
    if theirs.ndim != 4 or theirs.shape[-1] != own[name].shape[-1] or theirs.shape == own[name].shape:
        return []  # of this size, or not a matter of image size: the shapes are judged below
    rows, columns = theirs.shape[1:3]
    moved = resample_positions(theirs.flatten(1, 2), new, prefix=0, old_grid=(rows, columns))
    state[name] = moved.unflatten(1, new)
    seeing_all = [layer for layer, block in model.named_modules() if isinstance(block, Block) and not block.attn.window]
    for layer in seeing_all:
        for table, side in zip(DISTANCES, new, strict=True):
            distances = f"{layer}.attn.{table}"
            if distances in state and state[distances].ndim == 2:
                state[distances] = resample_distances(state[distances], side)
    return [
        f"position embedding resampled from {rows}x{columns} to {new[0]}x{new[1]} patches, "
        f"and the relative positions of {len(seeing_all)} layers with it"
    ]


def _side(positions: Tensor, prefix: int) -> int | None:
    """Patches per side behind (1, prefix + N, D) positions; None where N is no square."""
    if positions.ndim != 3:
        return None
    side = math.isqrt(max(positions.shape[1] - prefix, 0))
    return side if side and side * side == positions.shape[1] - prefix else None


def _keep_fresh(model: nn.Module, own: State, state: State) -> list[str]:
    """Leaves the model's own parts in `state` that the weights lack and that hand on what they get while untrained.

    So the weights of a ResNet-50 may be loaded around non-local blocks and mean what they meant.
    """
    parts = [name for name, module in model.named_modules() if getattr(module, "IDENTITY_AT_START", False)]
    lacking = [part for part in parts if not any(name.startswith(f"{part}.") for name in state)]
    for part in lacking:
        state.update({name: tensor for name, tensor in own.items() if name.startswith(f"{part}.")})
    if not lacking:
        return []
    return [f"the weights have no {', '.join(lacking)}: what is there stays, untrained, and hands on what it gets"]


def _check_names(own: State, state: State) -> None:
    unknown, missing = [n for n in state if n not in own], [n for n in own if n not in state]
    if unknown or missing:
        parts = [f"the model has no {_some(unknown)}"] if unknown else []
        parts += [f"the weights lack {_some(missing)}"] if missing else []
        raise _Misfit(f"not weights of this model: {'; '.join(parts)}")


def _check_tensors(own: State, state: State) -> None:
    for name, tensor in state.items():
        theirs, ours = tuple(tensor.shape), tuple(own[name].shape)
        if theirs != ours:
            raise _Misfit(f"{name} has shape {theirs}, the model's has {ours}")
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise _Misfit(f"{name} holds {tensor.dtype}, the model's {own[name].dtype}", "give float weights")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _name_fitting(state: State) -> str:
    fitting = fitting_model(state)
    return f"they fit {fitting}" if fitting else "name the model that they are of"


def fitting_model(state: Mapping[str, Tensor]) -> str | None:
    """The first registered model whose body has these names and shapes (head and image size aside)."""
    wanted = _body(state)
    for name in _candidates(state):
        with torch.device("meta"):
            model = create_model(name)
        heads = tuple(f"{head}." for head in head_names(model))
        body = {key: shape for key, shape in _body(model.state_dict()).items() if not key.startswith(heads)}
        if body and body == {key: shape for key, shape in wanted.items() if not key.startswith(heads)}:
            return name
    return None


def _candidates(state: Mapping[str, Tensor]) -> Iterable[str]:
    """Models of the families that bear such names, of this patch size; those of the positions' image size first."""
    dialect = detect_dialect(state)
    families = dialect.families if dialect else ()
    side = _patch_side(state)
    specs = [
        spec
        for spec in map(model_spec, list_models())
        if spec.img_size and spec.family in families and (side is None or spec.patch_size in (None, side))
    ]
    grids = {_side(state[POSITIONS], prefix) for prefix in (0, 1, 2)} if POSITIONS in state else set()

    def unlikely(spec: ModelSpec) -> tuple[bool, int]:
        grid = spec.img_size // (spec.patch_size or spec.img_size)
        return grid not in grids, families.index(spec.family)  # a plain DeiT is a ViT by every name: the ViT is named

    return [spec.name for spec in sorted(specs, key=unlikely)]


def _body(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes without what follows the image size: positions, rows of tables of distances."""
    return {
        name: tuple(tensor.shape[-1:] if name.endswith(DISTANCES) else tensor.shape)
        for name, tensor in state.items()
        if name.rpartition(".")[2] != POSITIONS and not name.endswith(COUNTER)
    }
