"""Everything mode: what it keeps, what it says, what it holds, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from regard.errors import RegardError
from regard.models.sam import SAM
from regard.segmentation.everything import Everything, Options, everything, record
from regard.segmentation.pace import expected_bytes
from regard.segmentation.segmenter import Segmenter

ALL = Options(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)


@pytest.fixture
def found(segmenter: Segmenter, photo: np.ndarray) -> Everything:
    return everything(segmenter, photo, ALL, keep_clicks=True)


def test_each_mask_is_that_of_its_click(segmenter: Segmenter, photo: np.ndarray, found: Everything) -> None:
    """Without filters all three masks of each click stay, best estimate first."""
    assert (found.height, found.width) == photo.shape[:2]
    assert len(found.masks) == 3 * 16
    estimates = [mask.predicted_iou for mask in found.masks]
    assert estimates == sorted(estimates, reverse=True)
    segmenter.set_image(photo)
    for mask in found.masks[::5]:
        drawn, iou, _ = segmenter.predict(np.array(mask.points), np.ones(1))
        which = int(abs(iou - mask.predicted_iou).argmin())
        assert iou[which] == pytest.approx(mask.predicted_iou, abs=1e-5)
        assert (
            drawn[which] != mask.runs.decode()
        ).mean() < 1e-3  # of pixels: those whose logits are 0 but for rounding
        assert mask.crop is None


def test_clicks_keep_three_masks_of_each_point(segmenter: Segmenter, photo: np.ndarray, found: Everything) -> None:
    clicks = found.clicks
    assert clicks is not None and (clicks.height, clicks.width) == photo.shape[:2]
    assert len(clicks.clicks) == 16
    segmenter.set_image(photo)
    for click in clicks.clicks[::3]:
        drawn, iou, _ = segmenter.predict(np.array([click.point]), np.ones(1))
        assert click.iou == pytest.approx(iou, abs=1e-5)
        for mask, kept in zip(drawn, click.masks, strict=True):
            assert (mask != kept.decode()).mean() < 1e-3


def test_clicks_are_kept_small_and_change_nothing_else(segmenter: Segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 255, (700, 1030, 3), np.uint8)
    options = Options(points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    with_clicks, without = (everything(segmenter, image, options, keep_clicks=keep) for keep in (True, False))
    assert without.clicks is None
    assert [mask.runs.text for mask in with_clicks.masks] == [mask.runs.text for mask in without.masks]
    assert with_clicks.clicks is not None
    assert (with_clicks.clicks.height, with_clicks.clicks.width) == (348, 512)
    whole = {mask.points[0]: mask for mask in with_clicks.masks}
    for click in with_clicks.clicks.clicks:
        if click.point in whole:
            share = whole[click.point].area / (700 * 1030)
            assert min(abs(runs.area / (348 * 512) - share) for runs in click.masks) < 0.01


def test_thresholds_and_overlap_leave_out(tiny_sam: SAM, photo: np.ndarray) -> None:
    with torch.no_grad():  # estimates of a random model are negative, its logits small
        tiny_sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.7  # pyright: ignore[reportOperatorIssue]
    segmenter, loose = Segmenter(tiny_sam), {**vars(ALL), "stability_score_offset": 0.02}
    found = everything(segmenter, photo, Options(**loose))
    estimates = sorted(mask.predicted_iou for mask in found.masks)
    some = everything(segmenter, photo, Options(**{**loose, "pred_iou_thresh": estimates[24]}))
    assert [mask.predicted_iou for mask in some.masks] == [mask.predicted_iou for mask in found.masks[:23]]
    stable = sorted(mask.stability or 0.0 for mask in found.masks)[30]
    some = everything(segmenter, photo, Options(**{**loose, "stability_score_thresh": stable}))
    assert 0 < len(some.masks) == sum((mask.stability or 0.0) >= stable for mask in found.masks) < 48
    some = everything(segmenter, photo, Options(**{**loose, "box_nms_thresh": 0.5}))
    assert 0 < len(some.masks) < 48 and some.masks[0].runs.text == found.masks[0].runs.text


def test_it_says_how_far_it_is_and_how_long_it_takes(segmenter: Segmenter, photo: np.ndarray) -> None:
    events: list[dict[str, Any]] = []
    options = Options(**{**vars(ALL), "crop_n_layers": 1, "crop_n_points_downscale_factor": 2})
    everything(segmenter, photo, options, on_event=events.append)
    assert {event["event"] for event in events} == {"progress"}
    done = [event["done"] for event in events]
    assert done == sorted(set(done)) and done[-1] == events[0]["total"] == 16 + 4 * 4
    left = [event["seconds_left"] for event in events]
    assert left[-1] == 0 and min(left[:-1]) > 0


def test_clicks_at_once_change_nothing(segmenter: Segmenter, photo: np.ndarray, found: Everything) -> None:
    at_once = everything(segmenter, photo, Options(**{**vars(ALL), "points_per_batch": 16}))
    for mask, other in zip(found.masks, at_once.masks, strict=True):
        assert mask.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-5)


def test_memory_does_not_grow_with_clicks(
    segmenter: Segmenter, photo: np.ndarray, peak_bytes: Callable[[Callable[[], object]], int]
) -> None:
    segmenter.embed(photo)
    few, many = (
        peak_bytes(
            lambda points=points: everything(segmenter, photo, Options(**{**vars(ALL), "points_per_side": points}))
        )
        for points in (3, 9)
    )
    assert many < 1.1 * few


@pytest.mark.parametrize(("side", "points_per_batch"), [(60, 1), (60, 24), (900, 1)])
def test_memory_is_what_was_expected(
    side: int, points_per_batch: int, peak_bytes: Callable[[Callable[[], object]], int]
) -> None:
    """Where the encoder, the decoder, and the image's size decide."""
    torch.manual_seed(0)
    model = SAM(img_size=128, patch_size=4, width=48, depth=2, num_heads=2, global_blocks=(1,), window=8, dim=32)
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    options = Options(**{**vars(ALL), "points_per_side": 5, "points_per_batch": points_per_batch})
    held = peak_bytes(lambda: everything(Segmenter(model), image, options))
    assert 0.5 < held / expected_bytes(model, side, side, options) < 1.1


def test_an_interruption_leaves_nothing_behind(tiny_sam: SAM, photo: np.ndarray) -> None:
    segmenter = Segmenter(tiny_sam)
    before = {name: value.clone() for name, value in tiny_sam.state_dict().items()}
    attributes = set(vars(segmenter))

    def interrupt(event: dict[str, Any]) -> None:
        if event["done"] > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        everything(segmenter, photo, ALL, on_event=interrupt)
    assert torch.is_grad_enabled()
    assert set(vars(segmenter)) == attributes
    assert all(torch.equal(value, before[name]) for name, value in tiny_sam.state_dict().items())
    with pytest.raises(RegardError, match="no image was set"):
        segmenter.predict(np.zeros((1, 2)), np.ones(1))
    assert len(everything(segmenter, photo, ALL).masks) == 48


def test_a_record_has_the_originals_forms(found: Everything) -> None:
    mask = next(mask for mask in found.masks if mask.area)
    pixels, plain, coco = (record(mask, form) for form in ("binary_mask", "uncompressed_rle", "coco_rle"))
    x0, y0, x1, y1 = mask.box
    assert pixels["bbox"] == [x0, y0, x1 - x0 - 1, y1 - y0 - 1]
    assert pixels["area"] == pixels["segmentation"].sum() == sum(plain["segmentation"]["counts"][1::2])
    assert coco["segmentation"] == {"size": [97, 141], "counts": mask.runs.text}
    assert pixels["crop_box"] == [0, 0, 141, 97]
    with pytest.raises(RegardError, match="output_mode='png'"):
        record(mask, "png")  # pyright: ignore[reportArgumentType]


def test_nothing_found_is_an_answer(segmenter: Segmenter, photo: np.ndarray) -> None:
    found = everything(segmenter, photo, Options(points_per_side=2, stability_score_thresh=1.0, crop_n_layers=1))
    assert found.masks == () and found.clicks is None


def test_an_image_smaller_than_its_crops_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(RegardError, match="crop_n_layers=2: an image of 1 x 90 pixels"):
        everything(segmenter, np.zeros((90, 1, 3), np.uint8), Options(points_per_side=2, crop_n_layers=2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"points_per_side": 0}, "points_per_side=0"),
        ({"points_per_side": None}, "points_per_side: give either"),
        ({"points_per_batch": 2.5}, "points_per_batch=2.5"),
        ({"pred_iou_thresh": 1.5}, "pred_iou_thresh=1.5"),
        ({"stability_score_thresh": float("nan")}, "stability_score_thresh=nan"),
        ({"stability_score_offset": -1}, "stability_score_offset=-1"),
        ({"crop_overlap_ratio": 1.0}, "crop_overlap_ratio=1.0"),
        ({"crop_n_layers": 2, "crop_n_points_downscale_factor": 10}, "leaves no point in layer 2"),
        ({"min_mask_region_area": -3}, "min_mask_region_area=-3"),
        ({"points_per_side": None, "point_grids": [np.full((3, 2), 1.5)]}, "point_grids"),
        ({"points_per_side": None, "point_grids": [np.zeros((3, 2))], "crop_n_layers": 1}, "point_grids: 1 grid"),
        ({"point_grids": [np.zeros((3, 2))]}, "points_per_side: give either"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(RegardError) as error:
        Options(**given)
    assert words in str(error.value) and "\n" not in str(error.value)
