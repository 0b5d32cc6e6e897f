from __future__ import annotations

import numpy as np
import pytest

from regard.data.decoding import ImageError
from regard.errors import RegardError
from regard.masks import Mask, RunLengths
from regard.segmentation.everything import Click, Clicks
from regard.segmentation.formats.record import ImageMasks
from regard.verbs.segmenting.answers import Answer, Failure, failure, pack, unpack


def runs(seed: int, height: int = 9, width: int = 7) -> RunLengths:
    return RunLengths.of(np.random.default_rng(seed).random((height, width)) > 0.5)


def test_an_answer_comes_back_as_it_was() -> None:
    masks = (Mask(1, runs(0), 0.5, name="dog", score=0.75), Mask(4, runs(1), 0.25, 0.5, ((1.5, 2.0),)))
    clicks = Clicks(9, 7, (Click((3.0, 4.0), (runs(2), runs(3), runs(4)), (0.1, 0.2, 0.3)),))
    given = Answer(ImageMasks("a b.jpg", 9, 7, masks), ("said",), {"inside": 0.1, "peak_inside": True}, clicks)
    text = pack(given)
    back = unpack(text)
    assert isinstance(back, Answer) and back.clicks is not None
    assert (back.said, back.measured, back.masks.image) == (given.said, given.measured, "a b.jpg")
    assert [mask.runs.text for mask in back.masks.masks] == [mask.runs.text for mask in masks]
    assert [mask.text for mask in back.clicks.clicks[0].masks] == [mask.text for mask in clicks.clicks[0].masks]
    assert pack(back) == text


def test_a_failure_keeps_its_code() -> None:
    for error, code in ((ImageError("x: cut", "truncated"), "truncated"), (RegardError("box: no"), "refused")):
        given = failure("x.jpg", error)
        assert given == Failure("x.jpg", code, str(error)) == unpack(pack(given))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"image": 1}', '{"failure": {}}'])
def test_damage_is_told(text: str) -> None:
    with pytest.raises(RegardError, match=r"damaged|not in the layout"):
        unpack(text)
