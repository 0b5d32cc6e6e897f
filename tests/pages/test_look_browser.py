"""The page of `regard look` in headless Chromium: what can be done with it, and that its numbers are `record`'s."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from contrast import CONTRAST
from opened import frame, opened
from PIL import Image

from regard.inference.loaded import LoadedModel, fresh_model
from regard.models.attending import attention_layers
from regard.taps import record
from regard.verbs.look import look

HOSTILE = "</script><img src=x onerror='window.hit=1'>"
CLASSES = ("hat", HOSTILE, "t-shirt", "dress", "skirt", "shorts", "coat")


def made(name: str, folder: Path, side: int = 64, gain: float = 5, **options) -> tuple[LoadedModel, Path, Path]:
    """A model whose attention is not uniform (gain: of q, k and v), its photo, and the page of both."""
    torch.manual_seed(1)
    loaded = fresh_model(name, CLASSES)
    with torch.no_grad():
        for layer in attention_layers(loaded.model):
            module = loaded.model.get_submodule(layer.name)
            getattr(module, "qkv", getattr(module, "kqv", None)).weight.mul_(gain)
        torch.nn.init.normal_(loaded.model.get_submodule(loaded.head).weight, std=0.3)
    y, x = np.mgrid[:side, :side] / side
    waves = np.stack([np.sin(9 * x + 3 * y), np.cos(7 * y), np.sin(20 * x * y)], -1)
    photo = folder / "photo.png"
    Image.fromarray((127.5 + 127 * waves).astype(np.uint8)).save(photo)
    look(loaded, photo, html=folder / f"{name}.html", **options)
    return loaded, photo, folder / f"{name}.html"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Path, Path]:
    return made("vit_nano_patch4_32", tmp_path_factory.mktemp("vit"))


def seen_in(loaded: LoadedModel, photo: Path, part: str) -> list[np.ndarray]:
    """What `record` sees of each layer."""
    names = [f"{layer.name}.{part}" for layer in attention_layers(loaded.model)]
    with torch.no_grad(), record(loaded.model, *names) as seen:
        loaded.model(loaded.preprocess(photo)[None])
    return [seen[name].numpy() for name in names]


def point(page, row: int, column: int, grid: int = 8) -> None:
    """The middle of a patch."""
    area = page.locator(".photo-field").bounding_box()
    page.mouse.move(
        area["x"] + (column + 0.5) / grid * area["width"], area["y"] + (row + 0.5) / grid * area["height"], steps=2
    )
    frame(page)


def number(page, selector: str) -> float:
    text = page.locator(selector).inner_text().replace("−", "-")
    return float(text.removesuffix("%")) / (100 if "%" in text else 1)


def words(path: Path) -> dict:
    return json.loads(re.search(r'id="page">(.*?)</script>', path.read_text("utf-8"))[1])


def test_shown_shares_are_those_of_record(browser, vit) -> None:
    loaded, photo, path = vit
    patterns, error = seen_in(loaded, photo, "pattern"), words(path)["errors"]["pattern"]
    compared = []
    with opened(browser, path) as page:
        for layer, head in ((0, 0), (1, 2), (3, 1), (2, None)):
            name = "mean of the heads" if head is None else f"head {head}"
            page.get_by_role("gridcell", name=f"layer {layer}, {name}").click()
            for token, other in (((1, 2), (6, 5)), ((7, 7), (0, 0))):
                point(page, *token)
                page.mouse.down()
                page.mouse.up()
                point(page, *other)
                i, j = (1 + 8 * row + column for row, column in (token, other))
                expected = patterns[layer][0, :, i, j] if head is None else patterns[layer][0, head, i, j]
                value = float(expected.mean())
                rounding = 0.0051 if value >= 0.0995 else 0.00051 if value >= 0.00995 else 0.000051
                assert number(page, ".pair-value") == pytest.approx(value, abs=error + rounding)
                page.keyboard.press("d")
                frame(page)
                back = patterns[layer][0, :, j, i] if head is None else patterns[layer][0, head, j, i]
                assert number(page, ".pair-value") == pytest.approx(float(back.mean()), abs=error + 0.0051)
                compared.append(value)
                page.keyboard.press("d")
                page.keyboard.press("Escape")
    assert max(compared) > 5 * min(compared)


def test_scores_are_products_of_queries_and_keys(browser, vit) -> None:
    loaded, photo, path = vit
    queries, keys = (seen_in(loaded, photo, part) for part in "qk")
    patterns, errors = seen_in(loaded, photo, "pattern"), words(path)["errors"]
    with opened(browser, path) as page:
        page.keyboard.press("4")
        for layer, head, token, other in ((3, 0, (2, 3), (4, 4)), (1, 2, (0, 7), (5, 1))):
            page.locator("#layer-qkv").select_option(str(layer))
            page.locator(".chooser select").nth(1).select_option(str(head))
            point(page, *token)
            page.keyboard.press(" ")
            point(page, *other)
            i, j = (1 + 8 * row + column for row, column in (token, other))
            score = queries[layer][0, head, i] @ keys[layer][0, head, j] / np.sqrt(queries[layer].shape[-1])
            assert number(page, ".score-value") == pytest.approx(score, abs=errors["score"] + 0.0051)
            assert number(page, ".weight-value") == pytest.approx(
                patterns[layer][0, head, i, j], abs=errors["pattern"] + 0.0051
            )
            page.keyboard.press("Escape")
        field = page.locator(".strip-field").first
        field.click(position={"x": 5, "y": 10})
        frame(page)
        assert "Queries, channel 0" in page.locator(".photo-title").inner_text()
        assert page.locator(".strip-mark:visible").count() == 1


def test_keys(browser, vit) -> None:
    _, _, path = vit
    with opened(browser, path) as page:
        readout = page.locator("#readout")
        assert "class token" in readout.inner_text()
        page.keyboard.press("ArrowDown")
        frame(page)
        assert readout.inner_text().startswith("Patch 0, 4")
        for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        frame(page)
        assert readout.inner_text().startswith("Patch 1, 7")
        page.keyboard.press("[")
        page.keyboard.press(".")
        frame(page)
        assert page.locator(".head-cell[aria-selected=true]").get_attribute("aria-label") == "layer 2, head 0"
        page.locator(".head-cell[aria-selected=true]").focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowDown")
        frame(page)
        chosen = page.locator(".head-cell[aria-selected=true]")
        assert chosen.get_attribute("aria-label") == "layer 1, head 1"
        page.wait_for_function("document.activeElement.getAttribute('aria-selected') === 'true'")
        page.keyboard.press("c")
        frame(page)
        assert "class token" in readout.inner_text()
        titles = []
        for key in "1234567":
            page.keyboard.press(key)
            frame(page)
            assert page.locator("[role=tab][aria-selected=true] .step-number").inner_text() == key
            titles.append(page.locator("#panel h2").inner_text())
        assert len(set(titles)) == 7
        page.keyboard.press("?")
        assert page.locator("dialog").is_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("t")
        frame(page)
        assert page.locator("html").get_attribute("data-theme") == "dark"


def test_steps_name_their_shapes_and_the_tokens_numbers(browser, vit) -> None:
    _, _, path = vit
    with opened(browser, path) as page:
        shapes = page.locator(".step-shape").all_inner_texts()
        assert shapes == ["3 × 32 × 32", "8 × 8", "65 × 96", "3 × 3 × 65 × 32", "3 × 65 × 65", "65 × 96", "7"]
        for step in ("image", "patches", "embedding", "block"):
            page.locator(f"#tab-{step}").click()
            point(page, 3, 5)
            assert page.locator("#panel .formula").count() == 1
            assert page.locator("#panel .lede").inner_text()
        page.locator("#tab-image").click()
        point(page, 3, 5)
        shown = [float(cell.replace("−", "-")) for cell in page.locator("#panel td").all_inner_texts()]
        assert len(shown) == 6 and all(0 <= value <= 255 for value in shown[::2])


def test_classes_methods_and_depth(browser, vit) -> None:
    _, _, path = vit
    given = words(path)
    with opened(browser, path) as page:
        page.keyboard.press("7")
        frame(page)
        rows = page.locator(".class-row")
        assert [row.inner_text() for row in rows.locator(".class-name").all()] == [
            one["name"] for one in given["targets"]
        ]
        pictures = set()
        for method in given["explanations"]:
            page.locator(f"[role=group][aria-label=Method] button[title='{method['name']}']").click()
            for number_ in (0, 2):
                rows.nth(number_).click()
                frame(page)
                name = given["targets"][number_]["name"] if method["count"] > 1 else "draws on"
                assert name in page.locator(".photo-title").inner_text()
                pictures.add(page.locator(".photo-canvas").evaluate("canvas => canvas.toDataURL()"))
        maps = sum(2 if method["count"] > 1 else 1 for method in given["explanations"])
        assert len(pictures) == maps
        assert page.locator(".chart .line").count() == 5
        assert given["depth"]["best"][-1][0] in page.locator(".found").inner_text()
        assert page.evaluate("window.hit") is None and page.locator("img").count() == 0


def test_touch_chooses_a_token_and_holds_a_pair(browser, vit) -> None:
    _, _, path = vit
    with opened(browser, path, 390, 844, touch=True) as page:

        def tap(row: int, column: int) -> None:
            page.locator(".photo-field").scroll_into_view_if_needed()
            area = page.locator(".photo-field").bounding_box()
            x, y = ((place + 0.5) / 8 * area[side] for place, side in ((column, "width"), (row, "height")))
            page.touchscreen.tap(area["x"] + x, area["y"] + y)

        tap(2, 6)
        frame(page)
        assert page.locator("#readout").inner_text().startswith("Patch 2, 6 looks most at")
        page.get_by_role("button", name="Hold").tap()
        tap(5, 1)
        frame(page)
        assert re.match(r"Patch 2, 6 gives .* to patch 5, 1", page.locator("#readout").inner_text())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_at_phone_width(browser, vit, scheme: str) -> None:
    _, _, path = vit
    with opened(browser, path, 390, 844, scheme) as page:
        for key in "1234567":
            page.keyboard.press(key)
            frame(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.evaluate(CONTRAST, True) == []


@pytest.mark.parametrize(
    "name",
    [
        "swin_nano_patch2_window4_32",
        "botnet20_32",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in (
                "t2t_vit_nano_32",
                "deit_nano_distilled_patch4_32",
                "vit_nano_patch4_reg4_dinov2_32",
                "vit_nano_r8_s4_32",
                "pixel_transformer_8",
            )
        ),
    ],
)
def test_other_transformers(browser, tmp_path: Path, name: str) -> None:
    loaded, photo, path = made(name, tmp_path, method=["attention"])
    layers = attention_layers(loaded.model)
    with opened(browser, path) as page:
        steps = page.locator("[role=tab]").count()
        assert steps == (5 if name.startswith("botnet") else 7)
        for key in range(1, steps + 1):
            page.keyboard.press(str(key))
            for place in range(0, 2 * len(layers), 2):
                page.keyboard.press("[" if key % 2 else "]")
                point(page, place % 4, place % 3, 4)
            assert page.locator("#panel h2").inner_text()
        page.locator("#tab-attention").click()
        side, patterns = layers[0].grid[0], seen_in(loaded, photo, "pattern")[0]
        point(page, 1, 1, side)
        token = layers[0].prefix + side + 1
        whole = layers[0].whole(torch.from_numpy(patterns)).mean(1)[0, token].numpy()
        best = np.delete(whole, token).max()
        assert number(page, ".pair-value") == pytest.approx(best, abs=words(path)["errors"]["pattern"] + 0.0051)


def test_a_window_is_all_that_a_token_sees(browser, tmp_path: Path) -> None:
    _, _, path = made("swin_nano_patch2_window4_32", tmp_path, method=["attention"])
    with opened(browser, path) as page:
        page.get_by_role("gridcell", name="layer 0, head 0").click()
        point(page, 5, 9, 16)
        page.wait_for_function("document.querySelectorAll('.head-cell canvas')[0].width === 16")
        frame(page)
        first = page.locator(".head-cell[data-layer='0'][data-head='0'] canvas")
        opaque = first.evaluate(
            "canvas => canvas.getContext('2d').getImageData(0, 0, 16, 16).data.filter((_, at) => at % 4 === 3 && _)"
        )
        assert len(opaque) == 16  # 4 x 4 of 16 x 16


@pytest.mark.long
@pytest.mark.parametrize(("name", "most"), [("vit_base_patch16_224", 12e6), ("vit_tiny_patch16_224", 4e6)])
def test_size_and_time(browser, tmp_path: Path, name: str, most: float) -> None:
    _, _, path = made(name, tmp_path, side=400, gain=1, method=["relevance"])  # nearly uniform packs worst
    assert path.stat().st_size <= most
    milliseconds = []
    for _ in range(3):
        with opened(browser, path) as page:
            milliseconds.append(int(page.locator("html").get_attribute("data-ready")))
            point(page, 3, 4, 14)
            assert page.locator("#readout").inner_text().startswith("Patch 3, 4 looks most")
    assert min(milliseconds) < 2000, milliseconds
