"""Names by text where the answers are known: a stand-in for CLIP that knows colours, and squares of colour."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from colours import COLOURS, colour_clip, scene, square

from regard.errors import RegardError
from regard.segmentation.naming import (
    FITS,
    MARGIN,
    SENTENCES,
    UNKNOWN,
    TextScorer,
    crop_vectors,
    name_by_text,
    rank_by_text,
    with_article,
)


def test_each_square_gets_the_name_of_its_colour_and_nothing_gets_none() -> None:
    pixels, masks = scene()
    named = name_by_text(colour_clip(), pixels, tuple(masks.values()), list(COLOURS))
    assert [mask.name for mask in named] == ["red", "blue", "green", UNKNOWN]
    assert all(mask.score is not None and 0.9 < mask.score <= 1 for mask in named[:3]) and named[3].score is None
    for before, after in zip(masks.values(), named, strict=True):
        assert after.runs is before.runs and after.number == before.number and after.predicted_iou == 0.9


def test_a_name_that_was_not_offered_is_not_guessed() -> None:
    pixels, masks = scene()
    named = name_by_text(colour_clip(), pixels, tuple(masks.values()), ["yellow", "green"])
    assert [mask.name for mask in named] == [UNKNOWN, UNKNOWN, "green", UNKNOWN]


@pytest.mark.parametrize(
    ("scale", "share", "expected"), [(4.0, 0.5, UNKNOWN), (2.0, 0.525, UNKNOWN), (4.0, 0.525, "red")]
)
def test_between_two_names_as_likely_there_is_none(scale: float, share: float, expected: str) -> None:
    """Red and blue in one mask: red is its name where it is ahead by the margin."""
    clip = colour_clip(scale)
    pixels = np.full((60, 60, 3), 128, np.uint8)
    mask = square(1, (10, 10, 50, 50), 60, 60)
    border = 10 + round(40 * share)
    pixels[10:50, 10:border], pixels[10:50, border:50] = COLOURS["red"], COLOURS["blue"]
    scorer = TextScorer(clip, ["red", "blue"], backgrounds=["nothing"])
    red, blue, background = scorer.probabilities(crop_vectors(clip, pixels, [mask]))[0]
    assert red >= blue > background and (red - blue >= MARGIN) == (expected == "red")
    (named,) = scorer.name(pixels, [mask])
    assert named.name == expected


def test_what_lies_around_the_mask_is_told_from_it() -> None:
    """A red square before a striped wall of blue and yellow: blurred, the wall is neither."""
    pixels = np.zeros((120, 120, 3), np.uint8)
    pixels[:, ::2], pixels[:, 1::2] = COLOURS["blue"], COLOURS["yellow"]
    pixels[50:71, 50:71] = COLOURS["red"]
    mask = square(1, (50, 50, 71, 71), 120, 120)  # its window is 32 x 32, as large as the input
    context, marked = crop_vectors(colour_clip(), pixels, [mask])[0]
    assert marked[0] > context[0] + 0.1
    (named,) = name_by_text(colour_clip(), pixels, [mask], ["red", "blue", "yellow"])
    assert named.name == "red"


def test_probabilities_are_the_softmax_of_mean_cosines() -> None:
    clip = colour_clip()
    scorer = TextScorer(clip, ["red", "blue"], backgrounds=["grey", "green"])
    torch.manual_seed(0)
    crops = torch.nn.functional.normalize(torch.rand(3, 2, 5), dim=-1)
    found = scorer.probabilities(crops)
    for row, (first, second) in enumerate(crops.double().numpy()):
        cosines = [(first[place] + second[place]) / 2 for place in (0, 2, 4, 1)]  # red, blue, grey, green
        odds = np.exp(20.0 * np.array(cosines))
        shares = odds / odds.sum()
        np.testing.assert_allclose(found[row], [shares[0], shares[1], shares[2] + shares[3]], rtol=1e-5)


def test_ranking_by_a_text() -> None:
    pixels, masks = scene()
    ranking = rank_by_text(colour_clip(), pixels, tuple(masks.values()), "  the  blue one ")
    (best,) = ranking.fitting
    assert best.number == masks["blue"].number and best.name == "the blue one"
    assert best.score == ranking.best and ranking.best >= FITS
    assert len(ranking.others) == 3 and {mask.name for mask in ranking.others} == {UNKNOWN}
    nowhere = rank_by_text(colour_clip(), pixels, tuple(masks.values()), "yellow")
    assert nowhere.fitting == () and nowhere.best < FITS and len(nowhere.others) == 4
    assert rank_by_text(colour_clip(), pixels, (), "yellow") == ((), (), 0.0)


def test_no_masks_and_an_empty_one() -> None:
    clip = colour_clip()
    pixels, masks = scene()
    empty = square(7, (0, 0, 0, 0), 120, 160)
    assert name_by_text(clip, pixels, (), ["red"]) == ()
    for given in ((empty,), (masks["red"], empty)):
        named = name_by_text(clip, pixels, given, ["red", "blue"])
        assert (named[-1].name, named[-1].score) == (UNKNOWN, None)
        assert [mask.name for mask in named[:-1]] == ["red"] * (len(given) - 1)


def test_texts_are_encoded_once_and_masks_in_batches_as_alone() -> None:
    clip = colour_clip()
    pixels, masks = scene()
    many = [masks["red"], masks["green"], masks["blue"]] * 12
    scorer = TextScorer(clip, ["red", "green", "blue"], backgrounds=["nothing"])
    assert clip.model.texts == 4 * len(SENTENCES)  # type: ignore[operator]  # of the stand-in
    first = scorer.name(pixels, many)
    assert clip.model.texts == 4 * len(SENTENCES) and clip.model.images == 2 * len(many)  # type: ignore[operator]
    alone = [scorer.name(pixels, [mask])[0] for mask in many[:3]]
    assert [mask.name for mask in first] == ["red", "green", "blue"] * 12
    np.testing.assert_allclose([mask.score for mask in first[:3]], [mask.score for mask in alone], rtol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "text: empty; say what to look for"),
        (["  "], "text: empty"),
        (["red", ""], "text: empty"),
        (["a dog", "a  dog"], "text: 'a dog' is given twice"),
    ],
)
def test_texts_that_say_nothing_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(RegardError, match=message):
        TextScorer(colour_clip(), texts)
    with pytest.raises(RegardError, match="backgrounds: none given"):
        TextScorer(colour_clip(), ["red"], backgrounds=())


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("dog", "a dog"), ("orange", "an orange"), ("a dog", "a dog"), ("The left shoe", "The left shoe"),
        ("shoes", "shoes"), ("dress", "a dress"), ("two cats {}", "two cats {}"), ("Umbrella", "an Umbrella"),
    ],
)  # fmt: skip
def test_names_become_phrases(name: str, phrase: str) -> None:
    assert with_article(name) == phrase
