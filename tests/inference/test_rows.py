from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from regard.inference.loaded import LoadedModel, fresh_model
from regard.inference.rows import decoded_batches, predict_rows


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return fresh_model("vit_nano_patch4_32", ("a", "b", "c"))


def image(number: int) -> np.ndarray:
    return np.full((32, 32, 3), number % 256, np.uint8)


def test_rows_come_in_order_and_bad_ones_keep_their_place(loaded: LoadedModel, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"<html>")
    sources = [bad if number % 5 == 2 else image(number) for number in range(23)]
    rows = list(predict_rows(loaded, map(str, range(23)), sources, batch_size=4, threads=3))
    assert [row.id for row in rows] == [str(number) for number in range(23)]
    alone = [loaded.predict(image(number)).logits[0] for number in range(23)]
    for number, row in enumerate(rows):
        if number % 5 == 2:
            assert row.logits is None
            assert row.error
            assert "bad.jpg" in row.message
        else:
            assert row.logits is not None
            np.testing.assert_allclose(row.logits, alone[number], atol=1e-5)


def test_a_whole_batch_of_bad_files(loaded: LoadedModel, tmp_path: Path) -> None:
    rows = list(predict_rows(loaded, "abcde", [tmp_path / "none.png"] * 5, batch_size=2))
    assert [row.id for row in rows] == list("abcde")
    assert {row.error for row in rows} == {"missing"}


def test_no_photos_no_rows(loaded: LoadedModel) -> None:
    assert list(predict_rows(loaded, [], [])) == []


def test_memory_is_bounded_by_three_groups(loaded: LoadedModel) -> None:
    before = set(threading.enumerate())
    drawn = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal drawn
        while True:
            drawn += 1
            yield image(drawn)

    batches = decoded_batches(endless(), loaded.preprocess, batch_size=4, threads=2)
    for count in range(1, 6):
        assert len(next(batches)) == 4
        assert drawn <= 4 * (count + 2)
    batches.close()
    assert set(threading.enumerate()) <= before


def test_order_does_not_depend_on_which_thread_is_faster(loaded: LoadedModel) -> None:
    class Slow:
        size = 32

        def pixels(self, number: int) -> torch.Tensor:
            time.sleep(0.01 * (number % 3))
            return torch.full((3, 32, 32), number, dtype=torch.uint8)

    seen = [
        int(pixels[0, 0, 0])
        for batch in decoded_batches(range(20), Slow(), batch_size=3, threads=4)  # type: ignore[arg-type]  # a double
        for pixels in batch.pixels
    ]
    assert seen == list(range(20))


def test_the_model_runs_in_evaluation_mode(loaded: LoadedModel) -> None:
    loaded.model.train()
    rows = list(predict_rows(loaded, "ab", [image(1), image(1)]))
    assert not loaded.model.training
    assert rows[0].logits is not None
    np.testing.assert_array_equal(rows[0].logits, rows[1].logits)


def test_bf16_is_close_to_fp32(loaded: LoadedModel) -> None:
    images = [np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8) for n in range(8)]
    exact, rough = (
        np.stack([row.logits for row in predict_rows(loaded, map(str, range(8)), images, precision=precision)])  # type: ignore[misc]
        for precision in ("fp32", "bf16")
    )
    assert 0 < np.abs(exact - rough).max() < 0.1
    assert rough.dtype == np.float32
