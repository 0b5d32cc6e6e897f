"""Seeing and changing what flows through a model, by name.

A `Tap` is an identity module at an activation worth looking at; its dotted name is public. `record` and
`edit` reach taps, and the output of any other module of any `nn.Module`, by pattern:

    with record(model, "blocks.*.attn.pattern") as seen:
        model(images)
    seen["blocks.3.attn.pattern"]  # (B, heads, N, N)

A pattern is matched part by part: `*` stands for one part between dots (or a piece of one, as in `layer*`),
`**` for any number of parts. Both context managers leave the model exactly as they found it, after an
exception too. The idea of named identity modules is TransformerLens's hook points.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from regard.errors import RegardError


class Tap(nn.Module):
    """Hands on what it gets; while somebody listens, its owner computes what is else fused away."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners = 0

    @property
    def listening(self) -> bool:
        """True inside a `record` or `edit` whose pattern matches this tap."""
        return self.listeners > 0

    def forward(self, x: Tensor) -> Tensor:
        return x


class Seen(dict[str, Any]):
    """Name -> what the module of that name gave: a tensor, or the module's own kind of output.

    A module that was called more than once has a list, in the order of its calls. An absent name is a
    RegardError.
    """

    def __missing__(self, name: str) -> Any:
        known = get_close_matches(name, self, n=3, cutoff=0.0)
        hint = f"nearest: {', '.join(known)}" if known else "run the model inside `with record(...)`"
        raise RegardError(f"{name}: nothing was recorded under this name; {hint}")


@contextmanager
def record(model: nn.Module, *patterns: str, keep: Callable[[Any], Any] | None = None) -> Iterator[Seen]:
    """Records what flows through taps and modules while the `with` block runs.

    patterns: names, or patterns of names, of taps or any modules. What is recorded is part of the autograd
    graph, so that gradients with respect to it can be taken; it keeps its memory until the record is dropped.
    keep: what is kept of it, all by default; `lambda pattern: pattern.mean(1)` keeps of each layer's attention the
    mean of the heads only, while the model runs.

    Raises RegardError, before anything runs, where a pattern matches nothing or the model is compiled or
    exported.
    """
    seen = Seen()
    found = {name: module for pattern in patterns for name, module in _matches(model, pattern).items()}
    if not found:
        raise RegardError("record: no pattern given; name what to record, for example 'blocks.*.attn.pattern'")
    called: dict[str, int] = {}

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> Any:
        called[name] = called.get(name, 0) + 1
        kept = output if keep is None else keep(output)
        if called[name] == 1:
            seen[name] = kept
        elif called[name] == 2:
            seen[name] = [seen[name], kept]
        else:
            seen[name].append(kept)
        if isinstance(module, Tap):
            return output
        # A later in-place operation (torchvision's ReLU) must not change what was recorded: a copy flows on.
        return tree_map_only(Tensor, torch.clone, output)

    with ExitStack() as stack:
        for name, module in found.items():
            stack.enter_context(_hooked(module, partial(note, name)))
        yield seen


@contextmanager
def edit(model: nn.Module, changes: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Changes what flows through taps and modules while the `with` block runs.

    changes: pattern -> function that gets what flows and returns what shall flow instead, a new tensor of the
    same shape. Of several patterns on one module, as of nested `edit` and `record`, the first comes first.

    Raises RegardError where a pattern matches nothing, the model is compiled or exported, or a function
    returns something of another shape.
    """
    found = [(name, m, f) for pattern, f in changes.items() for name, m in _matches(model, pattern).items()]

    def change(name: str, function: Callable[[Any], Any], module: nn.Module, inputs: Any, output: Any) -> Any:
        changed = function(output)
        old, new = _outline(output), _outline(changed)
        if new != old:
            raise RegardError(f"edit of {name}: the function gave {new}; expected {old}, as it got")
        return changed

    with ExitStack() as stack:
        for name, module, function in found:
            stack.enter_context(_hooked(module, partial(change, name, function)))
        yield


@contextmanager
def _hooked(module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    if isinstance(module, Tap):
        module.listeners += 1
    try:
        yield
    finally:
        handle.remove()
        if isinstance(module, Tap):
            module.listeners -= 1


def _outline(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _matches(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """Modules of an eager model whose name the pattern matches; never empty."""
    refuse_frozen(model)
    modules = dict(model.named_modules())
    del modules[""]
    found = {name: module for name, module in modules.items() if _fits(name.split("."), pattern.split("."))}
    if not found:
        raise RegardError(
            f"{pattern}: matches no tap or module of {type(model).__name__}; {_nearest(modules, pattern)}"
        )
    return found


def _fits(parts: list[str], wanted: list[str]) -> bool:
    if not wanted or not parts:
        return not parts and all(want == "**" for want in wanted)
    if wanted[0] == "**":
        return _fits(parts, wanted[1:]) or _fits(parts[1:], wanted)
    return fnmatchcase(parts[0], wanted[0]) and _fits(parts[1:], wanted[1:])


def _nearest(modules: Mapping[str, nn.Module], pattern: str) -> str:
    """Names like the pattern, with `*` for numbers, taps before other modules."""
    taps = [name for name, module in modules.items() if isinstance(module, Tap)]
    names = list(dict.fromkeys(re.sub(r"\b\d+\b", "*", name) for name in [*taps, *modules]))
    close = get_close_matches(re.sub(r"\b\d+\b", "*", pattern), names, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"there are {', '.join(names[:6])}, ..."


def refuse_frozen(model: nn.Module) -> None:
    """Raises RegardError for a compiled or exported model: its graph is drawn, and would pass hooks by in silence."""
    if not isinstance(model, nn.Module):
        raise RegardError(
            f"model: expected the eager nn.Module, not a {type(model).__name__}; give the one it came from"
        )
    for module in model.modules():
        compiled = type(module).__module__.startswith("torch._dynamo") or module._compiled_call_impl is not None
        if compiled or isinstance(module, fx.GraphModule | torch.jit.ScriptModule):
            raise RegardError(
                f"{type(model).__name__}: is compiled or exported ({type(module).__name__}); "
                "record and edit work on the eager module it was made from"
            )
