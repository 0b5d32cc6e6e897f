"""What equal compute buys, which test images a teacher knows, and what one seed may say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regard.comparison.compare import Candidate, verdicts
from regard.comparison.students import affordable, known_to, of_one_seed
from regard.data.contents import contents, write_contents
from regard.data.sources import ImageSet
from regard.data.splits import Split, write_split
from regard.data.transforms import Preprocess
from regard.inference.loaded import LoadedModel
from regard.results import Cost, Predictions, RunResult
from regard.runs.run import Run
from regard.training.recipe import Recipe


def test_equal_compute_is_the_students_share_and_all_of_the_teachers() -> None:
    # 1,000 images by a student of 0.5 GMACs (three passes) with a teacher of 2 GMACs beside it.
    cost = Cost(1, gmacs=0.5, train_flops=2e9 * (3 * 0.5 + 2) * 1000)
    assert affordable(cost, Recipe(method="scratch"), 0.0) == round(1000 * 3.5 / 1.5)
    assert affordable(cost, Recipe(method="scratch"), 2e9 * 2 * 300) == round((1000 * 3.5 + 600) / 1.5)
    lora = Cost(1, gmacs=0.5, train_flops=2e9 * (2 * 0.5 + 2) * 1000)
    assert affordable(lora, Recipe(method="lora"), 0.0) == 3000


def images_of(ids: tuple[str, ...], first: int, name: str = "made") -> ImageSet:
    pixels = [np.full((4, 4, 3), first + number, np.uint8) for number in range(len(ids))]
    return ImageSet(name, ids, np.zeros(len(ids), np.int64), ("a",), ("",) * len(ids), list(pixels))


@pytest.mark.parametrize("name", ["made", "torchvision:CIFAR10"])
def test_images_are_known_by_their_contents_or_of_published_sets_by_their_ids(name: str, tmp_path: Path) -> None:
    run, old = Run.create(tmp_path / "run"), images_of(tuple("abcdef"), 0, name)
    write_split(run.split_path, old, Split(np.array([0, 1, 2]), np.array([3]), np.array([4, 5]), ()))
    write_contents(run.contents_path, contents(old, range(6)))
    run.write_config({"data": name})
    teacher = LoadedModel(None, Preprocess(4), ("a",), "t", "", source={"model": str(run.folder)})  # pyright: ignore[reportArgumentType]
    now = images_of(tuple("pqrdst"), 2, name)  # the pixels of c, d, e, f and two new ones
    rows = np.array([0, 1, 2, 3])
    assert known_to(teacher, now, rows).tolist() == []  # an unfinished run has taught nobody
    run.write_result({}, Cost(1))
    assert known_to(teacher, now, rows).tolist() == ([0, 1] if name == "made" else [3])
    assert known_to(replace(teacher, source={}), now, rows).tolist() == []


def candidate(method: str, right: np.ndarray) -> Candidate:
    logits = np.where(right[:, None], [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)
    ids = tuple(map(str, range(len(right))))
    test = Predictions(ids, logits, np.zeros(len(right), np.int64), ("a", "b"))
    run = RunResult("net", method, 0, 1.0, 0, 0, test, test, 1.0, 0.0, Cost(1), "")
    return Candidate(f"net ({method})", "net", method, (run,))


def test_one_seed_gives_differences_over_photos_and_no_verdict() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(400) < 0.9, rng.random(400) < 0.8
    both = [candidate("distilled", ours), candidate("alone on equal images", theirs)]
    judged = verdicts(both, 0.01)
    assert [one.outcome for one in judged] == ["undecided"]
    text = of_one_seed(both, judged)
    difference = ours.astype(float) - theirs
    half = 1.96 * difference.std(ddof=1) / 20
    for part in (
        "one seed never yields a verdict",
        f"distilled {100 * difference.mean():+.1f} points ({100 * (difference.mean() - half):+.1f} to "
        f"{100 * (difference.mean() + half):+.1f}, McNemar p ",
        "against alone on equal images",
    ):
        assert part in text.replace("−", "-")
