from __future__ import annotations

import json

import numpy as np
import pytest
from some_masks import record

from regard.errors import RegardError
from regard.segmentation.formats import rle


def test_a_file_comes_back_as_it_was() -> None:
    given = record(names=("dog", ""))
    back = rle.decode(rle.encode(given))
    assert back[:3] == given[:3]
    for one, other in zip(back.masks, given.masks, strict=True):
        np.testing.assert_array_equal(one.runs.decode(), other.runs.decode())
        same = ("number", "stability", "points", "crop", "name", "score")
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
        assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-6)
    assert rle.encode(back) == rle.encode(given)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # pycocotools and NumPy 2
def test_pycocotools_reads_every_mask() -> None:
    tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    given = record(masks=8)
    for one, mask in zip(json.loads(rle.encode(given))["annotations"], given.masks, strict=True):
        np.testing.assert_array_equal(tools.decode(one["segmentation"]).astype(bool), mask.runs.decode())
        assert tools.toBbox(one["segmentation"]).tolist() == one["bbox"]
        assert int(tools.area(one["segmentation"])) == one["area"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"image": {}}', '{"image": 3, "annotations": []}'])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(RegardError, match="not in the layout of SA-1B"):
        rle.decode(text)
