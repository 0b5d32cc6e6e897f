"""Unknown photos end to end: red and blue are known, green is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.data.sources import ImageSet
from regard.data.splits import Split, split_images
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model
from regard.inference.unknown import UnknownScore
from regard.runs.run import Run
from regard.training.recipe import Recipe
from regard.training.run import train_run
from regard.training.unknown import fit_unknown

Trained = tuple[Path, LoadedModel, ImageSet, Split]


def photo(rng: np.random.Generator, channel: int) -> np.ndarray:
    pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
    pixels[..., channel] += 190
    return pixels


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    images = ImageSet(
        "squares", tuple(f"{row}.png" for row in range(120)), labels, ("blue", "red"), ("",) * 120,
        [photo(rng, 2 - 2 * label) for label in labels],
    )  # fmt: skip
    split = split_images(images, 0)
    recipe = Recipe(method="scratch", steps=4, batch_size=16, evaluations=1, crop="centre", precision="fp32")
    loaded = fresh_model("resnet20_32", images.classes, 16)
    run = train_run(Run.create(tmp_path_factory.mktemp("run") / "a"), images, split, loaded, recipe)
    return run.folder, loaded, images, split


def strangers(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(1)
    folder.mkdir()
    for number in range(count):
        Image.fromarray(photo(rng, 1)).save(folder / f"{number}.png")
    return folder


def test_green_is_told_from_red_and_blue(trained: Trained, tmp_path: Path) -> None:
    folder, loaded, images, split = trained
    unknown = strangers(tmp_path / "green", 21)
    (unknown / "broken.png").write_bytes(b"no photo")
    said: list[str] = []
    found = fit_unknown(folder, loaded, images, split, unknown, lambda event: said.append(str(event.get("text"))))
    facts = json.loads((folder / "unknown.json").read_text())
    assert any("broken.png" in line for line in said)
    assert (facts["known"], facts["unknown"]) == (len(split.test), 11), "21 readable: 10 choose, 11 judge"
    value, low, high = facts["auroc"]
    assert value > 0.9 and low <= value <= high
    assert facts["fpr95"][0] < 0.5
    assert facts["scores"].keys() == {"distance", "probability"}
    assert facts["scores"][facts["score"]]["auroc"] == facts["auroc"]
    histogram = facts["histogram"]
    assert (sum(histogram["known"]), sum(histogram["unknown"])) == (facts["known"], facts["unknown"])
    assert len(histogram["edges"]) == len(histogram["known"]) + 1
    again = UnknownScore.load(folder)
    assert again is not None and again.threshold == found.threshold == facts["threshold"]
    assert again.bank.shape == (len(split.train), 64)


def test_the_threshold_lets_95_percent_of_the_validation_photos_pass(trained: Trained, tmp_path: Path) -> None:
    folder, loaded, images, split = trained
    found = fit_unknown(folder, loaded, images, split, strangers(tmp_path / "green", 6))
    pixels = [images.sources[row] for row in split.val]
    said = loaded.predict(pixels)
    scores = found.score(loaded.embed(pixels), said.probabilities(loaded.temperature))
    assert np.mean(scores >= found.threshold - 1e-6) >= 0.95
    assert (scores <= found.threshold + 1e-6).sum() >= 1


def test_too_few_unknown_photos_are_refused(trained: Trained, tmp_path: Path) -> None:
    folder, loaded, images, split = trained
    with pytest.raises(RegardError, match=r"3 readable photos; --unknown needs 4 or more"):
        fit_unknown(folder, loaded, images, split, strangers(tmp_path / "green", 3))
