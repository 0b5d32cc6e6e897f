from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model
from regard.verbs.embed import embed


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    return fresh_model("vit_nano_patch4_32", ("a", "b"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "2b.png").write_bytes(b"bad")
    return folder


def test_vectors_in_order_and_bad_photos_by_name(loaded: LoadedModel, photos: Path) -> None:
    said: list[dict] = []
    found = embed(loaded, photos, batch_size=2, on_event=said.append)
    assert [Path(id_).name for id_ in found.ids] == [f"{n}.png" for n in range(5)]
    assert [Path(id_).name for id_ in found.skipped] == ["2b.png"]
    assert any("2b.png" in event.get("text", "") for event in said)
    np.testing.assert_allclose(found.vectors, loaded.embed(list(found.ids)), atol=1e-5)
    assert list(found.lines()) == ["5 vectors of 96 numbers, 1 unreadable"]


def test_files(loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for suffix in (".npy", ".npz", ".parquet"):
        found = embed(loaded, [photos], out=out / f"v{suffix}")
    assert sorted(os.listdir(out)) == ["v.ids.txt", "v.npy", "v.npz", "v.parquet"]
    np.testing.assert_array_equal(np.load(out / "v.npy"), found.vectors)
    assert len((out / "v.ids.txt").read_text().splitlines()) == 5
    with np.load(out / "v.npz") as file:
        np.testing.assert_array_equal(file["vectors"], found.vectors)
        assert tuple(file["ids"]) == found.ids
    table = pq.read_table(out / "v.parquet")
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), found.vectors)
    assert tuple(table["id"].to_pylist()) == found.ids


def test_refusals(loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match=r"unknown suffix '\.txt'"):
        embed(loaded, photos, out=tmp_path / "v.txt")
    with pytest.raises(RegardError, match="none of 1 can be read"):
        embed(loaded, photos / "2b.png")
