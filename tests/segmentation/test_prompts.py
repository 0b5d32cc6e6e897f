from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from regard.errors import RegardError
from regard.segmentation.prompts import as_prompts

HEIGHT, WIDTH = 60, 80
POINT = {"point_coords": [[3, 4]], "point_labels": [1]}
BOX = [1, 2, 30, 40]
MASK = np.zeros((1, 32, 32), np.float32)

# fmt: off
BAD = [
    ({}, "predict: no prompt; give point_coords with point_labels, box, mask_input or text"),
    ({"point_coords": [[3, 4]]}, "point_coords: given without point_labels; give 1 or 0 for each point"),
    ({"point_labels": [1]}, "point_labels: given without point_coords; give the points that they are of"),
    ({"point_labels": [1], "box": BOX}, "point_labels: given without point_coords"),
    ({**POINT, "point_coords": [3, 4]},
     "point_coords: of shape (2,); expected (n, 2) or (P, n, 2): x, y of each point"),
    ({**POINT, "point_coords": [[3, 4, 5]]}, "point_coords: of shape (1, 3); expected (n, 2)"),
    ({**POINT, "point_coords": [[3, 4], [5]]}, "point_coords: expected an array of numbers, got [[3, 4], [5]]"),
    ({**POINT, "point_coords": "3,4"}, "point_coords: expected an array of numbers, got '3,4'"),
    ({**POINT, "point_coords": [[3j, 4]]}, "point_coords: expected an array of numbers, got [[3j, 4]]"),
    ({**POINT, "point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0)},
     "point_coords: empty, of shape (1, 0, 2)"),
    ({**POINT, "point_coords": [[80.5, 4]]},
     "point_coords: (80.5, 4) is not in the image, which is 80 pixels wide and 60 high"),
    ({**POINT, "point_coords": [[3, -1]]}, "point_coords: (3, -1) is not in the image"),
    ({**POINT, "point_coords": [[np.nan, 4]]}, "point_coords: (nan, 4) is not in the image"),
    ({**POINT, "point_coords": [[3, np.inf]]}, "point_coords: (3, inf) is not in the image"),
    ({**POINT, "point_labels": [1, 0]}, "point_labels: of shape (2,); expected one for each point, (1,): 1 (on the"),
    ({**POINT, "point_labels": 1}, "point_labels: of shape (); expected one for each point, (1,)"),
    ({**POINT, "point_labels": [2]}, "point_labels: 2 is no label; expected 1 (on the object), 0 (beside it) or -1"),
    ({**POINT, "point_labels": [0.5]}, "point_labels: 0.5 is no label"),
    ({**POINT, "point_labels": [np.nan]}, "point_labels: nan is no label"),
    ({**POINT, "point_labels": ["on"]}, "point_labels: expected an array of numbers, got ['on']"),
    ({**POINT, "point_labels": [-1]}, "point_labels: a prompt of nothing but -1, which is no point; give it a point"),
    ({"box": [1, 2, 3]}, "box: of shape (3,); expected (4,) or (P, 4): x0, y0, x1, y1"),
    ({"box": [[[1, 2, 3, 4]]]}, "box: of shape (1, 1, 4); expected (4,) or (P, 4)"),
    ({"box": [30, 2, 1, 40]}, "box: 30, 2, 1, 40 is upside down or empty; expected x0, y0, x1, y1 with x0 < x1"),
    ({"box": [1, 40, 30, 2]}, "box: 1, 40, 30, 2 is upside down or empty"),
    ({"box": [1, 2, 1, 40]}, "box: 1, 2, 1, 40 is upside down or empty"),
    ({"box": [1, 2, 30, 61]}, "box: (30, 61) is not in the image"),
    ({"box": [np.nan] * 4}, "box: (nan, nan) is not in the image"),
    ({"box": np.zeros((0, 4))}, "box: empty, of shape (0, 4); give at least one, or leave it out"),
    ({"box": [None] * 4}, "box: expected an array of numbers, got [None, None, None, None]"),
    ({"mask_input": np.zeros((1, 31, 32))},
     "mask_input: of shape (1, 31, 32); expected (1, 32, 32) or (P, 1, 32, 32): low-resolution logits as predict"),
    ({"mask_input": np.zeros((32, 32))}, "mask_input: of shape (32, 32); expected (1, 32, 32)"),
    ({"mask_input": np.zeros((3, 32, 32))}, "mask_input: of shape (3, 32, 32); expected (1, 32, 32)"),
    ({"mask_input": np.full((1, 32, 32), np.nan)}, "mask_input: holds NaN or infinity; give the logits as predict"),
    ({"mask_input": np.zeros((1, 32, 32), bool)}, "mask_input: expected an array of numbers, got array([[[False"),
    ({"box": [BOX, BOX], "mask_input": np.zeros((3, 1, 32, 32))},
     "prompts: not as many of each (box 2, mask_input 3); give each prompt all of its parts"),
    ({**POINT, "box": [BOX, BOX]}, "prompts: not as many of each (point_coords 1, box 2)"),
]
# fmt: on


@pytest.mark.parametrize(("asked", "line"), BAD)
def test_each_mistake_is_one_line_that_names_its_argument(asked, line):
    with pytest.raises(RegardError) as raised:
        as_prompts(HEIGHT, WIDTH, (32, 32), **asked)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_what_is_given_comes_out_in_pixels_of_the_image():
    prompts, single = as_prompts(
        HEIGHT, WIDTH, (32, 32), [[0, 0], [80, 60]], [True, False], torch.tensor(BOX, dtype=torch.bfloat16), MASK
    )
    assert single
    assert prompts.points is not None and prompts.points.tolist() == [[[0, 0], [80, 60]]]  # the borders belong to it
    assert prompts.labels is not None and prompts.labels.tolist() == [[1, 0]]
    assert prompts.boxes is not None and prompts.boxes.tolist() == [BOX]
    assert prompts.masks is not None and prompts.masks.shape == (1, 1, 32, 32)


def test_one_part_without_an_axis_is_enough_for_one_prompt():
    """As in the authors' notebook: points (n, 2) and a box (1, 4)."""
    prompts, single = as_prompts(HEIGHT, WIDTH, (32, 32), **POINT, box=[BOX])
    assert single and prompts.boxes is not None and prompts.boxes.shape == (1, 4)
    _, single = as_prompts(HEIGHT, WIDTH, (32, 32), box=[BOX])
    assert not single


def test_the_arguments_stay_as_they_are():
    points, labels = np.array([[[3.0, 4.0], [np.nan, 0.0]]]), np.array([[1, -1]])
    prompts, _ = as_prompts(HEIGHT, WIDTH, (32, 32), points, labels)
    assert np.isnan(points[0, 1, 0])
    assert prompts.points is not None and prompts.points.isfinite().all()


# Whatever is given: mostly right in shape, and often with a value that is not.
numbers = st.one_of(st.floats(-5, 90), st.integers(0, 60).map(float), st.sampled_from([np.nan, np.inf, 1e300, -0.0]))
sides = st.integers(0, 3)
places = arrays.arrays(
    np.float64, st.one_of(st.tuples(sides, st.just(2)), arrays.array_shapes(max_side=3)), elements=numbers
)
kinds = arrays.arrays(
    np.int64, arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=3), elements=st.integers(-1, 2)
)
boxes = st.one_of(
    st.tuples(st.floats(0, 30), st.floats(0, 30), st.floats(20, 80), st.floats(20, 60)).map(np.array),
    arrays.arrays(np.float64, st.one_of(st.just((4,)), st.tuples(sides, st.just(4))), elements=numbers),
)
rough = st.one_of(
    st.sampled_from([(1, 32, 32), (1, 1, 32, 32), (2, 1, 32, 32), (32, 32), (1, 16, 16)]).map(
        lambda shape: np.full(shape, 2.0)
    ),
    st.just(np.full((1, 32, 32), np.nan)),
)
matching = st.integers(1, 3).flatmap(
    lambda count: st.fixed_dictionaries(
        {
            "point_coords": arrays.arrays(np.float64, (count, 2), elements=st.floats(0, 60)),
            "point_labels": arrays.arrays(np.int64, count, elements=st.integers(-1, 1)),
        },
        optional={"box": boxes, "mask_input": rough},
    )
)
anything = st.fixed_dictionaries(
    {}, optional={"point_coords": places, "point_labels": kinds, "box": boxes, "mask_input": rough}
)


def ask(segmenter, asked, multimask) -> None:
    try:
        masks, iou, low = segmenter.predict(**asked, multimask_output=multimask)
    except RegardError as error:
        assert "\n" not in str(error)
        assert str(error).split(":")[0] in {*asked, "predict", "prompts"}
        return
    count = 3 if multimask else 1
    assert masks.shape[-3:] == (count, HEIGHT, WIDTH) and masks.dtype == bool
    assert iou.shape[-1] == count and low.shape[-3:] == (count, 32, 32)
    assert np.isfinite(iou).all() and np.isfinite(low).all()


@pytest.fixture
def ready(segmenter):
    segmenter.set_image(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    return segmenter


any_prompt = given(asked=st.one_of(matching, anything), multimask=st.booleans())
LOOSE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # nothing changes it


@settings(LOOSE, max_examples=100)
@any_prompt
def test_random_prompts_give_masks_of_the_images_size_or_a_clear_line(ready, asked, multimask):
    ask(ready, asked, multimask)


@pytest.mark.long
@settings(LOOSE, max_examples=1000)
@any_prompt
def test_a_thousand_random_prompts(ready, asked, multimask):
    ask(ready, asked, multimask)
