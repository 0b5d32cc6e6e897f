"""`explain --score`: verdicts, how often they err, and what is written."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.explanation.faithfulness import faithfulness
from regard.explanation.method import Method, Passes
from regard.inference.loaded import LoadedModel, load_model
from regard.reporting.pictures.picture import LANGUAGES, captions
from regard.verbs.explaining.score import judge, score_methods, spread
from regard.verbs.explaining.score_table import Judged, ScoreTable

SIZE = 16


class Corner(nn.Sequential):
    """Three classes, one for each colour, told apart in a corner of the image."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3))
        weight = torch.zeros(3, 3, SIZE, SIZE)
        weight[:, :, 1:7, 9:15] = (4 * torch.eye(3) - 1)[:, :, None, None] / 36
        with torch.no_grad():
            self[1].weight.copy_(weight.flatten(1))
            self[1].bias.zero_()


def method_of(name: str, explain, of_class: bool = True) -> Method:
    return Method(name, explain, of_class, lambda model, images: Passes(1, 1))


def gradient(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Gradient times image."""
    images = images.clone().requires_grad_()
    logits = model(images).gather(1, classes[:, None]).sum()
    return (torch.autograd.grad(logits, images)[0] * images.detach()).sum(1)


def corner(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    place = torch.zeros(len(images), SIZE, SIZE)
    place[:, 1:7, 9:15] = 1
    return place


def noise(seed: int) -> Method:
    generator = torch.Generator().manual_seed(seed)
    return method_of("noise", lambda model, images, classes: torch.rand(len(images), 4, 4, generator=generator), False)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(Corner(), preprocess=Preprocess(SIZE, 1.0, "squash"), classes=("red", "green", "blue"))


def photos(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Images with a corner of one colour, and the number of that colour."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (count, SIZE, SIZE, 3)).astype(np.uint8)
    classes = rng.integers(3, size=count)
    for image, klass in zip(images, classes, strict=True):
        image[1:7, 9:15, klass] += rng.integers(80, 130, dtype=np.uint8)
    return list(images), classes


# Verdicts ---------------------------------------------------------------------------------------------------------


def scores_of(*shifts: float, centre: float = 0.0, images: int = 40, seed: int = 0) -> np.ndarray:
    """(M + 2, N): methods with these means and standard deviation 1, a random map of 0, a centre map."""
    noises = np.random.default_rng(seed).normal(size=(len(shifts) + 1, images))
    noises -= noises.mean(axis=1, keepdims=True)
    noises /= noises.std(axis=1, ddof=1, keepdims=True)
    *methods, middle = noises + np.array([*shifts, centre])[:, None]
    return np.stack([*methods, np.zeros(images), middle])


def test_the_four_outcomes() -> None:
    found = judge(scores_of(2.0, 0.9, 0.05, -1.0, centre=1.0))
    assert [one.outcome for one in found] == [
        "better than random and centre",
        "no better than a centre map",
        "no better than random",
        "no better than random",
    ]
    assert found[0].random is not None
    assert found[0].random.mean == pytest.approx(2)
    assert found[0].random.low < 2 < found[0].random.high


def test_a_difference_that_only_the_correction_takes_away_is_undecided() -> None:
    shift = 0.36  # t = 2.28 on 39 degrees of freedom, p = 0.03
    alone, *_ = judge(scores_of(shift, centre=-3.0))
    assert alone.outcome == "better than random and centre"
    of_six = judge(scores_of(shift, *[0.0] * 5, centre=-3.0))
    assert of_six[0].outcome == "undecided"
    assert of_six[0].random is not None
    assert of_six[0].random.p_value == pytest.approx(6 * alone.random.p_value)  # type: ignore[union-attr]
    assert [one.outcome for one in of_six[1:]] == ["no better than random"] * 5


def test_few_images_decide_nothing() -> None:
    scores = scores_of(50.0, images=5)
    assert judge(scores)[0].outcome == "undecided"
    assert judge(scores[:, :1]) == [Judged(None, None, "undecided")]


def test_fewer_than_twenty_images_do_not_show_that_there_is_nothing() -> None:
    found = judge(scores_of(0.1, -3.0, 3.0, centre=-9.0, images=12))
    assert [one.outcome for one in found] == ["undecided", "no better than random", "better than random and centre"]


def false_alarms(repetitions: int) -> tuple[int, int]:
    """(found different from random, not flagged) of a method of pure noise, in so many sets of 12 images."""
    different = trusted = 0
    for number in range(repetitions):
        torch.manual_seed(number)
        model = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(147, 3)).eval()
        images = torch.randn(12, 3, SIZE, SIZE) * (1 + torch.rand(12, 1, 1, 1)) + torch.randn(12, 3, 1, 1)
        classes = torch.randint(3, (12,))
        (found,) = judge(faithfulness(model, [noise(number)], images, classes, seed=number).scores())
        assert found.random is not None
        different += found.random.p_value < 0.05
        trusted += found.outcome == "better than random and centre"
    return different, trusted


def test_a_random_method_is_flagged() -> None:
    different, trusted = false_alarms(20)
    assert different <= 4
    assert trusted <= 2


@pytest.mark.long
def test_a_random_method_is_found_different_in_one_set_of_twenty() -> None:
    different, trusted = false_alarms(200)
    assert 2 <= different <= 19  # 10 expected; outside with a chance of 1%
    assert trusted <= 10


# The whole --------------------------------------------------------------------------------------------------------


def test_a_table_with_files(loaded: LoadedModel, tmp_path: Path) -> None:
    images, classes = photos(24)
    methods = [
        method_of("gradient", gradient),
        method_of("corner", corner, of_class=False),
        method_of("elsewhere", lambda model, images, classes: -corner(model, images, classes), of_class=False),
        noise(0),
    ]
    events: list[dict] = []
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    table = score_methods(loaded, methods, images, classes, out=tmp_path, most=20, on_event=events.append)
    assert all((value == before[name]).all() for name, value in loaded.model.state_dict().items())

    assert (table.images, table.of, table.steps, table.cells) == (20, 24, 14, (16, 16))
    rows = {row.name: row for row in table.rows}
    assert list(rows) == ["gradient", "corner", "elsewhere", "noise", "random", "centre"]
    outcomes = {name: row.judged.outcome for name, row in rows.items() if row.judged}
    assert outcomes == {
        "gradient": "better than random and centre",
        "corner": "better than random and centre",
        "elsewhere": "no better than random",
        "noise": "no better than random",
    }
    # The corner's place is faithful here, and yet it is the same map whatever the weights are.
    assert {name: row.flagged for name, row in rows.items()} == {
        "gradient": False, "corner": True, "elsewhere": True, "noise": True, "random": False, "centre": False,
    }  # fmt: skip
    assert rows["corner"].passes is False
    assert rows["gradient"].changes is True
    assert rows["corner"].other_class is None
    assert rows["random"].deletion == pytest.approx(rows["random"].insertion)
    assert table.stages == ("all layers",)

    lines = list(table.lines())
    assert lines[0] == f"Corner: maps scored on 20 of 24 images, 16x16 cells in 14 steps, {table.precision}"
    flagged = next(line for line in lines if line.startswith("FLAGGED"))
    assert "elsewhere (no better than random" in flagged
    assert "corner (much the same map with shuffled weights)" in flagged
    assert "gradient" not in flagged
    assert any("class-blind by definition" in line for line in lines)
    assert lines[-1].endswith("they do not compare models.")

    texts = [event["text"] for event in events if event["event"] == "note"]
    assert "4 methods, a random and a centre map on 20 of 24 images, spread evenly: 6,300 forward passes" in texts[0]
    assert "(measured on the second image)" in texts[1]
    assert [event["done"] for event in events if event["event"] == "progress"] == list(range(1, 21))

    with (tmp_path / "score.csv").open(newline="") as file:
        written = {row["method"]: row for row in csv.DictReader(file)}
    assert written["noise"]["outcome"] == "no better than random"
    assert written["centre"]["above_random"] == ""
    assert float(written["gradient"]["above_centre_low"]) > 0
    assert float(written["corner"]["deletion_blur"]) == pytest.approx(rows["corner"].deletion["blur"], rel=1e-4)
    saved = json.loads((tmp_path / "score.json").read_text())
    assert saved["rows"][0]["judged"]["random"]["p_value"] < 0.05
    areas = np.array(saved["areas"]["gradient"])
    assert areas.shape == (20, 2, 2)
    np.testing.assert_allclose(areas.mean(0)[1], list(rows["gradient"].insertion.values()))
    assert len(saved["ids"]) == len(saved["classes"]) == 20
    assert "Can the maps be trusted?" in (tmp_path / "faithfulness.svg").read_text()
    points = (tmp_path / "faithfulness.csv").read_text().splitlines()
    assert len(points) == 1 + 6 * 2 * 2 * 15


def test_one_image_is_measured_and_nothing_decided(table: ScoreTable) -> None:
    assert table.rows[0].judged is not None
    assert table.rows[0].judged.outcome == "undecided"
    assert next(table.lines()).startswith("Corner: maps scored on 1 image,")


def test_labels_of_their_own_are_read_by_their_own_logits(loaded: LoadedModel) -> None:
    images, classes = photos(3)
    several = replace(loaded, problem="multi_label", thresholds=(0.5,) * 3)
    table = score_methods(several, [method_of("corner", corner)], images, classes, precision="fp32")
    pairs = zip(images, classes, strict=True)
    whole = [loaded.model(loaded.preprocess(image)[None])[0, klass].item() for image, klass in pairs]
    assert table.picture.curves[0, 0, 0, 0] == pytest.approx(np.mean(whole), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "methods", "count", "words"),
    [
        ({"problem": "regression"}, 1, 2, "answers with numbers, and deletion and insertion are defined for classes"),
        ({}, 0, 2, "no method given"),
        ({}, 1, 0, "no image given"),
    ],
)
def test_what_cannot_be_scored(loaded: LoadedModel, change: dict, methods: int, count: int, words: str) -> None:
    images, classes = photos(count)
    with pytest.raises(RegardError, match=words):
        score_methods(replace(loaded, **change), [method_of("corner", corner)] * methods, images, classes)


def test_images_are_spread_evenly() -> None:
    assert spread(3, 50).tolist() == [0, 1, 2]
    assert spread(100, 5).tolist() == [0, 25, 50, 74, 99]
    assert len(spread(51, 50)) == 50


@pytest.fixture(scope="module")
def table(loaded: LoadedModel) -> ScoreTable:
    images, classes = photos(1)
    return score_methods(loaded, [method_of("gradient", gradient)], images, classes)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_figure_speaks_every_language(table: ScoreTable, lang) -> None:
    words = captions("faithfulness", lang)
    assert words.keys() == captions("faithfulness", "en").keys()
    svg = table.picture.svg(lang)
    for key in ("title", "removed", "revealed", "log_odds", "score", "random", "centre"):
        assert words[key].split("{")[0] in svg
