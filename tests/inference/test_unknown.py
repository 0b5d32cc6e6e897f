"""The score of unknown photos: equal to scikit-learn's neighbours, kept in the run folder, damage found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from regard.errors import RegardError
from regard.inference.unknown import UnknownScore, likelihood, nearness, neighbour, unit


def test_the_distance_is_that_of_the_kth_neighbour() -> None:
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(300, 16)), rng.normal(size=(40, 16)).astype(np.float32)
    bank = unit(known)
    reference = NearestNeighbors(n_neighbors=5).fit(known / np.linalg.norm(known, axis=1, keepdims=True))
    distances, _ = reference.kneighbors(asked / np.linalg.norm(asked, axis=1, keepdims=True))
    assert nearness(bank, asked) == pytest.approx(-distances[:, 4], abs=1e-4)
    assert nearness(bank, asked * 7) == pytest.approx(nearness(bank, asked), abs=1e-6), "length does not count"
    assert nearness(bank, asked[:0]).shape == (0,)


def test_k_is_a_thousandth_within_bounds() -> None:
    assert [neighbour(count) for count in (3, 200, 20_000, 10**6)] == [3, 5, 20, 50]


def test_a_photo_of_the_bank_is_the_most_known_and_zeros_are_no_error() -> None:
    bank = unit(np.repeat(np.eye(3), 10, axis=0))
    scores = nearness(bank, np.array([[2.0, 0, 0], [1, 1, 0], [0, 0, 0]], np.float32))
    assert scores == pytest.approx([0, -np.sqrt(2 - np.sqrt(2)), -np.sqrt(2)], abs=1e-3)


def test_the_largest_probability() -> None:
    assert likelihood(np.array([[0.2, 0.8], [0.6, 0.4]])).tolist() == [0.8, 0.6]


def test_a_score_comes_back_from_the_run_folder(tmp_path: Path) -> None:
    assert UnknownScore.load(tmp_path) is None
    bank = unit(np.random.default_rng(0).normal(size=(30, 4)))
    UnknownScore("distance", -0.5, bank).save(tmp_path, {"known": 3})
    again = UnknownScore.load(tmp_path)
    assert again is not None and (again.kind, again.threshold) == ("distance", -0.5)
    asked = np.ones((2, 4), np.float32)
    assert (again.score(asked, np.ones((2, 1))) == nearness(bank, asked)).all()
    assert json.loads((tmp_path / "unknown.json").read_text())["known"] == 3
    assert UnknownScore("probability", 0.5, bank).score(asked, np.array([[0.7], [0.2]])).tolist() == [0.7, 0.2]


def test_damage_is_refused_by_name(tmp_path: Path) -> None:
    UnknownScore("distance", -0.5, unit(np.ones((9, 4)))).save(tmp_path, {})
    data = bytearray((tmp_path / "unknown.safetensors").read_bytes())
    data[-3] ^= 4
    (tmp_path / "unknown.safetensors").write_bytes(data)
    with pytest.raises(RegardError, match=r"unknown\.safetensors: tensor bank is damaged"):
        UnknownScore.load(tmp_path)
    (tmp_path / "unknown.json").write_text('{"score": "guess", "threshold": 1}')
    with pytest.raises(RegardError, match=r"unknown\.json: damaged \(score 'guess'\)"):
        UnknownScore.load(tmp_path)
