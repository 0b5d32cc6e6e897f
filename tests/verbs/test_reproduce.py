"""`reproduce` on a few small images: the same bits, another seed within its noise, and what has changed by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import regard
from regard.cli.main import main
from regard.comparison.classical import Reference
from regard.comparison.reproduction import changed, first_difference, judge
from regard.data.sources import open_images
from regard.data.splits import split_images
from regard.errors import RegardError
from regard.results import Cost, Predictions, RunResult
from regard.runs.run import Run

SHORT = {"method": "scratch", "img_size": 16, "images_seen": 64, "batch_size": 16, "evaluations": 2}


def noise(root: Path, number: int, channel: int, name: str) -> None:
    pixels = np.random.default_rng(number).integers(0, 120, (20, 20, 3), dtype=np.uint8)
    pixels[..., channel] += 120
    Image.fromarray(pixels).save(root / name / f"{number}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 20 images of 20 pixels: red and blue noise."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for channel, name in ((0, "red"), (2, "blue")):
        (root / name).mkdir(parents=True)
        for number in range(20):
            noise(root, 20 * channel + number, channel, name)
    return root


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    return regard.train(photos, model="resnet20_32", out=folder, **SHORT).folder


def test_the_same_machine_gives_the_same_bits(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", str(trained)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("same: ") and "weights equal" in said
    assert (trained.parent / "a-reproduced" / "result.json").is_file()
    with pytest.raises(RegardError, match="already exists"):
        regard.reproduce(trained)


def test_a_solved_head_is_solved_again_from_the_weights_that_it_began_with(
    photos: Path, trained: Path, tmp_path: Path
) -> None:
    run = regard.train(photos, model=str(trained), method="head", out=tmp_path / "head")
    assert run.config["source"] == {"data": str(photos), "model": str(trained), "weights": None}
    found = regard.reproduce(tmp_path / "head", out=tmp_path / "again")
    assert (found.outcome, found.equal_weights, found.out) == ("same", True, tmp_path / "again")


def test_the_row_without_a_network_is_done_again(photos: Path, tmp_path: Path) -> None:
    images = open_images(photos)
    Reference(images).run(Run.create(tmp_path / "hog"), split_images(images, 0), 0, 1.0, None)
    found = regard.reproduce(tmp_path / "hog")
    assert (found.outcome, found.equal_weights, found.differences) == ("same", True, ())


def test_changed_photos_and_versions_are_named(photos: Path, trained: Path, tmp_path: Path) -> None:
    moved, run = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(photos, moved)
    shutil.copytree(trained, run)
    noise(moved, 999, 0, "red")  # a new photo is none of the run's business
    changed_photo = moved / "red" / "3.png"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(changed_photo)
    environment = json.loads((run / "environment.json").read_text())
    environment["packages"]["torch"] = "1.0"
    (run / "environment.json").write_text(json.dumps(environment))
    found = regard.reproduce(run, data=moved)
    assert any("1 of 40 photos are not what they were: red/3.png" in line for line in found.differences)
    assert any(line.startswith("environment: packages torch: 1.0 -> ") for line in found.differences)
    assert found.outcome != "same"


def test_a_missing_photo_or_folder_is_an_error_that_trains_nothing(photos: Path, trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    (moved / "red" / "3.png").unlink()
    with pytest.raises(RegardError, match=r"1 of its 40 images are not in moved \(first: red/3\.png\)"):
        regard.reproduce(trained, data=moved, out=tmp_path / "b")
    with pytest.raises(RegardError, match="no such folder"):
        regard.reproduce(trained, data=tmp_path / "gone", out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_run_of_an_older_release_asks_for_its_images(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["source"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(RegardError, match="--data"):
        regard.reproduce(run)


# --- the rule -----------------------------------------------------------------------------------------------


def result(right: np.ndarray, seed: int = 0) -> RunResult:
    """A run that names these photos rightly."""
    labels = np.zeros(len(right), np.int64)
    logits = np.where(right[:, None], [2.0, 0.0], [0.0, 2.0]).astype(np.float32)
    said = Predictions(tuple(map(str, range(len(right)))), logits, labels, ("a", "b"))
    return RunResult("m", "scratch", seed, 1.0, 9, 9, said, said, 1.0, 0.0, Cost(1), "none")


def share(right: int, of: int = 200) -> np.ndarray:
    return np.arange(of) < right


def test_equal_answers_are_the_same() -> None:
    assert judge(result(share(150)), result(share(150)), []).outcome == "same"


def test_without_siblings_the_flipped_photos_decide() -> None:
    before = result(share(150))
    # McNemar, exact: 5 lost against 0 won has p = 2 / 2^5 = 0.0625, 6 against 0 has 2 / 2^6 = 0.031.
    assert judge(before, result(share(145)), []).outcome == "within noise"
    found = judge(before, result(share(144)), [])
    assert (found.outcome, found.before, found.after) == ("different", 0.75, 0.72)
    assert "6 test photos turned wrong and 0 right: McNemar p = 0.031" in found.rule


def test_siblings_set_the_floor() -> None:
    before, siblings = result(share(150)), [result(share(152), 1), result(share(148), 2)]
    # Of 0.75, 0.76, 0.74 s = 0.01; t(0.975; 2) = 4.303; times sqrt(2): 0.0608.
    assert judge(before, result(share(138)), siblings).outcome == "within noise"
    found = judge(before, result(share(137)), siblings)
    assert found.outcome == "different"
    assert "3 seeds of this recipe: two runs of it differ by up to 0.0608 in top1" in found.rule


def test_numbers_are_judged_by_a_paired_test() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(60, 1)).astype(np.float32)

    def answers(offset: float) -> RunResult:
        logits = labels + np.float32(offset) + rng.normal(0, 0.1, labels.shape).astype(np.float32)
        said = Predictions(tuple(map(str, range(60))), logits, labels, ("x",), "regression")
        return RunResult("m", "scratch", 0, 1.0, 9, 9, said, said, 1.0, 0.0, Cost(1), "none")

    assert judge(answers(0), answers(0), []).outcome == "within noise"
    assert judge(answers(0), answers(0.5), []).outcome == "different"


def test_the_first_differing_evaluation_is_found_and_times_are_not_compared() -> None:
    rows = [{"step": step, "val/top1": 0.5, "seconds": 1.0} for step in (10, 20, 30)]
    assert first_difference(rows, [{**row, "seconds": 2.0} for row in rows]) == ""
    other = [*rows[:1], {**rows[1], "val/top1": 0.6}, rows[2]]
    assert first_difference(rows, other) == "from step 20 on: val/top1 was 0.5, is 0.6"
    assert first_difference(rows, rows[:2]) == "3 evaluations then, 2 now"


def test_nested_changes_are_named() -> None:
    before = {"python": "3.11", "packages": {"torch": "2.14", "numpy": "2"}, "cpu": "x"}
    after = {"python": "3.11", "packages": {"torch": "2.15", "numpy": "2"}, "cpu": "y"}
    assert changed(before, after) == ["packages torch: 2.14 -> 2.15", "cpu: x -> y"]
