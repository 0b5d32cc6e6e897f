"""Splits by the protocol: what is drawn, what never moves, what stays together, and `split.csv`."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.sources import ImageSet
from regard.data.splits import Split, read_split, split_images, take_fraction, write_split
from regard.errors import RegardError


def image_set(counts: list[int], split: list[str] | None = None) -> ImageSet:
    """Images without pixels: so many of class a, b, ..."""
    labels = np.repeat(np.arange(len(counts)), counts)
    ids = tuple(f"{'abcdefgh'[label]}/{row:04d}.jpg" for row, label in enumerate(labels))
    classes = tuple("abcdefgh"[: len(counts)])
    return ImageSet("set", ids, labels, classes, tuple(split or [""] * len(ids)), ids)


def rows_of(split: Split) -> tuple[list[int], list[int], list[int]]:
    return split.train.tolist(), split.val.tolist(), split.test.tolist()


def per_class(images: ImageSet, rows: np.ndarray) -> list[int]:
    return np.bincount(images.labels[rows], minlength=len(images.classes)).tolist()


def test_three_given_splits_are_used_as_they_are() -> None:
    images = image_set([3, 3], ["train", "val", "test"] * 2)
    for seed in (0, 1):
        assert rows_of(split_images(images, seed)) == ([0, 3], [1, 4], [2, 5])


@pytest.mark.parametrize("held", ["val", "test"])
def test_of_two_given_splits_the_second_is_the_test(held: str) -> None:
    images = image_set([100, 40], ["train", "train", "train", "train", held] * 28)
    split = split_images(images, 0)
    assert split.test.tolist() == [row for row in range(140) if row % 5 == 4]
    assert per_class(images, split.val) == [12, 5]  # 15% of 80 and of 32
    assert sorted([*split.train, *split.val, *split.test]) == list(range(140))
    assert f"28 images (the given {held}" in split.notes[2] and "17 images (15%" in split.notes[1]


@pytest.mark.parametrize("given_split", ["", "train"])
def test_of_one_three_are_cut_stratified(given_split: str) -> None:
    images = image_set([200, 100, 20], [given_split] * 320)
    split = split_images(images, 0)
    assert per_class(images, split.test) == [30, 15, 3]
    assert per_class(images, split.val) == [30, 15, 3]
    assert per_class(images, split.train) == [140, 70, 14]
    assert sorted([*split.train, *split.val, *split.test]) == list(range(320))
    assert all(np.all(np.diff(rows) > 0) for rows in (split.train, split.val, split.test))


def test_shares_hold_in_total_with_many_small_classes() -> None:
    split = split_images(image_set([10] * 8), 0)
    assert (len(split.train), len(split.val), len(split.test)) == (56, 12, 12)


def test_the_test_never_depends_on_the_seed_and_validation_does() -> None:
    images = image_set([60, 60])
    splits = [split_images(images, seed) for seed in range(4)]
    assert all(np.array_equal(split.test, splits[0].test) for split in splits)
    assert len({tuple(split.val) for split in splits}) == 4
    assert rows_of(split_images(images, 3)) == rows_of(splits[3])


def test_a_split_depends_on_names_and_not_on_their_order() -> None:
    images = image_set([40, 40])
    order = np.random.default_rng(0).permutation(80)
    shuffled = images.select(order)
    ids = {images.ids[row] for row in split_images(images, 5).val}
    assert {shuffled.ids[row] for row in split_images(shuffled, 5).val} == ids


def test_a_class_of_two_is_trained_and_tested() -> None:
    split = split_images(image_set([40, 2]), 0)
    assert [int((rows >= 40).sum()) for rows in (split.train, split.val, split.test)] == [1, 0, 1]


@given(
    counts=st.lists(st.integers(6, 30), min_size=2, max_size=4),
    seed=st.integers(0, 5),
    draw=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_groups_stay_together(counts: list[int], seed: int, draw) -> None:
    images = image_set(counts)
    groups = [tuple(draw.sample(images.ids, draw.randint(2, 4))) for _ in range(draw.randint(0, 5))]
    split = split_images(images, seed, [*groups, ("not", "there")])
    assert sorted([*split.train, *split.val, *split.test]) == list(range(len(images)))
    part = {images.ids[row]: name for name in ("train", "val", "test") for row in getattr(split, name)}
    assert all(len({part[id_] for id_ in group}) == 1 for group in groups)
    assert np.array_equal(split_images(images, seed + 1, groups).test, split.test)


def test_groups_stay_together_in_the_cut_of_validation() -> None:
    images = image_set([40, 40], ["train"] * 60 + ["test"] * 20)
    groups = [(images.ids[row], images.ids[row + 1]) for row in range(0, 60, 2)]
    for seed in range(5):
        val = set(split_images(images, seed, groups).val.tolist())
        assert val and all((row in val) == (row + 1 in val) for row in range(0, 60, 2))


def test_a_class_that_is_one_group_stays_in_train() -> None:
    images = image_set([40, 6])
    split = split_images(images, 0, [images.ids[40:]])
    assert set(range(40, 46)) <= set(split.train.tolist())


def test_overlapping_groups_are_one() -> None:
    images = image_set([40, 40])
    chain = [(images.ids[row], images.ids[row + 1]) for row in range(4)]
    split = split_images(images, 0, chain)
    assert any(set(range(5)) <= set(rows) for rows in rows_of(split))


def test_splits_that_cannot_be_made() -> None:
    with pytest.raises(RegardError, match="none to train on"):
        split_images(image_set([4, 4], ["val", "test"] * 4), 0)
    with pytest.raises(RegardError, match="leave none for val; add images"):
        split_images(image_set([2, 2]), 0)


# fractions


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_fractions_are_nested_and_stratified(counts: list[int], seed: int) -> None:
    images = image_set(counts)
    rows = np.arange(len(images))
    taken = {share: take_fraction(images, rows, share, seed) for share in (0.05, 0.1, 0.3, 0.7, 1.0)}
    shares = list(taken)
    for smaller, larger in pairwise(shares):
        assert set(taken[smaller]) <= set(taken[larger])
    for share, chosen in taken.items():
        expected = [max(1, int(share * count + 0.5)) for count in counts]
        assert per_class(images, chosen) == expected
    assert np.array_equal(taken[1.0], rows)


def test_fractions_are_redrawn_by_seed_and_stay_inside_the_rows() -> None:
    images = image_set([50, 50])
    rows = split_images(images, 0).train
    draws = [take_fraction(images, rows, 0.3, seed) for seed in range(4)]
    assert len({tuple(draw) for draw in draws}) == 4
    assert all(set(draw) <= set(rows) and np.all(np.diff(draw) > 0) for draw in draws)
    assert np.array_equal(draws[2], take_fraction(images, rows[::-1], 0.3, 2))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_impossible_fractions(fraction: float) -> None:
    with pytest.raises(RegardError, match="more than 0"):
        take_fraction(image_set([4]), np.arange(4), fraction, 0)


# split.csv


def test_a_split_is_written_and_read(tmp_path: Path) -> None:
    images = image_set([30, 30])
    odd = tuple(id_.replace("0.jpg", ' "0",\n.jpg') for id_ in images.ids)
    images = ImageSet("set", odd, images.labels, ("a, b", "c\nd"), images.split, odd)
    split = split_images(images, 0)
    write_split(tmp_path / "split.csv", images, split)
    assert rows_of(read_split(tmp_path / "split.csv", images)) == rows_of(split)
    assert (tmp_path / "split.csv").read_text("utf-8").startswith("id,class,split\n")
    assert os.listdir(tmp_path) == ["split.csv"]


def test_images_left_out_stay_left_out(tmp_path: Path) -> None:
    images = image_set([30, 30])
    whole = split_images(images, 0)
    split = Split(whole.train, whole.val, whole.test[1:], ())
    write_split(tmp_path / "split.csv", images, split)
    assert rows_of(read_split(tmp_path / "split.csv", images)) == rows_of(split)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = image_set([30, 30])
    path = tmp_path / "split.csv"
    path.write_text("before")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_split(path, images, split_images(images, 0))
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["split.csv"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,class,split\nz/9.jpg,a,train\n", "1 of its 1 images are not in set (first: z/9.jpg)"),
        ("id,class,split\na/0000.jpg,b,train\n", "a/0000.jpg was 'b' and is 'a' now"),
        ("id,class,split\na/0000.jpg,a,holdout\n", "unknown split 'holdout'"),
        ("id,class,split\na/0000.jpg,a,val\na/0000.jpg,a,val\n", "listed twice"),
        ("name,class\n", "not a split file"),
        ("", "not a split file"),
        ("id,class,split\na/0000.jpg,a\n", "not a split file"),
    ],
)
def test_split_files_that_do_not_fit(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(RegardError) as caught:
        read_split(tmp_path / "split.csv", image_set([3, 3]))
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_split_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="cannot be read"):
        read_split(tmp_path / "split.csv", image_set([3, 3]))
