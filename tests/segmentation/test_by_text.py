from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from colours import COLOURS, colour_clip

from regard.errors import RegardError
from regard.masks import Mask, RunLengths
from regard.segmentation.everything import Options
from regard.segmentation.naming import rank_by_text
from regard.segmentation.segmenter import Segmenter
from regard.segmentation.text_prompts import TextRanker

EVERYTHING = Options(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=0.9)


@pytest.fixture
def halves() -> np.ndarray:
    """(64, 96, 3) uint8: red at the left, green at the right."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48], image[:, 48:] = COLOURS["red"], COLOURS["green"]
    return image


@pytest.fixture
def ready(tiny_sam, halves) -> Segmenter:
    with torch.no_grad():  # what is drawn by chance expects little of its masks
        tiny_sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(5.0)
    segmenter = Segmenter(tiny_sam, text_ranker=TextRanker(colour_clip(), EVERYTHING))
    segmenter.set_image(halves)
    return segmenter


def test_a_text_finds_the_masks_that_fit_it_best_first(ready, halves):
    fitting = ready.text_ranker(ready, halves, "red").fitting
    assert len(fitting) > 3
    masks, iou, low = ready.predict(text="red")
    assert (masks.shape, iou.shape, low.shape) == ((3, 64, 96), (3,), (3, 32, 32))
    for mask, estimate, expected in zip(masks, iou, fitting, strict=False):
        np.testing.assert_array_equal(mask, expected.runs.decode())
        assert estimate == pytest.approx(expected.predicted_iou, abs=1e-5)
    only = ready.predict(text="red", multimask_output=False)
    np.testing.assert_array_equal(only[0], masks[:1])
    # What it gives goes on: to another round, and as logits.
    assert ready.predict(mask_input=low[:1])[0].shape == (3, 64, 96)
    np.testing.assert_array_equal(ready.predict(text="red", return_logits=True)[0] > 0, masks)


def test_nothing_fits_and_nothing_is_given(ready):
    for logits in (False, True):
        masks, iou, low = ready.predict(text="blue", return_logits=logits)
        assert (masks.shape, iou.shape, low.shape) == ((0, 64, 96), (0,), (0, 32, 32))


def test_a_text_decides_between_the_masks_of_a_prompt(ready, halves):
    points = {"point_coords": [[[40, 30]], [[60, 30]]], "point_labels": [[1], [1]]}
    plain = ready.predict(**points)
    for text in ("red", "green"):
        found = ready.predict(**points, text=text)
        best = ready.predict(**points, text=text, multimask_output=False)
        assert found[0].shape == (2, 3, 64, 96) and best[0].shape == (2, 1, 64, 96)
        for prompt in range(2):
            order = [int(np.flatnonzero(plain[1][prompt] == iou)[0]) for iou in found[1][prompt]]
            several = [Mask(number, RunLengths.of(mask), 0.0) for number, mask in enumerate(plain[0][prompt])]
            ranking = rank_by_text(colour_clip(), halves, several, text)
            assert order == [mask.number for mask in (*ranking.fitting, *ranking.others)]
            for several, before in zip(found, plain, strict=True):
                np.testing.assert_array_equal(several[prompt], before[prompt][order])
            np.testing.assert_array_equal(best[2][prompt], found[2][prompt, :1])


def test_a_text_for_each_image(tiny_sam, halves):
    segmenter = Segmenter(tiny_sam, text_ranker=TextRanker(colour_clip(), EVERYTHING))
    answers = segmenter.predict_images([halves, halves], [{"text": "red"}, {"text": "green"}])
    segmenter.set_image(halves)
    np.testing.assert_array_equal(answers[0][0], segmenter.predict(text="red")[0])
    np.testing.assert_array_equal(answers[1][0], segmenter.predict(text="green")[0])


@pytest.mark.parametrize("beside", [{}, {"box": [1, 2, 30, 40]}])
def test_texts_that_say_nothing_are_one_line(ready, tiny_sam, halves, beside):
    for text in ("", "  "):
        with pytest.raises(RegardError, match=r"^text: empty; say what to look for"):
            ready.predict(text=text, **beside)
    with pytest.raises(RegardError, match=r"^text: expected words, as in 'a dog', got 7$"):
        ready.predict(text=7, **beside)
    without = Segmenter(tiny_sam)
    without.set_image(halves)
    with pytest.raises(RegardError, match=r"^text: needs a CLIP; name one as you load the segmenter"):
        without.predict(text="red", **beside)
