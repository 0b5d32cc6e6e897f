"""The page that is gathered image by image: what it holds, and what it says that it does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from regard.masks import Mask, RunLengths
from regard.segmentation.everything import Click, Clicks
from regard.verbs.segmenting import page as gathering
from regard.verbs.segmenting.page import SegmentPages

PIXELS = np.zeros((20, 30, 3), np.uint8)
MASK = np.zeros((20, 30), bool)
MASK[3:9, 4:20] = True


def gathered(path: Path, count: int, clicks: Clicks | None = None) -> tuple[SegmentPages, str]:
    pages = SegmentPages(path, "sam_nano_128", "everything", "regard segment photos --html page.html")
    for number in range(count):
        pages.add(f"{number}.png", PIXELS, [Mask(1, RunLengths.of(MASK), 0.9)], clicks)
    assert pages.write() == path
    return pages, path.read_text("utf-8")


def words(html: str) -> dict:
    return json.loads(re.search(r'id="page">(.*?)</script>', html)[1])


def test_images_come_in_their_order_and_clicks_with_their_sizes(tmp_path: Path) -> None:
    small = RunLengths.of(MASK[::2, ::2])
    clicks = Clicks(10, 15, tuple(Click((x, 5.0), (small, small, small), (0.9, 0.8, 0.7)) for x in (5.0, 15.0, 25.0)))
    _, html = gathered(tmp_path / "page.html", 3, clicks)
    found = words(html)
    assert [image["name"] for image in found["images"]] == ["0.png", "1.png", "2.png"]
    assert all(image["clicks"] == {"count": 3, "height": 10, "width": 15} for image in found["images"])
    assert len(found["notes"]) == 1 and "512" in found["notes"][0]
    assert "regard segment photos --html page.html" in html


@pytest.mark.parametrize("limit", ["MOST_IMAGES", "MOST_BYTES"])
def test_what_does_not_fit_is_counted_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    one, _ = gathered(tmp_path / "one.html", 1)
    monkeypatch.setattr(gathering, limit, 2 if limit == "MOST_IMAGES" else int(2.5 * one.images[0].bytes))
    pages, html = gathered(tmp_path / "page.html", 5)
    assert len(pages.images) == 2 and pages.left_out == 3
    assert "the first 2 of 5 images" in html and words(html)["images"][-1]["name"] == "1.png"


def test_without_an_image_there_is_no_page(tmp_path: Path) -> None:
    assert SegmentPages(tmp_path / "page.html", "sam", "", "").write() is None
    assert list(tmp_path.iterdir()) == []
