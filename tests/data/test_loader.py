"""The stream of batches depends on the seed and the step, and on nothing else."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regard.data.augment import Augment
from regard.data.decoding import ImageError
from regard.data.loader import Batch, Batches, generator
from regard.data.mixing import Mixing
from regard.data.transforms import Preprocess
from regard.errors import RegardError

SMALL = Preprocess(16, 1.0)
FULL = Augment(randaugment=(2, 9), erase=0.5)
MIX = Mixing(0.8, 1.0, smoothing=0.1)


@dataclass(frozen=True)
class Images:
    """A stand-in for an image set."""

    ids: tuple[str, ...]
    labels: np.ndarray
    sources: list[Any]


def pictures(count: int = 23, side: int = 20) -> Images:
    rng = np.random.default_rng(0)
    sources = [rng.integers(0, 256, (side, side + 4, 3), dtype=np.uint8) for _ in range(count)]
    return Images(tuple(f"set/{number:04d}" for number in range(count)), np.arange(count) % 3, sources)


def make(images: Images | None = None, rows: Iterable[int] | None = None, **changes: Any) -> Batches:
    images = images or pictures()
    arguments = {
        "augment": FULL,
        "mixing": MIX,
        "batch_size": 7,
        "seed": 5,
        "num_classes": 3,
        "threads": 2,
        **changes,
    }
    return Batches(images, range(len(images.ids)) if rows is None else rows, SMALL, **arguments)


def take(batches: Batches, count: int, step: int = 0) -> list[Batch]:
    return list(itertools.islice(batches.from_step(step), count))


def same(left: list[Batch], right: list[Batch]) -> bool:
    return all(
        torch.equal(one.images, other.images)
        and torch.equal(one.targets, other.targets)
        and (one.rows == other.rows).all()
        for one, other in zip(left, right, strict=True)
    )


KINDS = {
    "resized": {},
    "pad": {"augment": Augment("pad", erase=0.5)},
    "centre": {"augment": Augment("centre")},
    "plain": {"augment": None, "mixing": None},
}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_for_any_number_of_threads(kind: str) -> None:
    expected = take(make(threads=1, **KINDS[kind]), 9)
    for threads in (2, 4):
        assert same(expected, take(make(threads=threads, **KINDS[kind]), 9))


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_at_any_step(kind: str) -> None:
    expected = take(make(**KINDS[kind]), 12)
    for step in range(12):
        assert same(expected[step:], take(make(**KINDS[kind]), 12 - step, step))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_nothing(kind: str) -> None:
    batches = make(**KINDS[kind])
    assert same(take(batches, 9), take(make(cache_bytes=0, **KINDS[kind]), 9))
    assert same(take(batches, 9), take(batches, 9))  # the second time from memory


def test_torchs_and_numpys_own_state_do_not_matter() -> None:
    torch.manual_seed(1)
    expected = take(make(), 5)
    torch.manual_seed(2)
    np.random.seed(2)
    state = torch.get_rng_state()
    assert same(expected, take(make(), 5))
    assert torch.equal(state, torch.get_rng_state())


def test_seeds_and_epochs_differ() -> None:
    assert not same(take(make(), 1), take(make(seed=6), 1))
    batches = make()
    assert sorted(batches.order(0)) == sorted(batches.order(1)) == list(range(23))
    assert list(batches.order(0)) != list(batches.order(1)) != list(make(seed=6).order(1))


def test_batches_run_across_epochs() -> None:
    batches = make(batch_size=5)
    rows = np.concatenate([batch.rows for batch in take(batches, 23)])  # 115 images = 5 epochs of 23
    assert all(len(batch.rows) == 5 for batch in take(batches, 10))
    for epoch in range(5):
        assert (rows[23 * epoch : 23 * (epoch + 1)] == batches.order(epoch)).all()


def test_a_batch_larger_than_the_set() -> None:
    (batch,) = take(make(rows=[3, 8], batch_size=9), 1)
    assert batch.images.shape == (9, 3, 16, 16) and set(batch.rows) == {3, 8}
    assert np.bincount(batch.rows)[[3, 8]].min() >= 4


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    """The view of a row in an epoch is the same, whatever the batch size."""
    views = []
    for size in (4, 7):
        batches = make(batch_size=size, mixing=None)
        images = torch.cat([batch.images for batch in take(batches, 6)])
        rows = np.concatenate([batch.rows for batch in take(batches, 6)])
        views.append({int(row): image for row, image in zip(rows[:23], images[:23], strict=True)})
    assert len(views[0]) == len(views[1]) == 23
    assert all(torch.equal(views[0][row], views[1][row]) for row in views[0])


def test_views_differ_between_epochs() -> None:
    batches = make(mixing=None, batch_size=23)
    first, second = take(batches, 2)
    order = [list(first.rows), list(second.rows)]
    changed = [
        not torch.equal(first.images[order[0].index(row)], second.images[order[1].index(row)]) for row in range(23)
    ]
    assert all(changed)


def test_targets() -> None:
    images = pictures()
    for mixing in (None, Mixing()):
        (batch,) = take(make(images, mixing=mixing, num_classes=0), 1)
        assert batch.targets.dtype == torch.int64
        assert batch.targets.tolist() == (batch.rows % 3).tolist()
    (batch,) = take(make(images), 1)
    assert batch.targets.shape == (7, 3) and batch.targets.dtype == torch.float32
    torch.testing.assert_close(batch.targets.sum(dim=1), torch.ones(7))


def test_once_is_plain_and_in_order() -> None:
    images = pictures()
    rows = [20, 3, 3, 11, 0, 7, 22, 9]
    batches = make(images, rows, batch_size=3)
    assert len(batches) == 3
    for _ in range(2):
        passed = list(batches.once())
        assert [len(batch.rows) for batch in passed] == [3, 3, 2]
        assert np.concatenate([batch.rows for batch in passed]).tolist() == rows
        for batch in passed:
            assert batch.targets.tolist() == (batch.rows % 3).tolist()
            for row, image in zip(batch.rows, batch.images, strict=True):
                assert torch.equal(image, SMALL(images.sources[row]))
    assert list(make(images, []).once()) == []


def test_files_and_arrays_are_equal(tmp_path: Path) -> None:
    arrays = pictures(9)
    paths = []
    for number, source in enumerate(arrays.sources):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(source).save(paths[-1])
    files = Images(arrays.ids, arrays.labels, paths)
    assert same(take(make(arrays), 4), take(make(files), 4))


def image_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("regard-images")]


def test_threads_end_with_the_iteration() -> None:
    for _ in make().from_step(0):
        break
    assert not image_threads()
    with pytest.raises(ZeroDivisionError):
        for _ in make().from_step(0):
            raise ZeroDivisionError
    assert not image_threads()
    list(make().once())
    assert not image_threads()
    stream = make().from_step(0)
    next(stream)
    assert len(image_threads()) == 2
    del stream
    assert not image_threads()


def test_the_number_of_torch_threads_is_left_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        stream = make().from_step(0)
        next(stream)
        assert torch.get_num_threads() == 3
        seen: list[int] = []
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert seen == [3]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_a_bad_image_is_named(tmp_path: Path, kind: str, cache_bytes: int) -> None:
    images = pictures()
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    images.sources[13] = bad
    with pytest.raises(ImageError, match=r"bad\.jpg") as caught:
        take(make(images, cache_bytes=cache_bytes, **KINDS[kind]), 8)
    assert caught.value.code == "empty" and not image_threads()
    images.sources[13] = np.zeros((4, 4), dtype=np.float64)
    with pytest.raises(ImageError, match="set/0013"):
        take(make(images, cache_bytes=cache_bytes, **KINDS[kind]), 8)


def test_prefetch_is_bounded() -> None:
    read: list[int] = []

    class Sources(list):
        def __getitem__(self, row):
            read.append(row)
            return super().__getitem__(row)

    images = pictures(400)
    counted = Images(images.ids, images.labels, Sources(images.sources))
    stream = make(counted, augment=None, batch_size=10, cache_bytes=0).from_step(0)
    next(stream)
    time.sleep(0.3)
    assert len(read) <= 30
    stream.close()


def test_images_are_decoded_once_when_they_fit() -> None:
    read: list[int] = []

    class Sources(list):
        def __getitem__(self, row):
            read.append(row)
            return super().__getitem__(row)

    images = pictures(20)
    counted = Images(images.ids, images.labels, Sources(images.sources))
    batches = make(counted, augment=Augment("pad"), batch_size=10, threads=1)
    take(batches, 12)
    assert sorted(read) == list(range(20))


def test_generators_do_not_overlap() -> None:
    places = itertools.product((0, 1), (1, 2), (0, 1, 7), (0, 1, 2))
    draws = [tuple(generator(*place).integers(2**60, size=4)) for place in places]
    assert len(set(draws)) == len(draws)
    assert len({value for draw in draws for value in draw}) == 4 * len(draws)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_size": 0}, "batch size"), ({"seed": -1}, "seed"), ({"num_classes": 2}, "num_classes")],
)
def test_bad_arguments(changes: dict, message: str) -> None:
    with pytest.raises(RegardError, match=message):
        make(**changes)


def test_no_images_left() -> None:
    with pytest.raises(RegardError, match="no training images"):
        make(rows=[]).from_step(0)


def test_tiny_images_are_fast() -> None:
    """A training step costs up to 1 ms per image; 1,000/s is far below what a quiet machine shows."""
    images = pictures(2000, side=32)
    batches = Batches(images, range(2000), Preprocess(32), Augment("pad"), batch_size=100, threads=1)
    list(batches.once())
    start = time.perf_counter()
    take(batches, 20)
    assert 2000 / (time.perf_counter() - start) > 1000


def several(count: int = 23) -> Images:
    """Labels (N, 4): row r has r / 100 in its first column."""
    images = pictures(count)
    labels = np.tile(np.arange(count, dtype=np.float32)[:, None] / 100, (1, 4))
    return Images(images.ids, labels, images.sources)


def test_labels_of_several_columns_come_as_they_are() -> None:
    images = several()
    (batch,) = take(make(images, mixing=None, num_classes=0), 1)
    assert batch.targets.dtype == torch.float32 and batch.targets.shape == (7, 4)
    torch.testing.assert_close(batch.targets[:, 0], torch.from_numpy(batch.rows).float() / 100)
    mixed = take(make(images, mixing=Mixing(mixup=0.8, several=True)), 1)[0]
    assert not torch.equal(mixed.targets, batch.targets)
    pairs = mixed.targets[:, 0] + mixed.targets[:, 0].flip(0)
    torch.testing.assert_close(pairs, batch.targets[:, 0] + batch.targets[:, 0].flip(0))


def test_boxes_are_mirrored_with_their_images() -> None:
    """A bright pixel in a dark image, and its place as a box."""
    places = np.random.default_rng(0).integers(0, 16, (30, 2))
    sources, labels = [], []
    for x, y in places:
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[y, x] = 255
        sources.append(pixels)
        labels.append([x / 16, y / 16, (x + 1) / 16, (y + 1) / 16])
    images = Images(tuple(f"{n}" for n in range(30)), np.array(labels, np.float32), sources)
    batches = Batches(images, range(30), Preprocess(16, 1.0, "squash"), Augment("centre"), batch_size=30, boxes=True)
    (batch,) = take(batches, 1)
    assert 5 < (batch.targets != torch.from_numpy(images.labels)[batch.rows]).any(1).sum() < 25
    for image, box in zip(batch.images, batch.targets, strict=True):
        y, x = np.unravel_index(image[0].argmax().item(), (16, 16))
        torch.testing.assert_close(box, torch.tensor([x / 16, y / 16, (x + 1) / 16, (y + 1) / 16]).float())
    with pytest.raises(RegardError, match="crop 'pad'"):
        take(Batches(images, range(30), SMALL, Augment("pad"), batch_size=30, boxes=True), 1)


def test_classes_are_drawn_equally_often() -> None:
    images = pictures(100)
    strata = np.repeat([0, 1, 2], [80, 15, 5])
    batches = make(images, mixing=None, augment=Augment("centre"), strata=strata, batch_size=50)
    for epoch in range(3):
        order = batches.order(epoch)
        assert len(order) == 100 and sorted(np.bincount(strata[order])) == [33, 33, 34]
        assert len(np.unique(order[strata[order] == 0])) >= 33  # none twice where there are enough
        assert set(np.bincount(order[strata[order] == 2], minlength=100)[95:]) <= {6, 7}
    assert list(batches.order(0)) != list(make(images, strata=strata, seed=6).order(0))
    expected = take(batches, 9)
    for step in (1, 5):
        again = make(images, mixing=None, augment=Augment("centre"), strata=strata, batch_size=50)
        assert same(expected[step:], take(again, 9 - step, step))


def test_a_rare_image_is_varied_each_time_it_comes() -> None:
    batches = make(pictures(12), mixing=None, strata=np.repeat([0, 1], [11, 1]), batch_size=12)
    (batch,) = take(batches, 1)
    views = batch.images[batch.rows == 11]
    assert len(views) == 6 and len({view.numpy().tobytes() for view in views}) == 6


def test_repeated_augmentation() -> None:
    plain, thrice = make(mixing=None, batch_size=23), make(mixing=None, batch_size=9, repeats=3)
    rows = np.concatenate([batch.rows for batch in take(thrice, 23)]).reshape(-1, 3)
    assert (rows == rows[:, :1]).all()
    assert (rows[:, 0] == np.concatenate([plain.order(epoch) for epoch in range(3)])).all()
    (batch,) = take(thrice, 1)
    assert len({view.numpy().tobytes() for view in batch.images}) == 9
    first = take(plain, 1)[0]
    assert torch.equal(batch.images[::3], first.images[:3])  # the first of each is the view without repeats
    for step in (1, 4):
        assert same(take(thrice, 6)[step:], take(make(mixing=None, batch_size=9, repeats=3), 6 - step, step))
