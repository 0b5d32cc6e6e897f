"""What a method of explanation is, and how one is asked for: `NAME` or `NAME+option=value+...`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from regard.errors import RegardError

Option = str | int | float


class Passes(NamedTuple):
    """What an explanation of one image costs, in passes of one image through the model."""

    forward: float
    backward: float = 0.0


@dataclass(frozen=True)
class Method:
    """One way to ask a model where in an image its answer comes from.

    explain(model, images (B, 3, H, W), classes (B,), **options) -> (B, h, w) float32 maps, larger where it matters
    more, in whatever resolution the method has; negative values speak against the class. images are normalised, on
    the model's device; the model is in evaluation mode and is left as it was.
    of_class: False where the map is the same for every class.
    options: name -> its default; values are of the default's type. choices: those that are words -> what they may be.
    passes(model, images, **options): the cost, asked before anything runs.
    refusal(model): why it is not defined for a model, with what is; None where it is.
    """

    name: str
    explain: Callable[..., Tensor]
    of_class: bool
    passes: Callable[..., Passes]
    refusal: Callable[[nn.Module], str | None] = lambda model: None
    options: Mapping[str, Option] = field(default_factory=lambda: MappingProxyType({}))
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def chosen(self, words: list[str]) -> Method:
        """The method with `option=value` words bound. Raises RegardError for what it does not have."""
        given: dict[str, Option] = {}
        for word in words:
            option, _, value = word.partition("=")
            if option not in self.options:
                known = ", ".join(f"{name}={default}" for name, default in self.options.items()) or "none"
                raise RegardError(f"{self.name}+{word}: no such option; it has {known}")
            given[option] = self._value(option, value)
        if not given:
            return self
        bound: dict[str, Any] = dict(given)
        return Method(
            name="+".join([self.name, *(f"{option}={value}" for option, value in given.items())]),
            explain=partial(self.explain, **bound),
            of_class=self.of_class,
            passes=partial(self.passes, **bound),
            refusal=self.refusal,
        )

    def _value(self, option: str, value: str) -> Option:
        allowed = self.choices.get(option)
        if allowed and value not in allowed:
            raise RegardError(f"{self.name}+{option}={value}: expected one of {', '.join(allowed)}")
        kind = type(self.options[option])
        try:
            return kind(value)
        except ValueError:
            words = {int: "a whole number", float: "a number"}[kind]
            raise RegardError(f"{self.name}+{option}={value}: expected {words}") from None
