"""Likely mislabelled photos: a planted wrong label is found, clean labels are left alone."""

from __future__ import annotations

import numpy as np

from regard.comparison.suspects import suspects


def blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat([0, 1, 2], 40)
    return rng.normal(size=(120, 8)) + 6 * np.eye(3, 8)[labels], labels


def test_a_planted_mistake_is_disputed_and_clean_labels_are_not() -> None:
    features, labels = blobs(np.random.default_rng(0))
    ids = [str(row) for row in range(120)]
    assert suspects(ids, features, labels, ("a", "b", "c")) == ()
    labels[7] = 2
    (found,) = suspects(ids, features, labels, ("a", "b", "c"))
    assert (found.id, found.given, found.suggested) == ("7", "c", "a")
    assert found.confidence > 0.5


def test_classes_too_small_to_fold_are_left_out() -> None:
    features, labels = blobs(np.random.default_rng(0))
    keep = np.r_[0:42, 80:120]  # two photos of the second class
    assert suspects([str(row) for row in keep], features[keep], labels[keep], ("a", "b", "c")) == ()
