"""Strict loading: every tensor has a place and every place is filled, or one line says why not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.position import resample_positions
from regard.models import create_model, head_name, list_models, model_spec
from regard.weights.convert import State, convert, left_out
from regard.weights.detect import visible

POSITIONS = "pos_embed"
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
    the model's grid. path: for messages.

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
        notes += _fit_positions(own, fitting)
        # Files of before torch 0.4.1 lack this counter; only a momentum of None would read it.
        fitting |= {name: own[name] for name in own.keys() - fitting.keys() if name.endswith(COUNTER)}
        _check_names(own, fitting)
        _check_tensors(own, fitting)
    except _Misfit as misfit:
        raise RegardError(f"{path}: {visible(str(misfit))}; {misfit.advice or _name_fitting(given)}") from None
    model.load_state_dict(fitting, strict=True)
    return notes


class _Misfit(Exception):
    """What does not fit, and the advice where it is another than to name the fitting model."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def _check_patch(own: State, state: State) -> None:
    name = "patch_embed.proj.weight"
    if name in own and name in state and own[name].shape[2:] != state[name].shape[2:]:
        theirs, ours = state[name].shape[-1], own[name].shape[-1]
        raise _Misfit(f"weights for patches of {theirs} pixels, the model has patches of {ours}")


def _fit_head(model: nn.Module, own: State, state: State, num_classes: int | None) -> list[str]:
    """Leaves the model's fresh head in `state` where the class counts differ and the user asked for that."""
    prefix = head_name(model) + "."
    ours = {name: tensor for name, tensor in own.items() if name.startswith(prefix)}
    theirs = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
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


def _fit_positions(own: State, state: State) -> list[str]:
    """Resamples the position embedding (1, 1 + h*w, D) to the model's grid of patches."""
    if POSITIONS not in own or POSITIONS not in state or own[POSITIONS].shape == state[POSITIONS].shape:
        return []
    theirs, ours = state[POSITIONS], own[POSITIONS]
    old, new = _grid(theirs), _grid(ours)
    if old is None or new is None or theirs.shape[-1] != ours.shape[-1]:
        return []  # not a matter of image size: the shapes are judged below
    state[POSITIONS] = resample_positions(theirs, new, prefix=1)
    return [f"position embedding resampled from {old[0]}x{old[1]} to {new[0]}x{new[1]} patches"]


def _grid(positions: Tensor) -> tuple[int, int] | None:
    """The square grid of patches behind (1, 1 + N, D) positions; None where N is no square."""
    if positions.ndim != 3:
        return None
    side = math.isqrt(max(positions.shape[1] - 1, 0))
    return (side, side) if side and side * side == positions.shape[1] - 1 else None


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
        prefix = head_name(model) + "."
        body = {key: shape for key, shape in _body(model.state_dict()).items() if not key.startswith(prefix)}
        if body and body == {key: shape for key, shape in wanted.items() if not key.startswith(prefix)}:
            return name
    return None


def _candidates(state: Mapping[str, Tensor]) -> Iterable[str]:
    """Models of the right family, patch size and, where the positions tell it, image size first."""
    patch = state.get("patch_embed.proj.weight")
    if patch is None and "conv1.weight" not in state:
        return []
    side = None if patch is None or patch.ndim != 4 else int(patch.shape[-1])
    names = [name for name in list_models() if model_spec(name).patch_size == side]
    grid = _grid(state[POSITIONS]) if POSITIONS in state else None
    size = grid[0] * side if grid and side else None
    return sorted(names, key=lambda name: model_spec(name).img_size != size)


def _body(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape) for name, tensor in state.items() if name != POSITIONS and not name.endswith(COUNTER)
    }
