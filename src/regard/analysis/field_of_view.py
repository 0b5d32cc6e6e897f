"""Which pixels a unit in the middle of each layer sees, and how much of each.

    e(p) = mean over images and units of  sum over colours (dy / dx_p)^2,   y: a unit at the central place of the layer

Luo et al. 2016, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks" (arXiv
1701.04128). Of N stacked 3x3 convolutions of stride 1, e is above 0 on a square of 2N + 1 pixels: the field of view.
Its effective part, where most of e lies, is smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from regard.analysis.layers import Layer, layers_of, probes, seen_layers
from regard.analysis.passes import evaluating, first_of
from regard.errors import RegardError
from regard.inference.precision import device_of
from regard.reporting.pictures.field_of_view import Field, FieldOfView

DRAWS = 2  # backward passes a layer and batch


def field_of_view(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    against: nn.Module | None = None,
    against_batches: Iterable[Tensor] = (),
    layers: Sequence[str] = (),
    against_layers: Sequence[str] = (),
    names: tuple[str, str] = ("model", "against"),
    draws: int = DRAWS,
) -> FieldOfView:
    """The effective field of view at every depth of a model, and of another beside it.

    batches, against_batches: (B, 3, H, W) normalised images, as each model takes them. layers: patterns of names, by
    default what leaves the blocks; those without places in the image (hidden layers before the head) are left out.
    draws: backward passes for each layer and batch; where a layer has more channels, each pass goes through all of them
    with random signs, which gives their mean energy on average. Raises RegardError where no layer has places.
    """
    fields = _fields(model, batches, layers, names[0], draws)
    if against is not None:
        fields += _fields(against, against_batches, against_layers, names[1], draws)
    return FieldOfView(tuple(fields))


def _fields(model: nn.Module, batches: Iterable[Tensor], patterns: Sequence[str], name: str, draws: int) -> list[Field]:
    first, batches = first_of(batches)
    found = [layer for layer in layers_of(model, first, patterns) if layer.grid is not None]
    if not found:
        raise RegardError(f"field_of_view: no layer of {name} has places in the image; name one that gives a map")
    device, generator = device_of(model), torch.Generator().manual_seed(0)
    energy = {layer.name: torch.zeros(first.shape[-2:], dtype=torch.float64) for layer in found}
    count = 0
    for batch in batches:
        images = batch.to(device).detach().requires_grad_()
        count += len(images)
        with evaluating(model), torch.enable_grad():
            with seen_layers(model, found) as seen:
                model(images)
            for layer in found:
                energy[layer.name] += _energy(layer, seen[layer.name], images, draws, generator)
    return [Field(name, layer.name, energy[layer.name].numpy() / count) for layer in found]


def _energy(layer: Layer, output: Tensor, images: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """(H, W) float64 on the CPU: squared gradients of the central unit, summed over images, channels, colours."""
    assert layer.grid is not None
    height, width = layer.grid
    unit = layer.tokens(output)[:, layer.prefix + height // 2 * width + width // 2]  # (B, D)
    energy = torch.zeros(images.shape[-2:], dtype=torch.float64)
    for signs in probes(len(unit), unit.shape[1], draws, generator).to(unit):
        (gradient,) = torch.autograd.grad((unit * signs).sum(), images, retain_graph=True)
        energy += gradient.double().square().sum((0, 1)).cpu()
    return energy
