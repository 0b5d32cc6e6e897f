"""Everything mode against the published package's `SamAutomaticMaskGenerator`, with the same trained weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_sam import of_package, trained

from regard.models.sam import SAM
from regard.segmentation.everything import Options, everything, record
from regard.segmentation.segmenter import Segmenter

# What the tiny model is sure of, so that 20 x 20 clicks leave more than 100 masks.
THRESHOLDS: dict[str, Any] = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.4}


@pytest.fixture(scope="module")
def model() -> SAM:
    return trained()


def photo(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: gradients with noise on them."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([x * 200 / width, y * 200 / height, (3 * x + 2 * y) % 200], axis=-1)
    return (planes + np.random.default_rng(0).integers(0, 56, planes.shape)).astype(np.uint8)


def both(model: SAM, image: np.ndarray, **options: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    amg = pytest.importorskip("segment_anything.automatic_mask_generator", reason="segment-anything is not installed")
    theirs = amg.SamAutomaticMaskGenerator(of_package(model), **options).generate(image)
    ours = everything(Segmenter(model), image, Options(**options))
    assert [mask.number for mask in ours.masks] == list(range(1, len(ours.masks) + 1))
    return [record(mask) for mask in ours.masks], theirs


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], at_least: int) -> None:
    """The same masks in the same order, 99 % of them with an IoU of 0.99; what is known of them, too."""
    assert len(theirs) >= at_least
    assert len(ours) == len(theirs)
    alike = 0
    for mask, wanted in zip(ours, theirs, strict=True):
        assert set(mask) == set(wanted)
        assert mask["point_coords"] == pytest.approx(np.array(wanted["point_coords"]))
        assert mask["crop_box"] == wanted["crop_box"]
        assert mask["predicted_iou"] == pytest.approx(wanted["predicted_iou"], abs=1e-4)
        assert mask["stability_score"] == pytest.approx(wanted["stability_score"], abs=1e-2, nan_ok=True)
        a, b = mask["segmentation"], wanted["segmentation"]
        assert a.shape == b.shape and a.dtype == b.dtype
        alike += (a & b).sum() >= 0.99 * (a | b).sum()
        if np.array_equal(a, b):
            assert (mask["area"], mask["bbox"]) == (wanted["area"], wanted["bbox"])
    assert alike >= 0.99 * len(theirs)


def test_the_masks_of_a_photo_are_the_packages(model: SAM) -> None:
    assert_same(*both(model, photo(97, 141), points_per_side=20, **THRESHOLDS), at_least=100)


@pytest.mark.parametrize(
    ("size", "options", "at_least"),
    [
        ((97, 141), {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "min_mask_region_area": 40}, 30),
        ((64, 64), {"min_mask_region_area": 25, "box_nms_thresh": 0.9}, 30),
        ((31, 50), {}, 30),  # smaller than the input, and odd
        ((150, 40), {"points_per_side": None, "point_grids": [np.random.default_rng(0).random((50, 2))]}, 10),
        ((41, 60), {"stability_score_thresh": 0.0, "box_nms_thresh": 1.0, "pred_iou_thresh": 0.0}, 300),
    ],
    ids=["crops and small regions", "small regions", "small", "places", "unfiltered"],
)
def test_options_and_sizes_are_the_packages(
    model: SAM, size: tuple[int, int], options: dict[str, Any], at_least: int
) -> None:
    if options.get("min_mask_region_area"):
        pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    asked: dict[str, Any] = {"points_per_side": 10, **THRESHOLDS, **options}
    ours, theirs = both(model, photo(*size), **asked)
    assert_same(ours, theirs, at_least)


@pytest.mark.long
def test_two_layers_of_crops_are_the_packages(model: SAM) -> None:
    """20 crops that overlap, with masks that appear in several."""
    options: dict[str, Any] = {
        "crop_n_layers": 2,
        "crop_n_points_downscale_factor": 2,
        "points_per_side": 16,
        **THRESHOLDS,
    }
    assert_same(*both(model, photo(233, 318), **options), at_least=100)


def test_bfloat16_finds_nearly_the_same(model: SAM) -> None:
    """Mean IoU of the masks that both precisions keep of the same clicks."""
    options = Options(points_per_side=12, box_nms_thresh=1.0, **THRESHOLDS)
    kept = []
    for precision in ("fp32", "bf16"):
        found = everything(Segmenter(model, precision=precision), photo(97, 141), options)
        kept.append({(mask.points, round(mask.predicted_iou, 1)): mask.runs.decode() for mask in found.masks})
    common = kept[0].keys() & kept[1].keys()
    assert len(common) > 0.7 * len(kept[0])
    assert np.mean([(kept[0][key] & kept[1][key]).sum() / (kept[0][key] | kept[1][key]).sum() for key in common]) > 0.97


def test_training_made_masks_that_differ_by_click_and_by_size(model: SAM) -> None:
    """What the comparisons above rest on."""
    found = everything(Segmenter(model), photo(97, 141), Options(points_per_side=8, **THRESHOLDS)).masks
    areas = [mask.area for mask in found]
    assert len(found) > 20 and max(areas) > 3 * min(areas)
    assert torch.tensor([mask.points[0] for mask in found]).unique(dim=0).shape[0] > 10
