"""Splits by the protocol: what is drawn, what never moves, what stays together, and `split.csv`."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from regard.data.groups import rows_of_groups
from regard.data.sources import ImageSet
from regard.data.splits import Split, fold_images, read_split, split_images, take_fraction, write_split
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
    try:
        split = split_images(images, seed, [*groups, ("not", "there")])
    except RegardError as error:  # a few images, joined by copies, may not make three parts
        assert sum(counts) < 32 and "leave none for" in str(error)
        reject()
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


# groups, folds, other labels than classes


def several(rows: int, seed: int = 0) -> ImageSet:
    """Images with up to four labels, the last of them rare."""
    labels = np.random.default_rng(seed).random((rows, 4)) < (0.5, 0.4, 0.3, 0.08)
    ids = tuple(f"{row:04d}.jpg" for row in range(rows))
    return ImageSet("several", ids, labels.astype(np.float32), tuple("abcd"), ("",) * rows, ids, problem="multi_label")


def numbers(rows: int, seed: int = 0) -> ImageSet:
    labels = np.random.default_rng(seed).lognormal(size=(rows, 2)).astype(np.float32)
    ids = tuple(f"{row:04d}.jpg" for row in range(rows))
    return ImageSet("numbers", ids, labels, ("x", "y"), ("",) * rows, ids, problem="regression")


def grouped(images: ImageSet, count: int, seed: int = 0) -> ImageSet:
    """The same images in random groups."""
    drawn = np.random.default_rng(seed).integers(0, count, len(images))
    return replace(images, groups=tuple(f"g{number}" for number in drawn))


@given(
    kind=st.sampled_from([lambda: image_set([40, 40]), lambda: several(80), lambda: numbers(80)]),
    count=st.integers(8, 60),
    seed=st.integers(0, 3),
    draw=st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_groups_and_copies_are_never_divided(kind, count: int, seed: int, draw) -> None:
    images = grouped(kind(), count, seed)
    copies = [tuple(draw.sample(images.ids, 2)) for _ in range(3)]
    joined = [*copies, *({images.ids[row] for row in rows} for rows in rows_of_groups(images.groups).values())]
    try:
        splits = [split_images(images, seed, copies), *fold_images(images, 3, seed, copies)]
    except RegardError as error:  # a few large groups, joined by copies, may not make three parts
        assert count < 16 and ("leave none for" in str(error) or "one fold holds all" in str(error))
        reject()
    for split in splits:
        part = {images.ids[row]: name for name in ("train", "val", "test") for row in getattr(split, name)}
        assert len(part) == len(images)
        assert all(len({part[id_] for id_ in group}) == 1 for group in joined)


@given(
    kind=st.sampled_from([lambda: image_set([45, 33, 9]), lambda: several(87), lambda: numbers(87)]),
    folds=st.integers(2, 6),
    repeat=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_image_is_once_a_test_image(kind, folds: int, repeat: int) -> None:
    images = kind()
    splits = fold_images(images, folds, repeat)
    assert len(splits) == folds
    assert sorted(row for split in splits for row in split.test) == list(range(len(images)))
    for split in splits:
        assert sorted([*split.train, *split.val, *split.test]) == list(range(len(images)))
        counts = np.bincount(images.strata[split.test], minlength=images.strata.max() + 1)
        whole = np.bincount(images.strata, minlength=images.strata.max() + 1)
        assert (abs(counts - whole / folds) < 1).all()
        assert abs(len(split.val) - 0.15 * (len(images) - len(split.test))) <= len(whole)
    assert max(len(split.test) for split in splits) - min(len(split.test) for split in splits) <= 1
    again = fold_images(images, folds, repeat)
    assert all(
        np.array_equal(a.test, b.test) and np.array_equal(a.val, b.val) for a, b in zip(splits, again, strict=True)
    )
    other = fold_images(images, folds, repeat + 1)
    assert any(not np.array_equal(a.test, b.test) for a, b in zip(splits, other, strict=True))


def test_folds_are_said_in_the_notes_and_depend_on_names_only() -> None:
    images = image_set([40, 40])
    splits = fold_images(images, 5, 2)
    assert "fold 3 of 5, repeat 2" in splits[2].notes[2] and "15% of the other folds" in splits[2].notes[1]
    order = np.random.default_rng(0).permutation(80)
    shuffled = images.select(order)
    ids = {images.ids[row] for row in splits[1].test}
    assert {shuffled.ids[row] for row in fold_images(shuffled, 5, 2)[1].test} == ids


def test_folds_that_cannot_be_made() -> None:
    with pytest.raises(RegardError, match="two or more"):
        fold_images(image_set([9, 9]), 1)
    for held in ("test", "val"):
        with pytest.raises(RegardError, match=f"given {held}; leave --folds out"):
            fold_images(image_set([9, 9], ["train", held] * 9), 3)
    assert len(fold_images(image_set([9, 9], ["train"] * 18), 3)) == 3
    few = replace(image_set([9, 9]), groups=tuple("uvw" * 6))
    with pytest.raises(RegardError, match="--folds 4 of 3 images or groups"):
        fold_images(few, 4)
    alone = image_set([30, 6])
    alone = replace(alone, groups=tuple(id_ if id_[0] == "a" else "b" for id_ in alone.ids))
    with pytest.raises(RegardError, match="one fold holds all of class b"):
        fold_images(alone, 3)


def test_groups_without_enough_to_divide() -> None:
    images = image_set([9, 9])
    images = replace(images, groups=tuple(id_[0] for id_ in images.ids))
    with pytest.raises(RegardError, match=r"18 images in 2 groups leave none for val; add groups to each class"):
        split_images(images, 0)


def test_shares_hold_for_numbers_and_several_labels() -> None:
    for images in (numbers(1000), numbers(30), several(1000)):
        split = split_images(images, 0)
        assert abs(len(split.test) - 0.15 * len(images)) <= 2 and abs(len(split.val) - 0.15 * len(images)) <= 2
    rare = several(1000).labels[split.test][:, 3].sum() / several(1000).labels[:, 3].sum()
    assert abs(rare - 0.15) < 0.02  # the rarest label is a stratum of its own
    images = numbers(1000)
    split = split_images(images, 0)
    bins = np.bincount(images.strata[split.test])
    assert bins.min() == bins.max() == 15


@given(count=st.integers(2, 40), seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_fractions_take_whole_groups_and_are_nested(count: int, seed: int) -> None:
    images = grouped(image_set([60, 60]), count, seed)
    rows = np.arange(120)
    taken = {share: set(take_fraction(images, rows, share, seed).tolist()) for share in (0.05, 0.2, 0.5, 0.8, 1.0)}
    for smaller, larger in pairwise(taken.values()):
        assert smaller <= larger
    for chosen in taken.values():
        for members in rows_of_groups(images.groups).values():
            assert len(chosen & set(members)) in (0, len(members))
    assert taken[1.0] == set(range(120))
    largest = max(map(len, rows_of_groups(images.groups).values()))
    assert abs(len(taken[0.5]) - 60) <= 2 * (largest / 2 + 1)


@pytest.mark.parametrize("images", [several(60), numbers(60), grouped(image_set([30, 30]), 12)])
def test_splits_of_all_labels_are_written_and_read(tmp_path: Path, images: ImageSet) -> None:
    split = split_images(images, 0)
    path = tmp_path / "split.csv"
    write_split(path, images, split)
    assert rows_of(read_split(path, images)) == rows_of(split)
    header = path.read_text().splitlines()[0]
    assert header == ("id,class,split,group" if images.groups else "id,class,split")
    plain = replace(images, groups=())
    assert rows_of(read_split(path, plain)) == rows_of(split)
    write_split(path, plain, split)
    assert rows_of(read_split(path, images)) == rows_of(split)


def test_other_labels_and_groups_than_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    for images, words in ((several(60), "was 'a|b"), (numbers(60), "was '")):
        write_split(path, images, split_images(images, 0))
        changed = images.labels.copy()
        row = int(np.flatnonzero(images.labels[:, :2].all(axis=1))[0])
        changed[row] = np.nextafter(changed[row], np.float32(9)) if images.problem == "regression" else 0
        with pytest.raises(RegardError, match=re.escape(f"{images.ids[row]} {words}")):
            read_split(path, replace(images, labels=changed))
    images = grouped(image_set([30, 30]), 12)
    write_split(path, images, split_images(images, 0))
    with pytest.raises(RegardError, match="use the groups it was written for"):
        read_split(path, grouped(images, 12, seed=1))
