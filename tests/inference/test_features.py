from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regard.data.sources import ImageSet, open_images
from regard.errors import RegardError
from regard.inference import features as module
from regard.inference.features import FeatureCache, extract_features
from regard.inference.loaded import LoadedModel, fresh_model
from regard.inference.pooling import set_head

NAME = "vit_nano_patch4_32"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    return fresh_model(NAME, ("a", "b"))


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    rng = np.random.default_rng(0)
    for label in "ab":
        folder = tmp_path / "data" / label
        folder.mkdir(parents=True)
        for number in range(6):
            Image.fromarray(rng.integers(0, 256, (36, 33, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return open_images(tmp_path / "data")


class Counter:
    """Counts forward passes of single images and opened files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel):
        self.passes = self.opened = 0
        monkeypatch.setattr(loaded, "pooled", self._pooled(loaded.pooled))
        original = module.decoded_batches

        def decoded_batches(*arguments):
            for batch in original(*arguments):
                self.opened += len(batch)
                yield batch

        monkeypatch.setattr(module, "decoded_batches", decoded_batches)

    def _pooled(self, original):
        def pooled(x: torch.Tensor) -> torch.Tensor:
            self.passes += len(x)
            return original(x)

        return pooled


def test_features_are_what_the_head_multiplies_in_each_view(loaded: LoadedModel, images: ImageSet) -> None:
    rows = [3, 0, 7]
    found = extract_features(loaded, images, rows, batch_size=2, precision="fp32")
    assert found.shape == (2, 3, 96)
    assert found.dtype == np.float32
    pixels = [loaded.preprocess.pixels(images.sources[row]) for row in rows]
    np.testing.assert_allclose(found[0], loaded.embed(pixels), atol=1e-5)
    np.testing.assert_allclose(found[1], loaded.embed([one.flip(-1) for one in pixels]), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_the_second_use_touches_no_image(
    loaded: LoadedModel, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Counter(monkeypatch, loaded)
    first = extract_features(loaded, images, range(12), cache_dir=tmp_path / "cache")
    assert (count.opened, count.passes) == (12, 24)
    again = extract_features(loaded, images, range(12), cache_dir=tmp_path / "cache")
    assert (count.opened, count.passes) == (12, 24)
    np.testing.assert_array_equal(first, again)


def test_only_what_is_missing_is_computed(
    loaded: LoadedModel, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Counter(monkeypatch, loaded)
    extract_features(loaded, images, [0, 1, 2], (0,), tmp_path / "cache")
    assert count.passes == 3
    both = extract_features(loaded, images, [4, 2, 1], (0, 1), tmp_path / "cache")
    assert count.passes == 3 + 2 + 2  # one new image in two views, two known ones in one
    np.testing.assert_allclose(both, extract_features(loaded, images, [4, 2, 1], (0, 1)), atol=1e-5)


def test_a_changed_image_weight_or_preprocessing_is_computed_anew(
    loaded: LoadedModel, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    extract_features(loaded, images, range(12), (0,), cache)
    count = Counter(monkeypatch, loaded)
    Image.fromarray(np.zeros((36, 33, 3), np.uint8)).save(images.sources[5])
    os.utime(images.sources[6], ns=(1, 1))
    extract_features(loaded, images, range(12), (0,), cache)
    assert count.passes == 2
    other = fresh_model(NAME, ("a", "b"))
    keys = {FeatureCache(cache, loaded).folder, FeatureCache(cache, other).folder}
    smaller = fresh_model(NAME, ("a", "b"), preprocess=loaded.preprocess.__class__(32, 0.5))
    smaller.model = loaded.model
    keys.add(FeatureCache(cache, smaller).folder)
    assert len(keys) == 3


def test_the_head_is_no_part_of_the_key(loaded: LoadedModel, tmp_path: Path) -> None:
    before = FeatureCache(tmp_path, loaded).folder
    old = loaded.model.get_submodule(loaded.head)
    set_head(loaded, torch.ones(2, 96), torch.ones(2))
    assert FeatureCache(tmp_path, loaded).folder == before
    set_head(loaded, old.weight, old.bias)  # type: ignore[arg-type]  # a Linear's


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_file_is_passed_over(
    damage: str, loaded: LoadedModel, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = extract_features(loaded, images, range(12), (0,), cache)
    (part,) = cache.rglob("*.safetensors")
    data = bytearray(part.read_bytes())
    data[-50] ^= 4
    half = bytes(data[: len(data) // 2])
    part.write_bytes({"flip": bytes(data), "cut": half, "empty": b"", "text": b"hello"}[damage])
    count = Counter(monkeypatch, loaded)
    again = extract_features(loaded, images, range(12), (0,), cache)
    assert count.passes == 12
    np.testing.assert_array_equal(first, again)
    extract_features(loaded, images, range(12), (0,), cache)
    assert count.passes == 12


def test_an_interrupted_pass_keeps_what_it_had(
    loaded: LoadedModel, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_AT_ONCE", 4)

    def stop(event: dict) -> None:
        if event["done"] >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(loaded, images, range(12), (0,), tmp_path / "cache", batch_size=4, on_event=stop)
    count = Counter(monkeypatch, loaded)
    extract_features(loaded, images, range(12), (0,), tmp_path / "cache")
    assert count.passes == 4


def test_arrays_in_memory_are_known_by_their_pixels(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = open_images("digits").select(range(20))
    count = Counter(monkeypatch, loaded)
    extract_features(loaded, digits, range(10), (0,), tmp_path)
    extract_features(loaded, digits.select([9, 3]), [0, 1], (0,), tmp_path)
    assert count.passes == 10


def test_the_precision_is_measured_once(
    loaded: LoadedModel, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def choose(model, size, work, wanted):
        asked.append((work, wanted))
        return "bf16"

    monkeypatch.setattr(module, "choose_precision", choose)
    for _ in range(2):
        extract_features(loaded, images, range(12), (0, 1), tmp_path / "cache")
    assert asked == [(24, "auto")]
    assert {path.parent.name for path in (tmp_path / "cache").rglob("*.safetensors")} == {"bf16"}


def test_refusals(loaded: LoadedModel, images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="2 is no view"):
        extract_features(loaded, images, [0], (0, 2))
    assert extract_features(loaded, images, [], (0, 1)).shape == (2, 0, 96)
    Path(images.sources[3]).write_bytes(b"")
    with pytest.raises(RegardError, match=r"3\.png"):
        extract_features(loaded, images, range(12))
    Path(images.sources[3]).unlink()
    with pytest.raises(RegardError, match=r"3\.png.*restore it"):
        extract_features(loaded, images, range(12), cache_dir=tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(RegardError, match="features cannot be kept"):
        extract_features(loaded, images, [0], cache_dir=tmp_path / "file")
