"""The page of figures in headless Chromium: quiet, offline, inert, readable at every width and in both themes."""

from __future__ import annotations

import numpy as np
import pytest
from contrast import CONTRAST
from hostile import HOSTILE
from test_browser import opened

from regard.reporting.gallery import Gallery, formula_svg, render_gallery
from regard.reporting.pictures.cka import Cka
from regard.reporting.pictures.representation import Representation
from regard.reporting.pictures.signal_by_depth import Signal, SignalByDepth


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory):
    """Figures whose every name is an enemy's."""
    folder = tmp_path_factory.mktemp("gallery")
    random = np.random.default_rng(0)
    names = HOSTILE[:24]
    values = random.uniform(0, 1, (24, 24))
    values[3] = np.nan
    distances = np.abs(random.normal(size=(24, 24)))
    pictures = {
        "cka": Cka(values, names, names, (HOSTILE[0], HOSTILE[19]), "tokens", 8, 32),
        "signal_by_depth": SignalByDepth((Signal(HOSTILE[2], names[:4], np.ones(4), np.ones(4)),)),
        "representation": Representation(
            names, np.arange(24) % 6, names[:6], distances, distances.T, np.zeros((24, 8, 8, 3), np.uint8), 5
        ),
    }
    gallery = Gallery((HOSTILE[1], HOSTILE[2]), 1234, pictures, dict.fromkeys(HOSTILE[3:6], HOSTILE[20]))
    path = folder / "index.html"
    path.write_bytes(render_gallery(gallery, "ro").encode())
    assert "\n'=cmd|" in "\n" + pictures["representation"].csv()  # no formula for a spreadsheet
    for name, picture in pictures.items():
        (folder / f"{name}.csv").write_bytes(picture.csv().encode())
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_inert_quiet_and_readable(browser, page_file, width, scheme) -> None:
    page, trouble = opened(browser, page_file, width, 844, scheme)
    assert page.evaluate("window.hit") is None and trouble == []
    assert page.locator("script, iframe, base, [onerror], [onload], meta[http-equiv=refresh]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    sizes = page.evaluate(
        "Promise.all([...document.images].map(one => one.decode().then(() => one.naturalWidth * one.naturalHeight)))"
    )
    assert len(sizes) == 6 and min(sizes) > 100
    card = page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert card == "rgb(255, 255, 255)"  # figures are drawn for paper
    page.close()


def test_links_and_words(browser, page_file) -> None:
    page, _ = opened(browser, page_file)
    assert page.locator("html").get_attribute("lang") == "ro"
    assert page.locator("section.gallery-figure").count() == 3
    assert page.locator("a[href='cka.csv']").inner_text() == "valori (CSV)"
    assert (page_file.parent / "cka.csv").read_text("utf-8").startswith("model,layer,against")
    assert page.locator("dl.verdicts dt").count() == 1  # three names, one reason
    assert "1\u202f234 imagini" in page.locator(".kicker").inner_text()
    page.close()


def test_formulas_are_drawings() -> None:
    svg = formula_svg("words and $\\sum_i x_i^2$")
    assert "<path" in svg and svg == formula_svg("words and $\\sum_i x_i^2$")
