"""The methods of explanation by name: which there are, which apply to a model, and which are run when none is named."""

from __future__ import annotations

from difflib import get_close_matches

from torch import nn

from regard.errors import RegardError
from regard.explanation import (
    attention,
    gradcam,
    gradient_rollout,
    integrated_gradients,
    occlusion,
    relevance,
    rollout,
)
from regard.explanation.method import Method

METHODS: dict[str, Method] = {
    one.METHOD.name: one.METHOD
    for one in (attention, rollout, gradient_rollout, relevance, gradcam, integrated_gradients, occlusion)
}
DEFAULT = ("relevance", "rollout", "gradcam")  # one pass or two each, and defined for most models between them


def method(spec: str) -> Method:
    """The method of `NAME` or `NAME+option=value+...`.

    Raises RegardError with the nearest names for one that is unknown, and with what is allowed for an option.
    """
    name, *words = spec.split("+")
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=3, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}" if near else f"the methods are {', '.join(METHODS)}"
        raise RegardError(f"{name}: no such method of explanation; {hint}")
    return METHODS[name].chosen(words)


def applicable(model: nn.Module) -> tuple[str, ...]:
    """Names of the methods that are defined for a model."""
    return tuple(name for name, one in METHODS.items() if one.refusal(model) is None)


def default_methods(model: nn.Module) -> tuple[str, ...]:
    """What is run for a model when nothing is asked for: what costs a pass or two, else the first that applies."""
    names = applicable(model)
    return tuple(name for name in DEFAULT if name in names) or names[:1]
