"""From an explanation to a mask, for a model whose map is known: the brightness of each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from brightness import Brightness
from PIL import Image

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model, load_model
from regard.segmentation.segmenter import Segmenter
from regard.verbs.segmenting.explained import Explainer, segment_explained

HEIGHT, WIDTH = 90, 120
BRIGHT, DARK = (80, 30, 9), (40, 65, 8)  # x, y, radius


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture
def photo() -> np.ndarray:
    """Grey, with a bright and a dark disc."""
    pixels = np.full((HEIGHT, WIDTH, 3), 127, np.uint8)
    pixels[disc(*BRIGHT)], pixels[disc(*DARK)] = 250, 5
    return pixels


@pytest.fixture
def model() -> LoadedModel:
    preprocess = Preprocess(32, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return load_model(Brightness(), preprocess=preprocess, classes=("bright", "dark"))


class Discs:
    """A segmenter that knows the discs: the best of three masks is the one that was clicked on, else all but them."""

    def predict_images(self, images: Sequence[Any], prompts: Sequence[Mapping[str, Any]]) -> list[Any]:
        answers = []
        for asked in prompts:
            ((x, y),) = np.asarray(asked["point_coords"]).astype(int)
            assert asked["point_labels"].tolist() == [1]
            known = [disc(*BRIGHT), disc(*DARK)]
            hit = next((mask for mask in known if mask[y, x]), ~(known[0] | known[1]))
            masks = np.stack([np.ones((HEIGHT, WIDTH), bool), hit, np.zeros((HEIGHT, WIDTH), bool)])
            answers.append((masks, np.array([0.5, 0.9, 0.2], np.float32), np.zeros((3, 8, 8), np.float32)))
        return answers


SEGMENTER = cast("Segmenter", Discs())


@pytest.mark.parametrize(("class_", "place"), [("bright", BRIGHT), ("dark", DARK)])
def test_the_peak_lies_on_what_speaks_for_the_class(
    model: LoadedModel, photo: np.ndarray, class_: str, place: tuple[int, int, int]
) -> None:
    explainer = Explainer(model, class_)
    peak = explainer.peak(photo)
    assert peak.method == "gradcam" and peak.explained == class_ and 0 <= peak.value <= 1
    assert np.hypot(peak.x - place[0], peak.y - place[1]) < 3  # a cell has 2.5 pixels; of equal ones, the middle
    found = segment_explained(SEGMENTER, explainer, photo)
    assert found.mask.name == class_ and found.mask.predicted_iou == pytest.approx(0.9)
    assert found.mask.points == ((peak.x, peak.y),)
    assert np.array_equal(found.mask.runs.decode(), disc(*place)) and found.reason is None


def test_the_model_sees_the_middle_and_the_click_is_in_pixels_of_the_photo(photo: np.ndarray) -> None:
    """Squashed, of another size, or turned by EXIF: the same disc is met."""
    for preprocess in (Preprocess(40, 1.0, "squash", mean=(0.5,) * 3, std=(1, 1, 1)), Preprocess(24, 0.95)):
        model = load_model(Brightness(), preprocess=preprocess, classes=("bright", "dark"))
        peak = Explainer(model, "bright").peak(photo)
        assert np.hypot(peak.x - BRIGHT[0], peak.y - BRIGHT[1]) < BRIGHT[2]


def test_a_turned_photo(model: LoadedModel, photo: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(np.rot90(photo)).save(tmp_path / "turned.png", exif=exif)
    upright, plain = (Explainer(model, "bright").peak(one) for one in (tmp_path / "turned.png", photo))
    assert (upright.x, upright.y) == (plain.x, plain.y)


def test_concentration_is_the_share_of_the_map_in_the_mask(model: LoadedModel, photo: np.ndarray) -> None:
    """Grey is a little below 0, so all of the bright map lies in the bright disc, but for its edge."""
    found = segment_explained(SEGMENTER, Explainer(model, "bright"), photo)
    assert found.concentration.inside > 0.85 and found.concentration.peak_inside
    left, top, right, bottom = found.peak.window
    assert (left, top, right, bottom) != (0, 0, WIDTH, HEIGHT)
    area = disc(*BRIGHT).sum() / ((right - left) * (bottom - top))
    assert found.concentration.area == pytest.approx(area, abs=1e-3)
    first, second = found.lines()
    assert first.startswith("bright (the model gives it") and "gradcam is highest at x 8" in first
    assert second.startswith("concentration: ") and "covers 4.0%" in second


def test_right_for_the_right_reason_against_a_box_and_a_mask(model: LoadedModel, photo: np.ndarray) -> None:
    explainer = Explainer(model, "bright")
    right = segment_explained(SEGMENTER, explainer, photo, np.array([70, 20, 91, 41])).reason
    assert right is not None and right.inside.inside > 0.95 and right.inside.peak_inside
    assert right.peak_iou == pytest.approx(disc(*BRIGHT)[20:41, 70:91].sum() / 21**2)
    box = np.zeros((HEIGHT, WIDTH), bool)
    box[20:41, 70:91] = True
    beside = ~(disc(*BRIGHT) | disc(*DARK))  # what a click in the middle of the photo gives
    assert right.centre_iou == pytest.approx((beside & box).sum() / (beside | box).sum())
    wrong = segment_explained(SEGMENTER, explainer, photo, disc(*DARK))
    assert wrong.reason is not None and wrong.reason.inside.inside < 0.01 and wrong.reason.peak_iou == 0
    assert not wrong.reason.inside.peak_inside
    *_, third, fourth = wrong.lines()
    assert "the peak lies beside it" in third and fourth.startswith("IoU with it: 0.00 of the mask from the peak, 0.0")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((HEIGHT, WIDTH), bool), "given: no pixel of the photo lies in it"),
        (np.array([200, 10, 300, 40]), "given: no pixel"),
        (
            np.ones((5, 5), bool),
            r"given: of shape \(5, 5\); expected a box \(4,\) x0, y0, x1, y1, or a mask \(90, 120\)",
        ),
    ],
)
def test_an_object_that_is_none_is_refused(
    model: LoadedModel, photo: np.ndarray, given: np.ndarray, message: str
) -> None:
    with pytest.raises(RegardError, match=message):
        segment_explained(SEGMENTER, Explainer(model, "bright"), photo, given)


def test_what_cannot_be_explained_is_one_line(model: LoadedModel) -> None:
    with pytest.raises(RegardError, match="gradcam: nothing in the photo speaks for 'bright'"):
        Explainer(model, "bright").peak(np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(RegardError, match="target bride: no class of Brightness; nearest: bright"):
        Explainer(model, "bride")
    with pytest.raises(RegardError, match="class true: a photo to segment has no true class"):
        Explainer(model, "true")
    with pytest.raises(RegardError, match="method rollout"):
        Explainer(model, "bright", "rollout")
    with pytest.raises(RegardError, match="blur: no such method of explanation"):
        Explainer(model, "bright", "blur")


def test_methods_of_a_transformer() -> None:
    torch.manual_seed(0)
    vit = fresh_model("vit_nano_patch4_32", ("cat", "dog"))
    vit.model.eval()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    said: list[dict[str, Any]] = []
    assert Explainer(vit, on_event=said.append).method.name == "relevance" and not said
    peak = Explainer(vit, "dog", "rollout+fusion=max", said.append).peak(pixels)
    assert peak.method == "rollout+fusion=max" and peak.explained == "dog" and 0 <= peak.x <= 40 and 0 <= peak.y <= 50
    assert "rollout+fusion=max gives the same map for every class" in said[-1]["text"]
