"""Gradient rollout against (T, T) matrices multiplied in loops."""

from __future__ import annotations

import pytest
import torch
from plain_attention import (
    MODELS,
    Matrix,
    backbone,
    discarded,
    gradients,
    patterns,
    plain_map,
    read_of,
    residual,
    stacked,
    times,
    tiny,
)
from torch import Tensor

from regard.errors import RegardError
from regard.explanation.gradient_rollout import METHOD, gradient_rollout


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("discard", [0.0, 0.6])
def test_gradient_rollout_is_the_product_of_matrices(name: str, discard: float) -> None:
    """Gradients lie with the layers that they belong to, and heads are averaged before negatives go."""
    model, images, classes = tiny(name)
    maps = gradient_rollout(model, images, classes, discard=discard)
    seen, slopes, layers = patterns(model, images), gradients(model, images, classes), backbone(model)
    assert maps.shape == (2, *layers[0].grid) and maps.dtype == torch.float32
    for image in range(2):
        matrices = {layer.name: abar(seen[layer.name][image], slopes[layer.name][image], discard) for layer in layers}
        wanted = plain_map(stacked(layers, matrices, times), read_of(name, layers[-1].tokens), layers[0])
        assert wanted.std() > 1e-6
        torch.testing.assert_close(maps[image].double(), wanted, rtol=2e-7, atol=1e-12)  # float32


def abar(pattern: Tensor, gradient: Tensor, discard: float) -> Matrix:
    """a_l of (H, T, T) each."""
    heads = list(zip(pattern.tolist(), gradient.tolist(), strict=True))
    size = range(pattern.shape[-1])
    mean = [[max(sum(a[i][j] * g[i][j] for a, g in heads) / len(heads), 0) for j in size] for i in size]
    return residual(discarded(mean, heads[0][0], discard, spare_first=False))


def test_the_published_share_is_discarded_unless_asked_else() -> None:
    model, images, classes = tiny("token")
    assert torch.equal(
        gradient_rollout(model, images, classes), METHOD.chosen(["discard=0.9"]).explain(model, images, classes)
    )
    with pytest.raises(RegardError, match=r"discard=1\.5: expected the share"):
        gradient_rollout(model, images, classes, discard=1.5)
