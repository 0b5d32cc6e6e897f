"""A text as a prompt: everything mode stands still here, so that its masks are known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from colours import colour_clip, scene

from regard.errors import RegardError
from regard.segmentation import text_prompts
from regard.segmentation.everything import Everything, Options
from regard.segmentation.segmenter import Segmenter
from regard.segmentation.text_prompts import TextRanker


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Arguments of everything mode, which finds the squares of `scene`."""
    found: list[Any] = []

    def everything(segmenter: Segmenter, image: np.ndarray, options: Options, on_event: Any) -> Everything:
        found.append((segmenter, options, on_event))
        return Everything(120, 160, tuple(scene()[1].values()))

    monkeypatch.setattr(text_prompts, "everything", everything)
    return found


def test_the_mask_that_the_text_says_is_found(segmenter: Segmenter, calls: list[Any]) -> None:
    pixels, masks = scene()
    ranker = TextRanker(colour_clip(), Options(points_per_side=7))
    events: list[Any] = []
    ranking = ranker(segmenter, pixels, "something green", events.append)
    assert [mask.number for mask in ranking.fitting] == [masks["green"].number]
    assert ranking.fitting[0].name == "something green" and ranking.fitting[0].score == ranking.best > 0.9
    assert calls == [(segmenter, Options(points_per_side=7), events.append)]


def test_another_text_about_the_same_image_looks_no_more(segmenter: Segmenter, calls: list[Any]) -> None:
    pixels, masks = scene()
    ranker = TextRanker(colour_clip())
    for colour in ("red", "blue", "yellow"):
        ranking = ranker(segmenter, pixels.copy(), colour)
        assert [mask.number for mask in ranking.fitting] == [masks[colour].number for _ in range(colour != "yellow")]
    assert len(calls) == 1 and ranker.clip.model.images == 2 * len(masks)  # type: ignore[operator]  # of the stand-in
    ranker(segmenter, pixels[::-1].copy(), "red")
    assert len(calls) == 2
    ranker(Segmenter(segmenter.model), pixels[::-1].copy(), "red")
    assert len(calls) == 3


def test_an_empty_text_is_refused_before_anything_is_segmented(segmenter: Segmenter, calls: list[Any]) -> None:
    with pytest.raises(RegardError, match="text: empty"):
        TextRanker(colour_clip())(segmenter, scene()[0], " ")
    assert not calls


def test_everything_mode_itself_answers(segmenter: Segmenter) -> None:
    """Drawn weights find anything, so only that all of it comes through is known."""
    options = Options(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1)
    ranking = TextRanker(colour_clip(), options)(segmenter, scene()[0], "red")
    assert len(ranking.fitting) + len(ranking.others) > 0
    scores = [mask.score for mask in ranking.fitting]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
