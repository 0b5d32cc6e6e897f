"""How a signal passes through the depth of a model: forwards its amplitude, backwards its gradient.

    a_l = sqrt(mean h_l^2)                                        over the units of layer l and the images
    g_l = sqrt(mean over images of |d(s . z) / d h_l|^2 / K)      z: the K logits, s: random signs

g is the mean over the K logits of how strongly each hangs on the layer; no labels are needed. Glorot and Bengio 2010,
section 4, look at both to see whether training can begin; He et al. 2015 (arXiv 1512.03385) ask the same of networks
with and without shortcuts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from regard.analysis.layers import layers_of, probes, seen_layers, tensor_of
from regard.analysis.passes import evaluating, first_of
from regard.inference.precision import device_of
from regard.reporting.pictures.signal_by_depth import Signal, SignalByDepth

DRAWS = 4  # backward passes a batch
Norms = nn.modules.batchnorm._BatchNorm


def signal_by_depth(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    against: nn.Module | None = None,
    against_batches: Iterable[Tensor] = (),
    layers: Sequence[str] = (),
    against_layers: Sequence[str] = (),
    names: tuple[str, str] = ("model", "against"),
    draws: int = DRAWS,
) -> SignalByDepth:
    """Gradient norm and activation amplitude at every depth of a model, and of another beside it.

    batches, against_batches: (B, 3, H, W) normalised images, as each model takes them. layers: patterns of names, by
    default what leaves the blocks. draws: backward passes for each batch; with as many logits or fewer, each has its
    own. Batch norms that have seen nothing yet take the statistics of the batch, as in the first step of a training.
    """
    signals = [_signal(model, batches, layers, names[0], draws)]
    if against is not None:
        signals.append(_signal(against, against_batches, against_layers, names[1], draws))
    return SignalByDepth(tuple(signals))


def _signal(model: nn.Module, batches: Iterable[Tensor], patterns: Sequence[str], name: str, draws: int) -> Signal:
    first, batches = first_of(batches)
    found = layers_of(model, first, patterns)
    device, generator = device_of(model), torch.Generator().manual_seed(0)
    energy, squares, count = np.zeros(len(found)), np.zeros(len(found)), 0
    for batch in batches:
        images = batch.to(device).detach().requires_grad_()
        with evaluating(model), _fresh_norms_awake(model), torch.enable_grad():
            with seen_layers(model, found) as seen:
                logits = tensor_of(model(images))
            outputs = [seen[layer.name] for layer in found]
            squares += [output.detach().double().square().mean().item() * len(images) for output in outputs]
            flat = logits.flatten(1)
            for signs in probes(len(flat), flat.shape[1], draws, generator).to(flat):
                gradients = torch.autograd.grad((flat * signs).sum(), outputs, retain_graph=True)
                energy += [gradient.double().square().sum().item() / flat.shape[1] for gradient in gradients]
        count += len(images)
    return Signal(name, tuple(layer.name for layer in found), np.sqrt(energy / count), np.sqrt(squares / count))


@contextmanager
def _fresh_norms_awake(model: nn.Module) -> Iterator[None]:
    """Batch norms without a batch behind them use that of the pass, and keep nothing of it."""
    fresh = [
        module
        for module in model.modules()
        if isinstance(module, Norms) and module.num_batches_tracked is not None and not module.num_batches_tracked
    ]
    for module in fresh:
        module.training, module.track_running_stats = True, False
    try:
        yield
    finally:
        for module in fresh:
            module.training, module.track_running_stats = False, True
