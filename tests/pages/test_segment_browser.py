"""The page of `regard segment` in headless Chromium: what can be done with it, and that its masks stay true."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from contrast import CONTRAST
from opened import frame, opened
from PIL import Image

from regard.masks import Mask, RunLengths
from regard.pages.segment import Clicks, SegmentPage, segmented_image, write_segment

HEIGHT, WIDTH = 90, 120
HOSTILE = "</script><img src=x onerror='window.hit=1'>"


def disc(x: float, y: float, radius: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(columns - x, rows - y) < radius


# Of the first image: a whole, a part of it and a part of that; one over the edge of the whole; a ring at the corner.
SHOWN = [disc(40, 45, 30), disc(46, 40, 16), disc(50, 38, 6), disc(85, 60, 25), disc(112, 8, 14) & ~disc(112, 8, 5)]
NAMES = ("", "dog", HOSTILE, "", "")
PHOTO = (127.5 + 100 * np.sin(np.mgrid[:HEIGHT, :WIDTH].sum(0) / 7))[..., None].repeat(3, -1).astype(np.uint8)


def answers(height: int = HEIGHT, width: int = WIDTH) -> Clicks:
    """A grid of 6 x 8 clicks that find the discs, at any size of the masks."""
    scale = height / HEIGHT
    whole, part, small = (
        disc(scale * x, scale * y, scale * r, height, width) for x, y, r in ((40, 45, 30), (46, 40, 16), (50, 38, 6))
    )
    other = disc(scale * 85, scale * 60, scale * 25, height, width)
    nothing = np.zeros_like(whole)
    places = np.array(
        [[(column + 0.5) * WIDTH / 8, (row + 0.5) * HEIGHT / 6] for row in range(6) for column in range(8)]
    )
    runs, iou = [], []
    for x, y in places:
        masks = (small, whole, part) if disc(40, 45, 30)[int(y), int(x)] else (nothing, nothing, other)
        runs.append([RunLengths.of(one) for one in masks])
        iou.append((0.5, 0.7, 0.9))
    return Clicks(places, runs, np.array(iou))


def written(path: Path, clicks: Clicks | None = None) -> Path:
    masks = [
        Mask(number, RunLengths.of(one), 1 - number / 10, None if number == 4 else 0.9, ((9.5, 9.5),), None, name)
        for number, (one, name) in enumerate(zip(SHOWN, NAMES, strict=True), start=1)
    ]
    second = [Mask(1, RunLengths.of(SHOWN[3].T), 0.5, name="cat")]
    images = [segmented_image("photos/one.png", PHOTO, masks, clicks)]
    images += [segmented_image("two.png", PHOTO.transpose(1, 0, 2), second)]
    return write_segment(SegmentPage("sam_vit_b", images, "everything", ("A note.",), "regard segment photos"), path)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("segment") / "page.html", answers())


def over(page, x: float, y: float, height: int = HEIGHT, width: int = WIDTH) -> tuple[float, float]:
    """Where on the screen a pixel of the image is."""
    area = page.locator(".field").bounding_box()
    return area["x"] + (x + 0.5) / width * area["width"], area["y"] + (y + 0.5) / height * area["height"]


def click(page, x: float, y: float, *keys: str) -> None:
    for key in keys:
        page.keyboard.down(key)
    page.mouse.click(*over(page, x, y))
    for key in keys:
        page.keyboard.up(key)
    frame(page)


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
        frame(page)


def text(page, selector: str) -> str:
    return page.locator(selector).inner_text()


def saved(page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    target = folder / download.value.suggested_filename
    download.value.save_as(target)
    return target


def coco(path: Path) -> tuple[dict, list[np.ndarray]]:
    """What is in a COCO file, and its masks as pycocotools decodes them."""
    tools = pytest.importorskip("pycocotools.mask")
    content = json.loads(path.read_text())
    with warnings.catch_warnings():  # of NumPy, about pycocotools
        warnings.simplefilter("ignore", DeprecationWarning)
        return content, [tools.decode(one["segmentation"]).astype(bool) for one in content["annotations"]]


def test_the_smallest_mask_under_the_pointer_is_named(browser, path: Path) -> None:
    with opened(browser, path) as page:
        for x, y in ((12, 45), (46, 27), (50, 38), (85, 60), (60, 60), (112, 8), (118, 3), (2, 2), (119, 89)):
            page.mouse.move(*over(page, x, y))
            frame(page)
            under = [number for number, one in enumerate(SHOWN) if one[y, x]]
            said = text(page, "#readout")
            if not under:
                assert said == f"No mask at {x}, {y}"
                continue
            smallest = min(under, key=lambda number: SHOWN[number].sum())
            assert said.startswith(NAMES[smallest] or f"Mask {smallest + 1} ")
            assert f"{SHOWN[smallest].sum():,} px" in said and f"predicted IoU {0.9 - smallest / 10:.2f}" in said
            assert ("stability" in said) == (smallest != 3)
            assert page.locator(".row.pointed .row-name").inner_text() == (NAMES[smallest] or f"Mask {smallest + 1}")
        assert page.evaluate("window.hit") is None and page.locator("img").count() == 0


def test_colours_are_painted_where_the_masks_are(browser, path: Path) -> None:
    with opened(browser, path) as page:
        page.get_by_role("button", name="Outlines").click()
        frame(page)
        across, down = page.locator(".layer").nth(1).evaluate("one => [one.width, one.height]")
        painted = (
            page.locator(".layer")
            .nth(1)
            .evaluate(
                "one => { const { data } = one.getContext('2d').getImageData(0, 0, one.width, one.height);"
                "return Array.from({ length: data.length / 4 }, (_, at) => (data[4 * at + 3] ? 1 : 0)).join(''); }"
            )
        )
        inside = (np.frombuffer(painted.encode(), np.uint8) == ord("1")).reshape(down, across)
        rows = ((np.arange(down) + 0.5) * HEIGHT / down).astype(int)
        columns = ((np.arange(across) + 0.5) * WIDTH / across).astype(int)
        assert (inside == np.any(SHOWN, axis=0)[rows[:, None], columns]).mean() > 0.9999
        page.keyboard.press("+")
        page.keyboard.press("+")
        frame(page)
        for x, y in ((60, 45), (100, 70), (2, 2)):  # 2.25 times as large, the middle stays where it is
            page.mouse.move(*over(page, x, y))
            frame(page)
            column, row = (round(middle + (at - middle) / 2.25) for at, middle in ((x, 60), (y, 45)))
            under = [number for number, one in enumerate(SHOWN) if one[row, column]]
            assert under and text(page, "#readout").startswith(NAMES[under[-1]] or f"Mask {under[-1] + 1} ")


def test_choosing_naming_hiding_deleting_and_taking_back(browser, path: Path) -> None:
    with opened(browser, path) as page:
        rows = page.locator(".row-name")
        assert rows.all_inner_texts() == ["Mask 1", "Mask 4", "dog", "Mask 5", HOSTILE]  # by area
        click(page, 50, 38)
        assert page.locator("#card h2").inner_text() == HOSTILE
        click(page, 50, 38)  # again: what lies below
        assert page.locator("#card h2").inner_text() == "dog"
        click(page, 50, 38)
        assert page.locator("[role=row][aria-selected=true] .row-name").all_inner_texts() == ["Mask 1"]
        press(page, "n")
        page.keyboard.type("boat")
        press(page, "Enter")
        assert rows.nth(0).inner_text() == "boat" and "mask 1" in page.locator(".row-facts").nth(0).inner_text()
        assert "boat" in page.locator(".labels").inner_text()
        click(page, 90, 75, "Shift")
        assert text(page, "#card h2") == "2 masks"
        press(page, " ")
        page.mouse.move(*over(page, 90, 75))
        frame(page)
        assert text(page, "#readout") == "No mask at 90, 75"  # it is hidden
        assert page.locator(".swatch[aria-pressed=false]").count() == 2
        press(page, "Delete")
        assert rows.all_inner_texts() == ["dog", "Mask 5", HOSTILE] and text(page, "h1").startswith("3 masks")
        press(page, "z", "z")
        assert rows.count() == 5 and page.locator(".swatch[aria-pressed=false]").count() == 0
        press(page, "z")
        assert rows.nth(0).inner_text() == "Mask 1"
        press(page, "y")
        assert rows.nth(0).inner_text() == "boat"
        page.get_by_role("button", name="Show dog").click()
        frame(page)
        assert page.locator(".swatch[aria-pressed=false]").count() == 1
        page.get_by_role("searchbox").fill("bo")
        frame(page)
        assert rows.all_inner_texts() == ["boat"]


def test_a_chosen_mask_gets_a_colour_and_merges(browser, path: Path, tmp_path: Path) -> None:
    with opened(browser, path) as page:
        click(page, 12, 45)
        colour = page.locator("#card input[type=color]")
        colour.evaluate("one => { one.value = '#010203'; one.dispatchEvent(new Event('change')); }")
        frame(page)
        assert page.locator(".swatch").first.evaluate("one => one.style.getPropertyValue('--colour')") == "rgb(1 2 3)"
        click(page, 100, 70, "Shift")
        click(page, 118, 3, "Shift")
        press(page, "m", "n")
        page.keyboard.type("all of it")
        press(page, "Enter", "Escape")
        content, masks = coco(saved(page, "COCO JSON", tmp_path))
        names = [one["name"] for one in content["categories"]]
        merged = [mask for one, mask in zip(content["annotations"], masks, strict=True) if one["number"] == 6]
        assert "all of it" in names and len(merged) == 1
        assert (merged[0] == SHOWN[0] | SHOWN[3] | SHOWN[4]).all()


def test_clicks_are_answered_by_the_nearest_place_of_the_grid(browser, path: Path, tmp_path: Path) -> None:
    whole, part, small, other = SHOWN[0], SHOWN[1], SHOWN[2], SHOWN[3]
    with opened(browser, path) as page:
        press(page, "c")
        click(page, 30, 50)
        assert page.locator(".pick-name").all_inner_texts() == ["Whole", "Part", "Sub-part"]
        assert page.locator(".pick[aria-pressed=true] .pick-name").inner_text() == "Part"  # the best estimate
        assert f"{part.sum():,} px" in text(page, "#readout")
        click(page, 30, 50)
        assert f"{small.sum():,} px" in text(page, "#readout")
        click(page, 30, 50)
        assert f"{whole.sum():,} px" in text(page, "#readout")
        press(page, "3")
        assert f"{small.sum():,} px" in text(page, "#readout")
        press(page, "1")
        click(page, 100, 70, "Shift")
        assert f"{(whole | other).sum():,} px" in text(page, "#readout")
        click(page, 30, 50, "Alt")  # by the best estimate, the part
        assert f"{((whole | other) & ~part).sum():,} px" in text(page, "#readout")
        press(page, "Enter")
        assert text(page, "h1").startswith("6 masks") and text(page, "#card h2") == "Mask 6"
        press(page, "Enter")
        page.keyboard.type("kept")
        press(page, "Enter")
        content, masks = coco(saved(page, "COCO JSON", tmp_path))
        kept = content["annotations"][-2]
        assert kept["number"] == 6 and len(kept["point_coords"]) == 3 and "predicted_iou" not in kept
        assert (masks[-2] == (whole | other) & ~part).all()


def test_clicks_by_keys_alone(browser, path: Path) -> None:
    with opened(browser, path) as page:
        page.locator(".field").focus()
        press(page, "c", "ArrowLeft")
        first = text(page, "#readout")
        press(page, "ArrowRight", "ArrowRight", "ArrowRight")
        assert text(page, "#readout") != first and f"{SHOWN[3].sum():,} px" in text(page, "#readout")
        press(page, "Enter")
        assert text(page, "h1").startswith("6 masks")


def test_kept_masks_of_smaller_clicks_are_smooth_and_where_they_belong(browser, tmp_path: Path) -> None:
    height, width = 900, 1200
    image = segmented_image("a.png", PHOTO.repeat(10, 0).repeat(10, 1), [], None)
    small = answers(180, 240)
    grid = Clicks(10 * small.places, small.runs, small.iou)
    image = segmented_image("a.png", PHOTO.repeat(10, 0).repeat(10, 1), [], grid)
    page_file = write_segment(SegmentPage("sam", [image]), tmp_path / "page.html")
    with opened(browser, page_file) as page:
        for x, y in ((300, 500), (1000, 700)):
            press(page, "c")
            page.mouse.click(*over(page, x, y, height, width))
            frame(page)
            press(page, "Enter")
        page.get_by_role("button", name="All shown").click()
        _, masks = coco(saved(page, "COCO JSON", tmp_path))
    for mask, (x, y, radius) in zip(masks, ((462, 402, 160), (852, 602, 250)), strict=True):
        true = disc(x, y, radius, height, width)
        assert (mask & true).sum() / (mask | true).sum() > 0.98
        edge = (mask[:, 1:] != mask[:, :-1]).sum() / (true[:, 1:] != true[:, :-1]).sum()
        assert edge == pytest.approx(1, abs=0.05)  # steps of 5 pixels would not change this; a ragged edge would
    assert masks[1][:, -1].any() == disc(852, 602, 250, height, width)[:, -1].any()


def test_exported_files_hold_the_masks_to_the_pixel(browser, path: Path, tmp_path: Path) -> None:
    with opened(browser, path) as page:
        content, masks = coco(saved(page, "COCO JSON", tmp_path))
        assert [one["name"] for one in content["categories"]] == sorted([HOSTILE, "cat", "dog"])
        assert [one["file_name"] for one in content["images"]] == ["photos/one.png", "two.png"]
        for mask, right in zip(masks, (SHOWN[1], SHOWN[2], SHOWN[3].T), strict=True):
            assert (mask == right).all()
        for one, mask in zip(content["annotations"], masks, strict=True):
            box = RunLengths.of(mask).box
            assert one["bbox"] == [box[0], box[1], box[2] - box[0], box[3] - box[1]] and one["area"] == mask.sum()
            image = content["images"][one["image_id"] - 1]
            assert one["segmentation"]["size"] == [image["height"], image["width"]]
        page.get_by_role("button", name="All shown").click()
        frame(page)
        labels = np.asarray(Image.open(saved(page, "PNG", tmp_path)))
        right = np.zeros((HEIGHT, WIDTH), int)
        for number in sorted(range(len(SHOWN)), key=lambda number: -SHOWN[number].sum()):
            right[SHOWN[number]] = number + 1
        assert labels.dtype == np.uint8 and (labels == right).all()
        press(page, ".")
        page.wait_for_function("document.querySelector('h1').textContent.startsWith('1 mask in two')")
        assert saved(page, "PNG", tmp_path).name == "two.png"


def test_a_label_map_of_many_masks_has_16_bits(browser, tmp_path: Path) -> None:
    masks = []
    for number in range(1, 301):
        one = np.zeros((30, 40), bool)
        one[(number - 1) // 40 * 3, (number - 1) % 40] = True
        masks.append(Mask(number, RunLengths.of(one), 0.9))
    image = segmented_image("many.png", np.zeros((30, 40, 3), np.uint8), masks)
    page_file = write_segment(SegmentPage("sam", [image]), tmp_path / "page.html")
    with opened(browser, page_file) as page:
        page.get_by_role("button", name="All shown").click()
        labels = np.asarray(Image.open(saved(page, "PNG", tmp_path)))
    assert labels.max() == 300 and labels[0, 39] == 40 and labels[21, 19] == 300 and (labels > 0).sum() == 300


def test_the_list_is_gone_through_by_keys(browser, path: Path) -> None:
    with opened(browser, path) as page:
        press(page, "ArrowDown", "ArrowDown")
        assert text(page, "#card h2") == "Mask 4"
        assert page.locator(".row button[tabindex='0']").count() == 2  # one row is reached by the tab key
        page.locator(".row-pick[tabindex='0']").focus()
        press(page, "ArrowDown", "ArrowDown", "Enter")
        assert text(page, "#card h2") == "Mask 5"
        press(page, "ArrowLeft", " ")
        assert page.locator(".swatch[aria-pressed=false]").get_attribute("aria-label") == "Show Mask 5"
        press(page, "?")
        assert page.locator("dialog").is_visible()
        page.keyboard.press("Escape")
        press(page, "t")
        assert page.locator("html").get_attribute("data-theme") == "dark"


def test_touch_chooses_and_asks(browser, path: Path) -> None:
    with opened(browser, path, 390, 844, touch=True) as page:
        page.touchscreen.tap(*over(page, 46, 27))
        frame(page)
        assert text(page, "#card h2") == "dog"
        page.get_by_role("button", name="Ask for one").tap()
        page.locator(".field").scroll_into_view_if_needed()
        page.touchscreen.tap(*over(page, 30, 50))
        frame(page)
        page.locator("#answer").get_by_role("button", name="Add").tap()
        page.locator(".field").scroll_into_view_if_needed()
        page.touchscreen.tap(*over(page, 100, 70))
        frame(page)
        assert f"{(SHOWN[1] | SHOWN[3]).sum():,} px" in text(page, "#readout")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_and_not_wider_than_a_phone(browser, path: Path, scheme: str) -> None:
    with opened(browser, path, 360, 740, scheme) as page:
        for keys in ((), ("ArrowDown",), ("a",), ("Escape", "c"), ("ArrowUp",), ("c", ".")):
            press(page, *keys)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            assert page.evaluate(CONTRAST, True) == []
        for role in ("button", "textbox", "searchbox", "combobox", "slider"):
            for one in page.get_by_role(role).all():
                name = one.evaluate("one => one.ariaLabel || one.labels?.[0]?.textContent || one.textContent")
                assert name.strip(), one.evaluate("one => one.outerHTML")


@pytest.mark.long
def test_thousands_of_masks_of_12_megapixels_stay_responsive(browser, tmp_path: Path) -> None:
    height, width = 3000, 4000
    random = np.random.default_rng(0)
    masks = []
    for number in range(1, 2501):
        radius = float(np.exp(random.uniform(np.log(15), np.log(400 if number < 300 else 150))))
        x, y = random.uniform(0, width), random.uniform(0, height)
        columns = np.arange(max(0, int(x - radius)), min(width, int(x + radius) + 1))
        half = np.sqrt(np.maximum(radius**2 - (columns - x) ** 2, 0))
        tops, bottoms = ((columns * height + (y + sign * half).clip(0, height - 1)).astype(int) for sign in (-1, 1))
        ends = np.stack([tops, bottoms], 1).ravel()
        counts = np.diff(np.concatenate([[0], ends, [height * width]]))
        masks.append(Mask(number, RunLengths(height, width, counts), 0.9, 0.9))
    image = segmented_image("big.jpg", np.zeros((height, width, 3), np.uint8), masks)
    path = write_segment(SegmentPage("sam", [image]), tmp_path / "page.html")
    assert path.stat().st_size < 3_000_000
    with opened(browser, path, 1440, 900) as page:
        assert int(page.locator("html").get_attribute("data-ready")) < 4000
        page.evaluate(
            "() => { window.spent = []; const next = requestAnimationFrame; window.requestAnimationFrame = "
            "(does) => next("
            "(now) => { const start = performance.now(); does(now); window.spent.push(performance.now() - start); }); }"
        )
        for step in range(40):
            page.mouse.move(*over(page, 100 + 90 * step, 200 + 60 * step, height, width))
        assert np.median(page.evaluate("window.spent")) < 30  # milliseconds of a frame in which the pointer moved
        for key in ("ArrowDown", " ", "+", "0", "a", "Delete", "z"):
            page.evaluate("window.spent = []")
            press(page, key)
            assert max(page.evaluate("window.spent")) < 600, key


def test_the_page_says_what_it_cannot_do_without(path: Path) -> None:
    assert re.search(r"<noscript>.*needs its own script", path.read_text("utf-8"))
