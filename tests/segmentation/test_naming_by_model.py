"""Names by a classifier that knows colours, and the threshold that is found on crops of photos."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from colours import BLACK, COLOURS, GREY, WHITE, scene, square

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel
from regard.inference.unknown import UnknownScore, unit
from regard.segmentation.naming import UNKNOWN
from regard.segmentation.naming_by_model import NEVER, fit_threshold, name_by_model, threshold_of

SIDE = 24
CLASSES = ("red", "green", "blue")


class Mean(nn.Module):
    """Logits of the classes: how near the mean colour is to each, whatever grey is in it."""

    def __init__(self) -> None:
        super().__init__()
        colours = torch.tensor([COLOURS[name] for name in CLASSES]) / 255 - 0.5
        self.head = nn.Linear(3, len(CLASSES), bias=False)
        self.head.weight.data = colours / colours.norm(dim=1, keepdim=True) * 40

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.mean((2, 3)) - 0.5)


def colour_model(**fields: object) -> LoadedModel:
    preprocess = Preprocess(SIDE, 1.0, "squash", "bilinear", BLACK, WHITE)
    return LoadedModel(Mean().eval(), preprocess, CLASSES, "colours", "none", "head", **fields)  # type: ignore[arg-type]


def test_each_square_gets_its_class_and_grey_none() -> None:
    pixels, masks = scene()
    named = name_by_model(colour_model(), pixels, tuple(masks.values()), threshold=0.6)
    assert [mask.name for mask in named] == ["red", "blue", "green", UNKNOWN]
    assert all(mask.score is not None and mask.score > 0.6 for mask in named[:3]) and named[3].score is None
    assert [mask.number for mask in named] == [mask.number for mask in masks.values()]


def test_the_probability_is_that_of_the_context_with_the_runs_temperature() -> None:
    """The red square and the grey around it fill the window, 60 x 60 of which 40 x 40 are red."""
    pixels, masks = scene()
    (named,) = name_by_model(colour_model(temperature=2.0), pixels, [masks["red"]])
    # The window is moved into the corner: 0..60 both ways, red from 10 to 50.
    crop = Image.fromarray(pixels[:60, :60]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    mean = (np.asarray(crop, np.float64) / 255).mean((0, 1)) - 0.5
    logits = [40 * mean @ (v := np.array(COLOURS[name]) / 255 - 0.5) / np.linalg.norm(v) / 2 for name in CLASSES]
    odds = np.exp(np.array(logits) - max(logits))
    assert named.name == "red" and named.score == pytest.approx(odds[0] / odds.sum(), rel=0.01)


def test_without_a_threshold_that_of_whole_photos_counts() -> None:
    pixels, masks = scene()
    (score,) = [mask.score for mask in name_by_model(colour_model(), pixels, [masks["green"]])]
    assert score is not None and score < 1
    for below, name in ((score - 0.001, "green"), (score + 0.0001, UNKNOWN)):
        (named,) = name_by_model(colour_model(unsure_below=below), pixels, [masks["green"]])
        assert named.name == name


def test_an_empty_mask_is_unknown_and_none_are_none() -> None:
    pixels, masks = scene()
    named = name_by_model(colour_model(), pixels, [square(9, (0, 0, 0, 0), 120, 160), masks["red"]])
    assert [(mask.number, mask.name) for mask in named] == [(9, UNKNOWN), (1, "red")]
    assert name_by_model(colour_model(), pixels, []) == ()


@pytest.mark.parametrize(("problem", "words"), [("multi_label", "several labels"), ("regression", "numbers")])
def test_a_model_that_does_not_give_one_class_is_refused(problem: str, words: str) -> None:
    pixels, masks = scene()
    with pytest.raises(RegardError, match=f"colours: answers with {words}; masks are named by a model of one class"):
        name_by_model(colour_model(problem=problem), pixels, [masks["red"]])


def by_trying(confidence: np.ndarray, right: np.ndarray, allowed: float) -> float:
    """The lowest of the confidences at which names are wrong no more often than allowed, and 5% are not named."""
    good = [
        value
        for value in np.unique(confidence)
        if value >= np.quantile(confidence, 0.05)
        and (~right[confidence >= value]).sum() <= allowed * (confidence >= value).sum()
    ]
    return float(min(good)) if good else NEVER


def test_the_threshold_is_the_lowest_that_will_do() -> None:
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(50):
        confidence = rng.integers(0, 20, 30) / 20  # with ties
        right = rng.random(30) < confidence
        for allowed in (0.0, 0.1, 0.3):
            threshold = threshold_of(confidence, right, allowed)
            assert threshold.value == by_trying(confidence, right, allowed)
            named = confidence >= threshold.value
            assert threshold.named == named.mean() and threshold.crops == 30
            assert threshold.wrong == ((~right)[named].mean() if named.any() else 0) <= allowed + 1e-12
            found.add(threshold.value)
    assert NEVER in found and len(found) > 5


def test_a_model_that_is_always_right_is_unsure_of_some_all_the_same() -> None:
    threshold = threshold_of(np.arange(1, 101) / 100, np.ones(100, bool), 0.0)
    assert threshold.value == 0.06 and threshold.named == 0.95 and threshold.wrong == 0


def photo(colour: tuple[int, int, int], side: int = 64) -> np.ndarray:
    """A square of colour in the middle of grey."""
    pixels = np.full((side, side + 20, 3), GREY, np.uint8)
    pixels[side // 4 : -side // 4, side // 4 : -side // 4] = colour
    return pixels


def test_photos_that_mislead_raise_the_threshold(tmp_path: Path) -> None:
    """Pale photos are called by the wrong name: no name is given where crops look as unsure as those do."""
    pale = tuple((3 * GREY[0] + part) // 4 for part in COLOURS["green"])
    good = [photo(COLOURS[name]) for name in CLASSES for _ in range(4)]
    bad = [photo(pale) for _ in range(4)]  # type: ignore[arg-type]
    (tmp_path / "broken.png").write_bytes(b"")
    labels = np.array([number for number in range(3) for _ in range(4)] + [0] * 4 + [1])
    loaded = colour_model()
    found = fit_threshold(loaded, [*good, *bad, tmp_path / "broken.png"], labels, allowed=0.0)
    assert found is not None and found.crops == 32 and found.named == pytest.approx(24 / 32) and found.wrong == 0
    assert found == fit_threshold(loaded, [*good, *bad], labels[:-1], allowed=0.0)  # the same crops each time
    easy = fit_threshold(loaded, good, labels[:12], allowed=0.0)
    assert easy is not None and easy.wrong == 0 and easy.named > 0.9 and easy.value >= found.value > 0.5
    hopeless = fit_threshold(loaded, bad, labels[12:16], allowed=0.0)
    assert hopeless is not None and hopeless.value == NEVER and hopeless.named == 0
    assert fit_threshold(loaded, [tmp_path / "broken.png"], labels[-1:], 0.05) is None


def test_what_the_model_does_not_know_gets_no_name() -> None:
    """Features are the mean colour: the bank has the classes' own, and yellow is far from all of them."""
    loaded = colour_model()
    photos = [photo(COLOURS[name]) for name in CLASSES for _ in range(6)]
    labels = np.array([number for number in range(3) for _ in range(6)])
    features = [loaded.preprocess(one).mean((1, 2)).numpy() - 0.5 for one in photos]
    score = UnknownScore("distance", -9.0, unit(np.stack(features)))
    found = fit_threshold(loaded, photos, labels, 0.0, score)
    assert found is not None and found.unknown is not None and found.unknown.threshold > -0.5
    assert found.unknown.bank is score.bank
    pixels, masks = scene()
    pixels[80:104, 20:44] = COLOURS["yellow"]  # where green was
    given = (masks["red"], masks["green"])
    assert all(mask.name in CLASSES for mask in name_by_model(loaded, pixels, given, 0.5))
    named = name_by_model(loaded, pixels, given, 0.5, found.unknown)
    assert [(mask.name, mask.score is None) for mask in named] == [("red", False), (UNKNOWN, True)]
