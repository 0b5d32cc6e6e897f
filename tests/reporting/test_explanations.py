"""The sheet of explanations in headless Chromium: quiet, offline, inert, readable at every width and in both themes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from contrast import CONTRAST
from hostile import HOSTILE
from PIL import Image
from test_browser import opened

from regard.reporting.explanations import IN_PICTURE, Entry, InsideRow, Panel, Sheet, Tile, picture_of, render_sheet
from regard.reporting.overlays import overlay, small


class Share(NamedTuple):
    value: float
    low: float | None = None
    high: float | None = None


def made(ids: tuple[str, ...], models: tuple[str, ...] = ("vit", "cnn"), boxes: bool = True) -> Sheet:
    """A sheet of made-up maps, with a name of the enemy wherever a name can be."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    picture, drawn = small(photo), small(overlay(photo, rng.normal(size=(4, 5))))
    entries = []
    for number, id_ in enumerate(ids):
        name = HOSTILE[number % len(HOSTILE)]
        tiles = tuple(Tile(one, drawn, *((0.62, True) if boxes else ())) for one in ("relevance", "occlusion+size=16"))
        panels = (
            Panel(models[0], picture, f"{name} 93.1%", f"{name} 2.1%", tiles, *((0.31, 0.4) if boxes else ())),
            *(Panel(model, picture, "dress 11.0%", "", tiles[:1]) for model in models[1:]),
        )
        entries.append(Entry(id_, panels))
    rows = [InsideRow(one, "relevance", 12, Share(0.62, 0.5, 0.7), 0.31, 0.4, Share(0.8)) for one in models]
    return Sheet(
        models, f"of {HOSTILE[1]}", entries, len(entries) + 7, rows if boxes else (), [f"unreadable: {HOSTILE[0]}"],
        [(f"Table {HOSTILE[2]}", ("method", HOSTILE[3]), [(HOSTILE[4], "0.1")])],
    )  # fmt: skip


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sheet") / "index.html"
    path.write_text(render_sheet(made(HOSTILE, ("vit" + HOSTILE[0], HOSTILE[5]))), "utf-8", "backslashreplace")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_sheet_is_inert_quiet_and_readable(browser, page_file: Path, width: int, scheme: str) -> None:
    page, trouble = opened(browser, page_file, width, 844, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("window.hit") is None
    assert (
        page.locator("script, iframe, base, main img[src=x], [onerror], [onload], style + style + style").count() == 0
    )
    assert page.locator("article").count() == len(HOSTILE)
    assert "<script>window.hit=1</script>" in page.locator("main").inner_text()
    assert trouble == []
    page.close()


def test_every_picture_is_in_the_page(browser, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(render_sheet(made(("a.jpg", "b.jpg"))))
    page, trouble = opened(browser, path)
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") >= 80
    assert page.locator("article img").count() == 2 * (1 + 2 + 1 + 1)
    first, second = (panel.bounding_box() for panel in page.locator("article").first.locator(".side").all())
    assert first["y"] == second["y"]  # side by side
    assert "The first 2 of 9 photos" in page.locator("main").inner_text()
    assert trouble == []
    page.close()


def test_one_model_needs_no_column_for_it() -> None:
    text = render_sheet(made(("a.jpg",), ("vit",)))
    assert '<th scope="col">Model</th>' not in text
    assert "62.0% inside" in text
    assert "50.0% to 70.0%" in text
    plain = render_sheet(made(("a.jpg",), ("vit",), boxes=False))
    assert "inside" not in plain.partition("<main>")[2]
    assert "covered" in plain  # what occlusion is, by its name without options


def test_the_picture_of_a_sheet_has_its_first_photos() -> None:
    def size(photos: int) -> tuple[int, int]:
        return Image.open(io.BytesIO(picture_of(made(tuple(f"{number}.jpg" for number in range(photos)))))).size

    (width, one), (_, two) = size(1), size(2)
    assert size(IN_PICTURE + 3) == (width, one + (IN_PICTURE - 1) * (two - one))
