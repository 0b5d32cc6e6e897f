"""High-norm tokens: loops in float64; planted ones are found where they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from regard.analysis.high_norm_tokens import high_norm_tokens
from regard.errors import RegardError
from regard.models import create_model
from regard.taps import edit, record


def test_equals_a_loop() -> None:
    torch.manual_seed(1)
    model, images = create_model("vit_nano_patch4_reg4_dinov2_32", 3).eval(), torch.randn(3, 3, 32, 32)
    with record(model, "embedded", "blocks.*.tokens") as seen, torch.no_grad():
        model(images)
    found = high_norm_tokens(model, images.split(2), times=1.02)
    assert found.depths == tuple(seen)
    for place, name in enumerate(found.depths):
        usual, largest, high = [], [], []
        for tokens in seen[name][:, 5:].double().tolist():
            lengths = [math.sqrt(sum(x * x for x in token)) for token in tokens]
            below, above = sorted(lengths)[56:58]  # the quantile lies at place 0.9 * 63 = 56.7
            usual.append(0.3 * below + 0.7 * above)
            largest.append(max(lengths))
            high.append(sum(length > 1.02 * usual[-1] for length in lengths) / len(lengths))
        assert found.usual[place] == pytest.approx(np.mean(usual), rel=1e-5)
        assert found.largest[place] == pytest.approx(np.mean(largest), rel=1e-5)
        assert found.share[place] == pytest.approx(np.mean(high), abs=1e-9)
    first = seen[found.depths[-1]][0, 5:].norm(dim=1).reshape(8, 8)
    np.testing.assert_allclose(found.maps[-1], first.double(), rtol=1e-5)


def test_planted_artefacts_are_warned_of_and_found_where_they_are() -> None:
    torch.manual_seed(1)
    model, images = create_model("vit_nano_patch4_32", 3).eval(), torch.randn(2, 3, 32, 32)
    assert high_norm_tokens(model, [images]).found == 0

    def plant(tokens: Tensor) -> Tensor:
        tokens = tokens.clone()
        tokens[:, [1 + 8 * 2 + 3, 1 + 8 * 7 + 7]] *= 20  # patches (2, 3) and (7, 7)
        tokens[:, 0] *= 100  # the class token is none
        return tokens

    with edit(model, {"blocks.3.tokens": plant}):
        found = high_norm_tokens(model, [images])
    assert found.found == pytest.approx(2 / 64)
    rows, columns = np.nonzero(found.maps[-1] > 2 * np.quantile(found.maps[-1], 0.9))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(2, 3), (7, 7)]
    assert found.share[:-1].max() == 0


def test_an_object_of_other_norms_is_no_artefact() -> None:
    torch.manual_seed(1)
    model, images = create_model("vit_nano_patch4_32", 3).eval(), torch.randn(1, 3, 32, 32)

    def bright(tokens: Tensor) -> Tensor:
        tokens = tokens.clone()
        tokens[:, 1:9] *= 5  # the first row of 8: an eighth of the image
        return tokens

    with edit(model, {"blocks.3.tokens": bright}):
        assert high_norm_tokens(model, [images]).found == 0


def test_refuses_by_name() -> None:
    with pytest.raises(RegardError, match="high_norm_tokens: ResNet has no tokens"):
        high_norm_tokens(create_model("resnet20_32", 3), [torch.randn(1, 3, 32, 32)])
