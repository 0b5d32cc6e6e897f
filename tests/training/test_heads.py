from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regard.data.sources import ImageSet
from regard.data.splits import Split
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model, load_model
from regard.training.heads import fit_head, head_predictions


def clusters(count: int, size: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clusters on badly scaled, correlated axes."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(size, size)) * np.exp(-np.arange(size) / size * 5)
    centres = np.random.default_rng(99).normal(size=(classes, size)) * 0.3
    labels = rng.integers(0, classes, count)
    return ((centres[labels] + rng.normal(size=(count, size))) @ axes + 7).astype(np.float32), labels


def images_of(count: int, seed: int = 0) -> ImageSet:
    """Noise, reddish or greenish, brighter on the left."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    sources = []
    for label in labels:
        pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        pixels[..., label] += 60
        pixels[:, :16] += 60
        sources.append(pixels)
    ids = tuple(f"one/{number}" for number in range(count))
    return ImageSet("made", ids, labels.astype(np.int64), ("red", "green"), ("",) * count, sources)


SPLIT = Split(np.arange(40), np.arange(40, 60), np.arange(60, 80), ())


@pytest.fixture
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    return fresh_model("vit_nano_patch4_32", ("x", "y", "z"))


def test_the_head_is_installed_in_an_ordinary_model(loaded: LoadedModel, tmp_path: Path) -> None:
    images = images_of(80)
    done = fit_head(loaded, images, SPLIT, tmp_path, precision="fp32")
    assert loaded.classes == ("red", "green")
    linear = loaded.model.get_submodule(loaded.head)
    assert isinstance(linear, nn.Linear)
    assert linear.out_features == 2
    assert done.val.correct.mean() >= 0.9
    plain = loaded.predict([images.sources[row] for row in SPLIT.val])
    np.testing.assert_allclose(plain.logits, done.val.logits, rtol=1e-3, atol=1e-3)
    test = head_predictions(loaded, images, SPLIT.test, tmp_path, precision="fp32")
    assert test.ids == tuple(images.ids[row] for row in SPLIT.test)
    np.testing.assert_allclose(
        test.logits, loaded.predict([images.sources[row] for row in SPLIT.test]).logits, rtol=1e-3, atol=1e-3
    )
    assert (done.views, done.train_images, done.feature_dim) == ((0, 1), 40, 96)


def test_two_views_train(loaded: LoadedModel) -> None:
    images = images_of(80)
    one = fit_head(loaded, images, SPLIT, views=(0,))
    two = fit_head(loaded, images, SPLIT, views=(0, 1))
    assert not np.array_equal(one.val.logits, two.val.logits)


def test_the_same_bits_twice_and_another_setting_from_the_cache(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of(80)
    first = fit_head(loaded, images, SPLIT, tmp_path)
    monkeypatch.setattr(loaded, "pooled", None)  # a forward pass would fail
    again = fit_head(loaded, images, SPLIT, tmp_path)
    np.testing.assert_array_equal(first.val.logits, again.val.logits)
    assert first.grid == again.grid
    other = fit_head(loaded, images, Split(np.arange(20), np.arange(40, 50), np.arange(60, 80), ()), tmp_path)
    assert other.train_images == 20


def test_a_module_of_the_users_gets_a_head() -> None:
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 5)]
    loaded = load_model(nn.Sequential(*body), preprocess=Preprocess(32, 1.0, "squash"))
    images = images_of(80)
    done = fit_head(loaded, images, SPLIT)
    assert done.val.correct.mean() >= 0.9
    assert loaded.predict(images.sources[0]).logits.shape == (1, 2)


def test_nothing_to_learn_from_or_to_choose_by(loaded: LoadedModel) -> None:
    nothing = np.arange(0)
    with pytest.raises(RegardError, match="no train images"):
        fit_head(loaded, images_of(8), Split(nothing, np.arange(4), nothing, ()))
    with pytest.raises(RegardError, match="no val images"):
        fit_head(loaded, images_of(8), Split(np.arange(4), nothing, nothing, ()))


def test_the_weights_are_read_once(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from regard.inference import features

    calls = []
    hash_of = features.backbone_hash
    monkeypatch.setattr(features, "backbone_hash", lambda *args: calls.append(1) or hash_of(*args))
    done = fit_head(loaded, images_of(80), SPLIT, tmp_path, precision="fp32")
    head_predictions(loaded, images_of(80), SPLIT.test, done.cache, precision="fp32")
    assert len(calls) == 1


def test_a_mirrored_view_has_mirrored_boxes(loaded: LoadedModel) -> None:
    """The object lies left in half of the images; boxes learned from both views follow it."""
    rng = np.random.default_rng(0)
    left = rng.random(60) < 0.5
    sources = [rng.integers(0, 60, (32, 32, 3), dtype=np.uint8) for _ in left]
    for pixels, side in zip(sources, left, strict=True):
        pixels[8:24, 2:12] += np.uint8(150 * side)
        pixels[8:24, 20:30] += np.uint8(150 * (not side))
    boxes = np.where(left[:, None], [2, 8, 12, 24], [20, 8, 30, 24]).astype(np.float32) / 32
    ids = tuple(map(str, range(60)))
    names = ("x0", "y0", "x1", "y1")
    images = ImageSet("made", ids, boxes, names, ("",) * 60, sources, problem="regression", boxes=True)
    split = Split(np.arange(40), np.arange(40, 50), np.arange(50, 60), ())
    done = fit_head(loaded, images, split, precision="fp32")
    assert loaded.boxes and loaded.problem == "regression" and loaded.classes == names
    assert np.abs(done.val.logits - done.val.labels).max() < 0.1
