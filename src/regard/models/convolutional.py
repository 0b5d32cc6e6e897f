"""What the convolutional networks share: the last map as features, heads left out, rates that a paper lacks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from regard.errors import RegardError
from regard.models.registry import Features, head_names


def of_map(x: Tensor, pooled: Tensor) -> Features:
    """The features of a network whose last map is (B, C, h, w): its pixels are the tokens, row by row."""
    return Features(
        tokens=x.flatten(2).transpose(1, 2), grid=(x.shape[-2], x.shape[-1]), prefix=0, cls=None, pooled=pooled
    )


def of_classifier(body: nn.Module, avgpool: nn.Module, classifier: nn.Sequential, images: Tensor) -> Features:
    """The features of a network with hidden layers between its last map and its last layer (AlexNet, VGG).

    tokens: (B, h*w, C) pixels of the last map; pooled: (B, D) after all layers of `classifier` but its last.
    """
    x = body(images)  # (B, C, h, w)
    pooled = avgpool(x).flatten(1)  # (B, C s^2) where avgpool leaves s x s pixels
    for layer in list(classifier)[:-1]:
        pooled = layer(pooled)
    return of_map(x, pooled)


def leave_heads_out(model: nn.Module) -> None:
    """Puts the identity in the place of each last layer: what the heads would multiply is given as it is."""
    for name in head_names(model):
        model.set_submodule(name, nn.Identity())


def refuse_rates(name: str, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> None:
    """Raises RegardError for a rate that is not 0; call it with those that the paper does not have."""
    for rate, label, what in (
        (drop_rate, "drop_rate", "dropout"),
        (drop_path_rate, "drop_path_rate", "stochastic depth"),
    ):
        if rate:
            raise RegardError(f"{label}={rate}: {name} has no {what}; leave it at 0")


def replace_3x3(module: nn.Module, make: Callable[[nn.Conv2d], nn.Module]) -> None:
    """Puts make(convolution) in the place of each 3x3 convolution within `module`."""
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            module.set_submodule(name, make(part))
