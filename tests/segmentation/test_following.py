from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from regard.errors import RegardError
from regard.masks import Mask, RunLengths
from regard.models.sam import Masks, Prompts
from regard.segmentation.following import Follower, follow, in_order
from regard.segmentation.regions import innermost
from regard.segmentation.segmenter import Segmenter

HEIGHT, WIDTH = 48, 80
COLOURS = {1: (230, 20, 20), 2: (20, 230, 20)}


def square(x: int, y: int, side: int = 16) -> np.ndarray:
    """(HEIGHT, WIDTH) bool."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[max(0, y) : y + side, max(0, x) : max(0, x + side)] = True
    return mask


def draw(*places: tuple[int, int] | None) -> np.ndarray:
    """A frame with one square in each object's colour, None where it is not there."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for number, place in enumerate(places, start=1):
        if place is not None:
            image[square(*place)] = COLOURS[number]
    return image


class ByColour(Segmenter):
    """Finds the colour of which most lies under a mask prompt, red where there is none, nothing where it is nowhere."""

    asked: list[Prompts]

    def embed(self, image):
        self.pixels = np.asarray(image)
        return super().embed(image)

    def decode(self, embedded, prompts):
        self.asked = [*getattr(self, "asked", []), prompts]
        height, width = embedded.frame.resized
        scenes = []
        for colour in COLOURS.values():
            inside = torch.from_numpy((self.pixels == colour).all(axis=2)).float()[None, None]
            placed = F.interpolate(inside, (height, width), mode="bilinear", antialias=True)
            placed = F.pad(placed, (0, 64 - width, 0, 64 - height))
            scenes.append(20 * F.interpolate(placed, (32, 32), mode="bilinear", antialias=True)[0, 0] - 10)
        if prompts.masks is None:  # the first frame
            return Masks(scenes[0].expand(1, 4, -1, -1), torch.tensor([[0.1, 0.6, 0.8, 0.7]]))
        before = prompts.masks[:, 0] > 0  # (P, 32, 32)
        overlaps = torch.stack([(before & (scene > 0)).sum(dim=(1, 2)) for scene in scenes], dim=1)  # (P, colours)
        which = overlaps.argmax(dim=1)
        logits = torch.stack([scenes[number] for number in which.tolist()])
        logits[overlaps.max(dim=1).values == 0] = -10.0
        iou = torch.where(overlaps.max(dim=1).values > 0, 0.9, 0.1)
        return Masks(logits[:, None].expand(-1, 4, -1, -1), iou[:, None].expand(-1, 4))


@pytest.fixture
def by_colour(tiny_sam) -> ByColour:
    return ByColour(tiny_sam)


def first_masks(*places: tuple[int, int]) -> list[Mask]:
    return [
        Mask(number, RunLengths.of(square(*place)), 0.9, name=f"n{number}") for number, place in enumerate(places, 1)
    ]


def iou(mask: Mask, truth: np.ndarray) -> float:
    found = mask.runs.decode()
    return (found & truth).sum() / (found | truth).sum()


def test_objects_keep_their_numbers_and_names_where_they_go(by_colour):
    paths = [(8 + 3 * step, 6 + step) for step in range(10)], [(60 - 3 * step, 28) for step in range(10)]
    follower = Follower(by_colour, draw(paths[0][0], paths[1][0]), first_masks(paths[0][0], paths[1][0]))
    for places in list(zip(*paths, strict=True))[1:]:
        answer = follower.step(draw(*places))
        assert [(mask.number, mask.name) for mask in answer.masks] == [(1, "n1"), (2, "n2")]
        assert answer.lost == () and answer.error == ""
        for mask, place in zip(answer.masks, places, strict=True):
            assert iou(mask, square(*place)) > 0.8
            assert mask.predicted_iou == pytest.approx(0.9)


def test_what_is_asked_is_the_last_mask_with_its_innermost_point_and_its_box_somewhat_enlarged(by_colour):
    follower = Follower(by_colour, draw((8, 6)), first_masks((8, 6)))
    (last,) = follower.step(draw((20, 10))).masks
    follower.step(draw((20, 10)))
    points, labels, boxes, masks = by_colour.asked[-1]
    assert points is not None and labels is not None and boxes is not None and masks is not None
    assert points.tolist() == [[list(innermost(last.runs))]] and labels.tolist() == [[1]]
    x0, y0, x1, y1 = last.box
    across, down = 0.1 * (x1 - x0), 0.1 * (y1 - y0)
    assert boxes.tolist() == [[x0 - across, y0 - down, x1 + across, y1 + down]]
    assert torch.equal(follower.frame.masks(masks[:, 0])[0], torch.from_numpy(last.runs.decode()))


def test_a_box_ends_where_the_image_does(by_colour):
    follower = Follower(by_colour, draw((0, 30)), first_masks((0, 30)))
    follower.step(draw((0, 30)))
    boxes = by_colour.asked[-1].boxes
    assert boxes is not None
    x0, y0, x1, y1 = boxes[0].tolist()
    assert x0 == 0 and 28 < y0 < 29 and 17 < x1 < 18 and 47 < y1 <= HEIGHT


def test_the_first_mask_goes_into_the_model_as_it_is(by_colour):
    """As logits of the decoder's size that give the mask back."""
    for place in [(8, 6), (64, 32), (0, 0)]:
        (mask,) = first_masks(place)
        follower = Follower(by_colour, draw(place), [mask])
        drawn = follower.frame.masks(follower._logits[1][None])[0].numpy()
        assert iou(mask, drawn) > 0.85
        assert follower._logits[1].abs().max() <= 8


def test_what_vanishes_is_lost_once_and_stays_so(by_colour):
    said: list[dict] = []
    frames = [
        draw((8, 6), (50, 20)), draw((9, 6), (50, 20)), draw(None, (50, 20)), draw((9, 6), (50, 20)), draw(None, None),
        draw((9, 6), (50, 20)),
    ]  # fmt: skip
    masks = first_masks((8, 6), (50, 20))
    follower = Follower(by_colour, frames[0], masks)
    answers = [follower.step(frame) for frame in frames[1:]]
    assert [[mask.number for mask in answer.masks] for answer in answers] == [[1, 2], [2], [2], [], []]
    assert [answer.lost for answer in answers] == [(), (1,), (), (2,), ()]
    assert follower.following == () and said == []


@pytest.mark.parametrize("below", [0.89, 0.91])
def test_an_object_of_which_too_little_is_expected_is_lost(by_colour, below):
    follower = Follower(by_colour, draw((8, 6)), first_masks((8, 6)), lost_below=below)
    assert follower.step(draw((8, 6))).lost == ((1,) if below > 0.9 else ())


def test_follow_asks_in_the_first_frame_and_tells_what_is_lost(by_colour, tmp_path):
    paths = []
    for number, frame in enumerate([draw((8, 6)), draw((10, 6)), draw((12, 6)), draw(None), draw((12, 6))]):
        paths.append(tmp_path / f"frame_{number + 7}.png")
        Image.fromarray(frame).save(paths[-1])
    paths[1].write_bytes(b"\x89PNG broken")
    said: list[dict] = []
    prompts = {"point_coords": [[12, 10]], "point_labels": [1]}
    answers = list(follow(by_colour, in_order(reversed(paths)), prompts, said.append))
    assert [[mask.number for mask in answer.masks] for answer in answers] == [[1], [], [1], [], []]
    assert answers[0].masks[0].predicted_iou == pytest.approx(0.8)  # the best of masks 1 to 3
    assert iou(answers[2].masks[0], square(12, 6)) > 0.8
    assert answers[1].error.startswith(str(paths[1]))
    assert said == [
        {"event": "warning", "text": answers[1].error},
        {"event": "warning", "text": f"{paths[3]}: object 1 is lost, and is not looked for again"},
    ]


def test_frames_are_taken_one_after_the_other(by_colour):
    """So that any number of them takes the memory of one."""
    taken = []

    def frames():
        for number in range(100):
            taken.append(number)
            yield draw((8, 6))

    answers = follow(by_colour, frames(), {"point_coords": [[12, 10]], "point_labels": [1]})
    for number in range(5):
        next(answers)
        assert taken == list(range(number + 1))


def test_several_prompts_are_several_objects(segmenter):
    frames = [draw((8, 6), (50, 20))] * 3
    boxes = [[8, 6, 24, 22], [50, 20, 66, 36]]
    answers = list(follow(segmenter, frames, {"box": boxes, "multimask_output": False}, lost_below=-np.inf))
    assert len(answers) == 3
    for answer in answers:
        assert {mask.number for mask in answer.masks} | set(answer.lost) <= {1, 2}
    segmenter.set_image(frames[0])
    drawn, _, _ = segmenter.predict(box=boxes, multimask_output=False)
    for mask, expected in zip(answers[0].masks, drawn[:, 0], strict=True):
        np.testing.assert_array_equal(mask.runs.decode(), expected)


def test_a_follower_that_was_left_goes_on_alike(by_colour):
    follower = Follower(by_colour, draw((8, 6)), first_masks((8, 6)))
    masks = follower.step(draw((12, 8))).masks
    again = Follower(by_colour, draw((12, 8)), masks, logits=follower.logits)
    expected = follower.step(draw((16, 9)))
    (mask,), (other,) = expected.masks, again.step(draw((16, 9))).masks
    np.testing.assert_array_equal(mask.runs.counts, other.runs.counts)
    assert mask.number == other.number


def test_mistakes_are_one_line(by_colour):
    first, masks = draw((8, 6)), first_masks((8, 6))
    with pytest.raises(
        RegardError, match=r"^frame: 40 x 48 pixels, the first has 80 x 48; the frames of a film have one"
    ):
        Follower(by_colour, first, masks).step(first[:, :40])
    with pytest.raises(
        RegardError, match=r"^mask 1: 80 x 48 pixels, 256 of them inside; expected an object in the first"
    ):
        Follower(by_colour, first[:40], masks)
    empty = Mask(3, RunLengths.of(np.zeros((HEIGHT, WIDTH), bool)), 0.9)
    with pytest.raises(
        RegardError, match=r"^mask 3: 80 x 48 pixels, 0 of them inside; expected an object in the first"
    ):
        Follower(by_colour, first, [empty])


def test_the_innermost_point_of_a_ring_lies_in_it():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(x - 40, y - 24)
    ring = (distance < 20) & (distance > 12)
    inner = innermost(RunLengths.of(ring))
    assert ring[int(inner[1]), int(inner[0])]
    assert 15 <= np.hypot(inner[0] - 40, inner[1] - 24) <= 17
    assert innermost(RunLengths.of(square(10, 20, 5))) == (12, 22)
    assert innermost(RunLengths.of(square(0, 0, 5))) == (2, 2)  # outside of the image is outside of the mask


def test_files_come_in_the_order_of_their_numbers():
    names = ["f10.png", "f9.png", "f09.png", "f1a2.png", "f1a10.png", "g.png", "f.png", "7.png", "10.png", "9.png"]
    expected = ["7.png", "9.png", "10.png", "f1a2.png", "f1a10.png", "f09.png", "f9.png", "f10.png", "f.png", "g.png"]
    assert [path.name for path in in_order(map(Path, names))] == expected
