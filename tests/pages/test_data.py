from __future__ import annotations

import base64
import gzip

import numpy as np
import pytest

from regard.pages.data import PLAIN, ROWS, STEPS, Coded, Store, coded_rows, coded_steps, plain


def shares(rng: np.random.Generator) -> np.ndarray:
    """Patterns from nearly uniform to nearly one-hot, and a row of zeros."""
    scores = rng.normal(size=(3, 4, 9)) * np.array([0.01, 2, 30])[:, None, None]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    weights[0, 0] = 0
    return weights.astype(np.float32)


@pytest.mark.parametrize("levels", [255, 127])
def test_shares_are_off_by_half_a_level_of_their_root(levels: int) -> None:
    weights = shares(np.random.default_rng(0))
    coded = coded_rows(weights, levels)
    found = coded.decoded()
    most = weights.max(-1, keepdims=True)
    bound = (np.sqrt(weights * most) + most / (4 * levels)) / levels + 1e-7  # (u + 1/2)^2 - u^2 = u + 1/4
    assert (np.abs(found - weights) <= bound).all()
    assert coded.error == pytest.approx(np.abs(found - weights).max(), abs=1e-9)
    assert coded.values.dtype == np.uint8 and coded.values.max() == levels
    assert (found[0, 0] == 0).all()


@pytest.mark.parametrize(("axes", "levels"), [(0, 127), (1, 127), (2, 31)])
def test_numbers_are_off_by_half_a_step(axes: int, levels: int) -> None:
    numbers = np.random.default_rng(1).normal(size=(3, 4, 50)).astype(np.float32)
    numbers[1] *= 1000
    numbers[2] = 0
    coded = coded_steps(numbers, axes, levels)
    assert coded.scale is not None and coded.scale.shape == numbers.shape[:axes]
    step = np.broadcast_to(coded.scale.reshape(coded.scale.shape + (1,) * (3 - axes)), numbers.shape)
    assert (np.abs(coded.decoded() - numbers) <= step / 2 * (1 + 1e-5) + 1e-12).all()
    assert np.abs(coded.values).max() == levels
    assert coded.error == pytest.approx(np.abs(coded.decoded() - numbers).max())


def test_a_store_is_read_back() -> None:
    rng = np.random.default_rng(2)
    given = {
        "pattern": coded_rows(shares(rng)),
        "q": coded_steps(rng.normal(size=(2, 3, 5)), axes=1),
        "windows": plain(np.array([[0, 1, -1]])),
        "norms": plain(rng.normal(size=7)),
    }
    store = Store()
    store.add("layer", **given, absent=None)
    content = gzip.decompress(base64.b64decode(store.texts["layer"]))
    assert list(store.index["layer"]) == list(given)
    for name, (kind, shape, dtype, offset, *scale) in store.index["layer"].items():
        values = np.frombuffer(content, np.dtype(dtype), int(np.prod(shape)), offset).reshape(shape)
        original = given[name]
        assert offset % 4 == 0 and kind == original.kind
        if kind == PLAIN:
            np.testing.assert_array_equal(values, original.decoded())
            continue
        assert kind in (ROWS, STEPS) and original.scale is not None
        sizes = np.frombuffer(content, np.float32, scale[0], scale[1]).reshape(original.scale.shape)
        np.testing.assert_array_equal(Coded(kind, values, sizes).decoded(), original.decoded())
    assert store.index["layer"]["windows"][2] == "int32" and store.index["layer"]["norms"][2] == "float32"
