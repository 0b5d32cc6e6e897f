"""What the last layer of a model reads: its features, for any `nn.Module` that classifies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.inference.neighbours import Neighbours
from regard.inference.precision import device_of
from regard.models import features_method

if TYPE_CHECKING:
    from regard.inference.loaded import LoadedModel


@torch.inference_mode()
def probe(model: nn.Module, size: int) -> tuple[int, str]:
    """(number of classes, dotted name of the last Linear) of a classifier, by one pass of an empty image.

    The name is "" where the output does not come straight from an `nn.Linear`. Raises RegardError where the
    model does not turn (1, 3, size, size) into (1, K).
    """
    last: list[tuple[str, Tensor]] = []

    def note(name: str):
        return lambda module, args, output: last.append((name, output))

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    was_training = model.training
    model.eval()
    try:
        logits = model(torch.zeros(1, 3, size, size, device=device_of(model)))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RegardError(
            f"{type(model).__name__}: does not take images (1, 3, {size}, {size}): {reason}; "
            "give preprocess= with the size it was made for"
        ) from None
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RegardError(f"{type(model).__name__}: gave {found}; expected one tensor of logits (1, classes)")
    named = [name for name, output in last if output is logits or torch.equal(output, logits)]
    return logits.shape[1], named[-1] if named else ""


def pooled_features(model: nn.Module, head: str, images: Tensor) -> Tensor:
    """(B, D) what the head multiplies: `.pooled` of the model's features if it has them, else what `head` reads."""
    features = features_method(model)
    if features is not None:
        return features(images).pooled
    if not head:
        raise RegardError(
            f"{type(model).__name__}: its output comes from no nn.Linear, so what its head reads is unknown; "
            "give it a method features(images) whose result has .pooled (B, D)"
        )
    seen: list[Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        model(images)
    finally:
        handle.remove()
    return seen[-1]


def set_head(loaded: LoadedModel, weight: Tensor, bias: Tensor) -> None:
    """Put an `nn.Linear` with this weight (K, D) and bias (K,) in the place of the last one; classes stay.

    Raises RegardError where the model has no last Linear.
    """
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    set_head_module(loaded, linear)


def set_head_module(loaded: LoadedModel, head: nn.Linear | Neighbours) -> None:
    """Put `head` in the place of the last layer; it goes to the model's device, classes stay.

    Other heads of as many inputs become the same module, so that the model's answer is that of `head`; those of
    another width, which speak in training only, become ones of as many outputs, all zero. Raises RegardError where the
    model has no last Linear.
    """
    width, device = head_input(loaded), device_of(loaded.model)
    for name in loaded.heads:
        inputs = getattr(loaded.model.get_submodule(name), "in_features", width)
        loaded.model.set_submodule(name, (head if inputs == width else _zeros(inputs, head.out_features)).to(device))


def _zeros(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def head_input(loaded: LoadedModel) -> int:
    """The number of features that the head reads: the last Linear, or what took its place.

    Raises RegardError where there is no such layer.
    """
    head = loaded.model.get_submodule(loaded.head) if loaded.head else None
    if not isinstance(head, nn.Linear | Neighbours):
        raise RegardError(f"{loaded.name}: its output comes from no nn.Linear, so there is no head to replace")
    return head.in_features
