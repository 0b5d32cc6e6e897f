"""`--labels-from` and `--label-with`: a run that was trained on shapes of colour names masks of such shapes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import regard
from regard.errors import RegardError
from regard.inference.loaded import fresh_model, load_model
from regard.masks import Mask, RunLengths
from regard.segmentation.naming import UNKNOWN
from regard.verbs.segmenting.names import model_namer, names_of

COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30)}


def test_names_between_commas() -> None:
    assert names_of("dog, a  black cat ,boat") == ("dog", "a black cat", "boat")
    assert names_of("dog") == ("dog",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels-from '': an empty name; expected names between commas"),
        ("dog,,cat", "labels-from 'dog,,cat': an empty name"),
        ("dog,cat, dog", "labels-from: 'dog' is given twice"),
    ],
)
def test_names_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(RegardError, match=message):
        names_of(text)


def picture(draw: np.random.Generator, colours: list[tuple[int, int, int]]) -> tuple[np.ndarray, list[Mask]]:
    """(80, 80 n, 3) grey with noise, and in each square part a disc of a colour, with the mask of each."""
    pixels = draw.integers(100, 156, (80, 80 * len(colours), 3)).astype(np.uint8)
    rows, columns = np.ogrid[:80, : pixels.shape[1]]
    masks = []
    for number, colour in enumerate(colours):
        x, y, radius = 80 * number + draw.integers(36, 44), draw.integers(36, 44), draw.integers(22, 30)
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        pixels[disc] = np.clip(np.array(colour) + draw.integers(-20, 21, 3), 0, 255)
        masks.append(Mask(number + 1, RunLengths.of(disc), 0.9))
    return pixels, masks


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twenty photos a colour, and a run: a linear head on what an untrained network sees."""
    folder = tmp_path_factory.mktemp("colours")
    draw = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(picture(draw, [colour])[0]).save(folder / "photos" / name / f"{number:02d}.png")
    torch.manual_seed(0)
    model = fresh_model("resnet20_32", tuple(COLOURS))
    return folder / "photos", regard.train(folder / "photos", model=model, out=folder / "run", precision="fp32").folder


def test_a_run_names_the_masks_of_another_picture(trained: tuple[Path, Path]) -> None:
    _, run = trained
    said: list[dict[str, Any]] = []
    namer = model_namer(run, said.append)
    assert namer.names == tuple(COLOURS)
    assert 0 < namer.threshold < 1
    words = [event["text"] for event in said if event["event"] == "note"]
    assert words[-2].endswith("looking at crops of 9 of its validation photos")
    assert "of 18 crops of its validation photos" in words[-1] and "of whole photos" in words[-1]
    colours = [*COLOURS] * 8
    pixels, masks = picture(np.random.default_rng(1), [COLOURS[name] for name in colours])
    named = namer.name(pixels, masks)
    assert all(mask.name in (colour, UNKNOWN) for mask, colour in zip(named, colours, strict=True))
    assert sum(mask.name != UNKNOWN for mask in named) > 0.8 * len(named)
    assert all(mask.score is None or mask.score >= namer.threshold for mask in named)


def test_without_its_photos_a_run_goes_by_its_own_threshold(trained: tuple[Path, Path], tmp_path: Path) -> None:
    photos, run = trained
    said: list[dict[str, Any]] = []
    moved = tmp_path / "moved"
    shutil.move(photos, moved)
    try:
        namer = model_namer(run, said.append)
    finally:
        shutil.move(moved, photos)
    assert namer.threshold == namer.loaded.unsure_below > 0
    assert "which was found on whole photos: its validation photos cannot be had" in said[-1]["text"]


def test_a_model_that_is_no_run_goes_by_its_own_threshold(trained: tuple[Path, Path]) -> None:
    said: list[dict[str, Any]] = []
    loaded = load_model(trained[1])
    loaded.unsure_below = 0.4
    assert model_namer(loaded, said.append).threshold == 0.4
    assert said[-1]["text"].endswith("it is no run, so it has no validation photos to make crops of")
