"""How alike the layers of two models are: linear CKA over minibatches.

    HSIC(K, L) = [tr(K L) + (1'K 1)(1'L 1) / ((n-1)(n-2)) - 2/(n-2) 1'K L 1] / (n (n-3))      diagonals of K, L at zero
    CKA = mean_b HSIC(K_b, L_b) / sqrt(mean_b HSIC(K_b, K_b) mean_b HSIC(L_b, L_b))

Song et al. 2012 (the unbiased HSIC, section 3), Kornblith et al. 2019 (arXiv 1905.00414, CKA), Nguyen et al. 2021
(arXiv 2010.15327, minibatches). Of a batch only the Gram matrices of its layers are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from regard.analysis.layers import FEATURES, Feature, Layer, layers_of, seen_layers
from regard.analysis.passes import evaluating
from regard.errors import RegardError
from regard.inference.precision import device_of
from regard.reporting.pictures.cka import Cka

FEWEST = 4  # images in a batch, for the unbiased estimate
AT_ONCE = 2**14  # features multiplied at once in float64


def cka(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    against: nn.Module | None = None,
    against_batches: Iterable[Tensor] | None = None,
    layers: Sequence[str] = (),
    against_layers: Sequence[str] = (),
    feature: Feature = "tokens",
    names: tuple[str, str] = ("model", "against"),
) -> Cka:
    """CKA between the layers of two models, or of one with itself.

    batches: (n, 3, S, S) normalised images, n >= 4 and equal; smaller ones, as the last often is, are left out.
    against_batches: the same images as `against` takes them, by default the same tensors. layers, against_layers:
    patterns of names, by default what leaves the blocks. feature: of each layer all "tokens" (or pixels of the map),
    the "class" token, or the "mean" over patches. Where a layer is the same for all images the value is NaN: CKA is
    not defined there. Values a little below 0 are no mistake: the estimate is unbiased.

    Raises RegardError for fewer than four images, a layer that does not exist, and a class token that is not there.
    """
    if feature not in FEATURES:
        raise RegardError(f"feature={feature!r}: expected one of {', '.join(FEATURES)}")
    total: Tensor | None = None
    rows: tuple[Layer, ...] = ()
    columns: tuple[Layer, ...] = ()
    size, counted = 0, 0
    with evaluating(model), evaluating(against or model):
        for images, others in _pairs(batches, against_batches):
            if total is None:
                size = len(images)
                if size < FEWEST:
                    raise RegardError(f"cka: batches of {size} images; it needs {FEWEST} or more in each")
                rows = layers_of(model, images, layers)
                columns = layers_of(against, others, against_layers) if against is not None else rows
                _check_class(rows, feature, names[0])
                _check_class(columns, feature, names[1])
                total = torch.zeros(len(rows) + len(columns), len(rows) + len(columns), dtype=torch.float64)
            if len(images) != size:
                continue
            first = grams(model, rows, images, feature)
            second = grams(against, columns, others, feature) if against is not None else first
            total += hsic(torch.cat([first, second]))
            counted += 1
    if total is None:
        raise RegardError(f"cka: no images given; it needs {FEWEST} or more")
    values = normalised(total.numpy())[: len(rows), len(rows) :]
    return Cka(
        values=values,
        rows=tuple(layer.name for layer in rows),
        columns=tuple(layer.name for layer in columns),
        names=names,
        feature=feature,
        batch=size,
        images=size * counted,
    )


def grams(model: nn.Module, layers: Sequence[Layer], images: Tensor, feature: Feature) -> Tensor:
    """(L, n, n) float64 on the CPU: inner products of the centred features of each layer, zero diagonal.

    All zero where the features do not differ from image to image by more than rounding.
    """
    with seen_layers(model, layers, partial(_gram, feature=feature)) as seen:
        model(images.to(device_of(model)))
    return torch.stack([seen[layer.name] for layer in layers])


def _gram(layer: Layer, output: Tensor, feature: Feature) -> Tensor:
    features = layer.feature(output, feature)
    # HSIC does not change with the origin (rows and columns are centred in it), but rounding does.
    centred = features - features.mean(0)
    gram = torch.zeros(len(features), len(features), dtype=torch.float64, device=features.device)
    for part in centred.split(AT_ONCE, dim=1):
        gram += part.double() @ part.double().T
    noise = 8 * torch.finfo(features.dtype).eps * features.double().square().mean().sqrt()
    if gram.trace() <= noise**2 * centred.numel():
        gram.zero_()
    return gram.fill_diagonal_(0).cpu()


def hsic(grams: Tensor) -> Tensor:
    """(L, L) unbiased HSIC between all pairs of (L, n, n) Gram matrices with zero diagonal."""
    n = grams.shape[-1]
    rows = grams.sum(-1)  # (L, n)
    sums = rows.sum(-1)  # (L,)
    traces = grams.flatten(1) @ grams.flatten(1).T  # (L, L): tr(K L), both symmetric
    inner = traces + torch.outer(sums, sums) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
    return inner / (n * (n - 3))


def normalised(hsics: np.ndarray) -> np.ndarray:
    """(L, L) CKA from summed HSICs; NaN where a layer's own is zero."""
    own = np.sqrt(np.diag(hsics))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.outer(own, own) > 0, hsics / np.outer(own, own), np.nan)


def _pairs(batches: Iterable[Tensor], others: Iterable[Tensor] | None) -> Iterable[tuple[Tensor, Tensor]]:
    if others is None:
        yield from ((images, images) for images in batches)
        return
    try:
        for images, other in zip(batches, others, strict=True):
            if len(images) != len(other):
                raise ValueError
            yield images, other
    except ValueError:
        raise RegardError("cka: batches and against_batches differ in number or size; give the same images") from None


def _check_class(layers: Sequence[Layer], feature: Feature, name: str) -> None:
    without = [layer.name for layer in layers if layer.prefix == 0]
    if feature == "class" and without:
        raise RegardError(f"{name}: its layer {without[0]} has no class token; ask for the feature 'mean' or 'tokens'")
