"""What every dialect of names is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Dialect:
    """One publisher's names for the weights of a family of models.

    families: those of our models (`ModelSpec.family`) that bear the names that `convert` gives; marks: whether a set
    of names is written in it; convert: its state dict under our names (the input is not changed; raises Misfit for a
    name without a place); left_out: the names that `convert` drops because our models have no such part, with `why`.
    """

    name: str
    families: tuple[str, ...]
    marks: Callable[[frozenset[str]], bool]
    convert: Callable[[State], State]
    left_out: Callable[[str], bool] = lambda name: False
    why: str = ""


class Misfit(Exception):
    """What a dialect cannot place; `convert` adds the path."""


def rename(short: str, table: Iterable[tuple[str, str]], name: str, dialect: str) -> str:
    """Our name for `short`, by the first full match of a (pattern, replacement); name, dialect: for the message."""
    for pattern, ours in table:
        match = re.fullmatch(pattern, short)
        if match:
            return match.expand(ours)
    raise Misfit(f"{name}: no part of a {dialect} bears this name; these weights are of another model")


def stack_qkv(state: State) -> State:
    """`NAME:query`, `:key` and `:value`, each (D, D) or (D,), stacked to `NAME`, (3D, D) or (3D,)."""
    out: State = {}
    parts: dict[str, State] = {}
    for name, tensor in state.items():
        base, separator, part = name.partition(":")
        if separator:
            parts.setdefault(base, {})[part[0]] = tensor
        else:
            out[name] = tensor
    for base, found in parts.items():
        missing = [part for part in "qkv" if part not in found]
        if missing:
            raise Misfit(f"{base}: the weights lack its {' and '.join(missing)} part; the file is incomplete")
        out[base] = torch.cat([found["q"], found["k"], found["v"]])
    return out
