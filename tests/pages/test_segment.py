"""What the page of `regard segment` is made of, read back from its file."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regard.masks import Mask, RunLengths
from regard.pages.segment import LONGEST, Clicks, SegmentPage, render_segment, segmented_image


def photo(height: int, width: int, noise: float = 0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 5)], -1)
    return (127.5 + 100 * waves + np.random.default_rng(0).normal(0, noise, waves.shape)).clip(0, 255).astype(np.uint8)


def read(html: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The words of a page, and its blobs."""
    words = json.loads(re.search(r'id="page">(.*?)</script>', html)[1])
    return words, dict(re.findall(r'<script type="text/plain" id="blob-([\w-]+)">(.*?)</script>', html))


def arrays(words: dict[str, Any], blobs: dict[str, str], name: str) -> dict[str, np.ndarray]:
    content = gzip.decompress(base64.b64decode(blobs[name]))
    found = {}
    for key, (kind, shape, dtype, offset) in words["index"][name].items():
        assert kind == "plain"
        found[key] = np.frombuffer(content, dtype, int(np.prod(shape)), offset).reshape(shape)
    return found


def runs_of(found: dict[str, np.ndarray], height: int, width: int) -> list[np.ndarray]:
    ends = zip(found["starts"][:-1], found["starts"][1:], strict=True)
    texts = [bytes(found["runs"][start:end]).decode() for start, end in ends]
    return [RunLengths.of_text(text, height, width).decode() for text in texts]


def pixels_of(url: str) -> tuple[str, np.ndarray]:
    kind, text = re.fullmatch(r"data:image/(\w+);base64,(.*)", url).groups()
    return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_masks_and_what_is_known_of_them_are_in_the_page() -> None:
    random = np.random.default_rng(1)
    shown = [random.random((7, 11)) < share for share in (0.2, 0.5, 0.0, 1.0)]
    masks = [
        Mask(3, RunLengths.of(shown[0]), 0.75, 0.5, ((2.0, 3.25),), None, "dog", 0.5),
        Mask(7, RunLengths.of(shown[1]), 0.25, None),
        *(Mask(8 + number, RunLengths.of(one), 1.0, 1.0) for number, one in enumerate(shown[2:])),
    ]
    image = segmented_image("a.png", photo(7, 11), masks)
    words, blobs = read(render_segment(SegmentPage("sam", [image, image], "a box", ["a note"], "regard segment a.png")))
    for number in (0, 1):
        found = arrays(words, blobs, f"masks-{number}")
        assert all((one == right).all() for one, right in zip(runs_of(found, 7, 11), shown, strict=True))
        assert found["number"].tolist() == [3, 7, 8, 9]
        assert found["iou"].tolist() == [0.75, 0.25, 1, 1]
        np.testing.assert_equal(found["stability"], np.float32([0.5, np.nan, 1, 1]))
        np.testing.assert_equal(found["score"], np.float32([0.5, np.nan, np.nan, np.nan]))
        kind, pixels = pixels_of(blobs[f"picture-{number}"])
        assert kind == "png" and (pixels == photo(7, 11)).all()
    given = words["images"][1]
    assert given["names"] == ["dog", "", "", ""] and given["points"] == [[[2.0, 3.2]], [], [], []]
    assert (given["name"], given["height"], given["width"], given["clicks"]) == ("a.png", 7, 11, None)
    assert words["title"] == "Masks of a.png and 1 more" and words["clicks"] is False


def test_the_masks_of_a_grid_of_clicks_are_in_the_page() -> None:
    random = np.random.default_rng(2)
    kept = random.random((4, 3, 5, 6)) < 0.4  # smaller than the image
    places = np.array([[2.5, 2.5], [9, 2.5], [2.5, 7], [9, 7]])
    runs = [[RunLengths.of(one) for one in row] for row in kept]
    image = segmented_image("a.png", photo(10, 12), [], Clicks(places, runs, np.full((4, 3), 0.5)))
    words, blobs = read(render_segment(SegmentPage("sam", [image])))
    found = arrays(words, blobs, "clicks-0")
    assert (np.array(runs_of(found, 5, 6)).reshape(kept.shape) == kept).all()
    assert found["places"].tolist() == places.tolist() and found["iou"].shape == (4, 3)
    assert words["images"][0]["clicks"] == {"count": 4, "height": 5, "width": 6} and words["clicks"] is True


@pytest.mark.parametrize("sides", [(900, LONGEST + 400), (LONGEST + 5, 30)])
def test_a_large_picture_is_made_smaller_and_its_masks_are_not(sides: tuple[int, int]) -> None:
    mask = np.zeros(sides, bool)
    mask[3:20, 5:25] = True
    image = segmented_image("a.jpg", photo(*sides, noise=40), [Mask(1, RunLengths.of(mask), 0.9)])
    words, blobs = read(render_segment(SegmentPage("sam", [image])))
    _, pixels = pixels_of(blobs["picture-0"])
    assert max(pixels.shape) == LONGEST
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(sides[0] / sides[1], rel=0.02)
    assert (words["images"][0]["height"], words["images"][0]["width"]) == sides
    assert (runs_of(arrays(words, blobs, "masks-0"), *sides)[0] == mask).all()


def test_names_of_files_and_masks_are_text() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    mask = Mask(1, RunLengths.of(np.ones((4, 4), bool)), 0.9, name=hostile)
    image = segmented_image(hostile, photo(4, 4), [mask])
    html = render_segment(SegmentPage(hostile, [image], hostile, (hostile,), hostile))
    assert "<img" not in html
    assert read(html)[0]["images"][0]["names"] == [hostile]
