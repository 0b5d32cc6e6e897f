"""From any published dialect of names to ours: pure functions, dict -> dict.

Our names are timm's for transformers (`blocks.0.attn.qkv.weight`) and torchvision's for CNNs (`layer1.0.conv1.weight`),
so those pass through unchanged. Nothing is dropped in silence: what `convert` leaves out is named by `left_out`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from regard.errors import RegardError
from regard.models import list_models, model_spec
from regard.weights.detect import shortened
from regard.weights.dialects import DIALECTS, Dialect, Misfit, State


def detect_dialect(keys: Iterable[str]) -> Dialect | None:
    """The dialect that a set of names is written in; None where no marker fits."""
    names = frozenset(keys)
    return next((dialect for dialect in DIALECTS if dialect.marks(names)), None)


def convert(state: Mapping[str, Tensor], architecture: str = "", path: str | Path = "the weights") -> State:
    """The same weights under our names; the input is not changed. path: for messages.

    Names of no known dialect pass through unchanged: `load_state` judges them. Raises RegardError where a
    name of a known dialect has no place in ours, and where the weights are of another family than
    `architecture`.
    """
    dialect = detect_dialect(state)
    if dialect is None:
        return dict(state)
    wanted = _family(architecture)
    if wanted and wanted not in dialect.families:
        raise RegardError(
            f"{path}: weights of a {dialect.name}, but {architecture} is of the family {wanted}; name the fitting model"
        )
    try:
        return dialect.convert(dict(state))
    except Misfit as misfit:
        raise RegardError(f"{path}: {shortened(str(misfit))}") from None


def _family(architecture: str) -> str:
    return model_spec(architecture).family if architecture.partition("+")[0] in list_models() else ""


def left_out(state: Mapping[str, Tensor]) -> list[str]:
    """One line for the parts of `state` that `convert` leaves out, as our models have no such part; `*`: any number."""
    dialect = detect_dialect(state)
    dropped = [name for name in state if dialect and dialect.left_out(name)]
    parts = dict.fromkeys(re.sub(r"\b\d+\b", "*", name) for name in dropped)
    return [f"left out {', '.join(parts)}: {dialect.why}"] if dialect and parts else []
