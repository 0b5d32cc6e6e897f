"""One of the models that `explain` asks: its methods, its answers, its maps, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regard.errors import RegardError
from regard.verbs.explaining.targets import answers

if TYPE_CHECKING:
    from torch import Tensor

    from regard.explanation.method import Method
    from regard.inference.loaded import LoadedModel
    from regard.inference.memory import InParts
    from regard.inference.precision import Precision

MEASURED = 4  # photos whose passes are timed


class Explained(NamedTuple):
    """What a model says of one photo: the answer, the explained class, each with what the model gives it (probability,
    or the number), the number of that class, and by method a map (h, w) float32.
    """

    answer: str
    given: float
    explained: str
    value: float
    number: int
    maps: dict[str, np.ndarray]


@dataclass
class Side:
    """A model with the methods by which it is asked.

    choose: as `targets.chooser`; title: its name, told apart from the other's; prefix: of its files and arrays;
    seconds: spent on each method.
    """

    loaded: LoadedModel
    methods: tuple[Method, ...]
    choose: Callable[[np.ndarray, Sequence[str] | None], np.ndarray]
    precision: Precision
    title: str
    prefix: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    _passes: dict[str, InParts] = field(default_factory=dict)
    _batch: Any = None

    def explain(self, pixels: Tensor, truths: Sequence[str] | None) -> list[Explained]:
        """What is said of each photo of (B, 3, S, S) uint8; truths: their classes, where the target is "true"."""
        import torch

        from regard.inference.precision import device_of
        from regard.inference.rows import run_batch

        device = device_of(self.loaded.model)
        logits = run_batch(self.loaded, self.loaded.model, pixels, self.precision)
        classes = self.choose(logits, truths)
        images = self.loaded.preprocess.normalise(pixels.to(device))
        self._batch = images, torch.from_numpy(classes).to(device)
        maps = {method.name: self._maps(method) for method in self.methods}
        self._batch = None
        said = answers(self.loaded, logits, classes)
        return [
            Explained(*one, int(classes[row]), {name: values[row] for name, values in maps.items()})
            for row, one in enumerate(said)
        ]

    def _maps(self, method: Method) -> np.ndarray:
        """(B, h, w) float32 of the batch; where memory does not suffice, photos pass in parts."""
        import torch

        from regard.inference.memory import InParts
        from regard.inference.precision import autocast

        def of(rows: Tensor) -> Tensor:
            images, classes = self._batch
            with autocast(self.precision, images.device):
                return method.explain(self.loaded.model, images[rows], classes[rows])

        run = self._passes.setdefault(method.name, InParts(of))
        start = time.perf_counter()
        maps = run(torch.arange(len(self._batch[0]))).detach().float().cpu().numpy()
        self.seconds[method.name] = self.seconds.get(method.name, 0.0) + time.perf_counter() - start
        return maps

    def expected(self, methods: Sequence[Method], seconds: tuple[float, float]) -> dict[str, float]:
        """Seconds that each method takes for one photo; seconds: of a forward and of a backward pass."""
        import torch

        from regard.inference.precision import device_of

        size, model = self.loaded.preprocess.size, self.loaded.model
        photo = torch.zeros(1, 3, size, size, device=device_of(model))
        found = {}
        for method in methods:
            passes = method.passes(model, photo)
            found[method.name] = passes.forward * seconds[0] + passes.backward * seconds[1]
        return found

    def pass_seconds(self, photos: int) -> tuple[float, float]:
        """Seconds of a forward and of a backward pass of one photo, as measured on random ones."""
        import torch

        from regard.inference.precision import autocast, device_of, wait

        size, device = self.loaded.preprocess.size, device_of(self.loaded.model)
        images = torch.rand(min(MEASURED, photos), 3, size, size, device=device)
        taken = []
        with autocast(self.precision, device):
            for gradients in (False, False, True):  # the first pass pays for set-up
                wait(device)
                start = time.perf_counter()
                with torch.set_grad_enabled(gradients):
                    # Some first layers work in place, which torch forbids on a leaf that gradients are asked of.
                    batch = images.clone().requires_grad_(gradients).clone()
                    total = self.loaded.model(batch).float().sum()
                    if gradients:
                        torch.autograd.grad(total, batch)
                wait(device)
                taken.append((time.perf_counter() - start) / len(images))
        return taken[1], max(taken[2] - taken[1], 0.0)


def methods_of(model: LoadedModel, named: Sequence[str], other: LoadedModel | None) -> tuple[Method, ...]:
    """The methods named, in their order, as far as they are defined for the model; its usual ones without a name.

    Of two models, one method may be for one of them only. Raises RegardError for a method that neither has.
    """
    from regard.explanation.methods import applicable, default_methods, method

    chosen = [method(spec) for spec in dict.fromkeys(named)] or [method(name) for name in default_methods(model.model)]
    kept = []
    for one in chosen:
        reason = one.refusal(model.model)
        if reason is None:
            kept.append(one)
        elif other is None or one.refusal(other.model) is not None:
            raise RegardError(f"method {one.name}: {reason}")
    if not kept:
        names = ", ".join(applicable(model.model))
        raise RegardError(f"method {', '.join(named)}: not defined for {model.name}; {names} are")
    return tuple(kept)
