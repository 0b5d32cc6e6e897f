from __future__ import annotations

from typing import Any, cast

from regard.segmentation.everything import Options
from regard.segmentation.text_prompts import TextRanker
from regard.verbs.segmenting.asked import Asked
from regard.verbs.segmenting.ways import All, Cost, FromExplanation, Prompted

NOBODY = cast("Any", None)


class Ranker(TextRanker):
    def __init__(self) -> None:
        self.options = Options(points_per_side=4)


def test_what_a_photo_costs() -> None:
    """For the estimate that is printed before the work."""
    assert All(NOBODY, Options()).cost == Cost(1, 1024)
    crops = Options(points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=2)
    assert All(NOBODY, crops).cost == Cost(1 + 4 + 16, 64 + 4 * 16 + 16 * 4)
    point, text = Asked(points=((1, 2),), labels=(1,)), Asked(text="a dog")
    assert Prompted(NOBODY, lambda place: (), (point, point)).cost == Cost(1, 2)
    assert Prompted(NOBODY, lambda place: (), (point, text), ranker=Ranker()).cost == Cost(1, 17)
    assert FromExplanation(NOBODY, NOBODY).cost == Cost(1, 1)
    assert FromExplanation(NOBODY, NOBODY, text, Ranker()).cost == Cost(1, 16)
