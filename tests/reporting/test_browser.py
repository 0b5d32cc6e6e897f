"""The report in headless Chromium: quiet, offline, inert, readable at every width and in both themes."""

from __future__ import annotations

import numpy as np
import pytest
from contrast import CONTRAST
from hostile import HOSTILE, hostile_names
from kinds import VIT, make
from synthetic import make_report

from regard.reporting import write_report


def opened(browser, path, width=1280, height=900, scheme="light"):
    """The page, and everything it complained of or asked the network for."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.set_default_timeout(10_000)
    trouble: list[str] = []
    page.on(
        "console",
        lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:")) else trouble.append(request.url),
    )
    page.goto(path.as_uri())
    return page, trouble


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(
        make_report(photos=200, seeds=2, fractions=(0.3, 1.0)), tmp_path_factory.mktemp("r") / "report.html"
    )


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    names = hostile_names()
    assert len(set(names)) == 60
    data = make_report(
        photos=60, classes=tuple(HOSTILE), ids=names, seeds=2, fractions=(1.0,), methods=("head",),
        models=("vit" + HOSTILE[1], HOSTILE[2]),
    )  # fmt: skip
    return write_report(data, tmp_path_factory.mktemp("h") / "report.html")


def test_confusion_cell_opens_its_photos(browser, report):
    page, trouble = opened(browser, report)
    cell = page.locator(".matrix .wrong button").first
    count = int(cell.inner_text())
    cell.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    assert page.locator("dialog .gallery li").count() == count
    assert page.locator("dialog img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 30
    assert "taken for" in page.locator("#dialog-title").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert page.evaluate("document.activeElement.dataset.row") is not None
    assert trouble == []
    page.close()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Hostile names wherever several labels, numbers and boxes put names, each in a report of its own."""
    folder, cells = tmp_path_factory.mktemp("kinds"), tuple(HOSTILE[number % 9] for number in range(40))
    given = {
        "labels": {"problem": "multi_label", "classes": HOSTILE[:12], "slices": {HOSTILE[0]: cells}, "reference": 0.9},
        "numbers": {"problem": "regression", "classes": HOSTILE[:3], "slices": {HOSTILE[1]: cells}},
        "boxes": {"problem": "regression", "boxes": True},
    }
    made = {}
    for name, arguments in given.items():
        data = make(photos=40, seeds=2, ids=hostile_names(40), title=HOSTILE[2], **arguments)
        made[name] = write_report(data, folder / f"{name}.html")
    return made


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["labels", "numbers", "boxes"])
def test_other_kinds_are_inert_quiet_and_readable(browser, kinds, kind, scheme):
    page, trouble = opened(browser, kinds[kind], 390, 844, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(CONTRAST) == []
    for cell in page.locator(".matrix button, .field").all()[:4]:
        cell.click()
        assert page.locator("dialog").is_visible()
        page.keyboard.press("Escape")
    assert page.evaluate("window.hit") is None
    assert page.locator("script").count() == 2
    assert page.locator("iframe, base, main img[src=x], [onerror], [onload], style + style").count() == 0
    assert trouble == []
    page.close()


def test_a_cell_of_labels_opens_as_many_photos_as_it_counts(browser, tmp_path):
    path = write_report(make("multi_label", photos=60, seeds=1, models=(VIT,)), tmp_path / "report.html")
    page, trouble = opened(browser, path)
    for cell in page.locator(".matrix button").all():
        count = int(cell.inner_text())
        cell.click()
        assert page.locator("dialog .gallery li").count() == min(count, 60)
        if cell.evaluate("cell => cell.dataset.row !== cell.dataset.column"):
            nothing_missed = cell.get_attribute("data-row") == "8"
            assert ("added" if nothing_missed else "missed") in page.locator("#dialog-title").inner_text()
            assert page.locator("dialog .hint").count() == count
        page.keyboard.press("Escape")
    assert trouble == []
    page.close()


def test_a_point_of_a_scatter_opens_the_photos_nearby(browser, tmp_path):
    data = make("regression", photos=60, seeds=1, models=(VIT,))
    page, trouble = opened(browser, write_report(data, tmp_path / "report.html"))
    given, field = data.shown[0], page.locator(".field")
    low, high = (float(field.get_attribute(f"data-{name}")) for name in ("low", "high"))
    area = field.bounding_box()
    places = np.stack([given.labels[:, 0], given.outputs[:, 0]], axis=1)
    apart = np.linalg.norm(places[:, None] - places, axis=2) + np.diag(np.full(60, np.inf))
    lonely = int(apart.min(axis=1).argmax())  # a click that is a pixel off still means it
    true, said = places[lonely].tolist()
    x, y = ((value - low) / (high - low) for value in (true, said))
    field.click(position={"x": x * area["width"], "y": (1 - y) * area["height"]})
    assert page.locator("dialog .gallery li").count() == 12
    assert page.locator("dialog .gallery li").first.get_attribute("title") == given.ids[lonely]
    assert trouble == []
    page.close()


def test_boxes_lie_where_the_picture_is(browser, kinds):
    page, _ = opened(browser, kinds["boxes"])
    picture = page.locator(".frame img").first
    page.wait_for_function("document.querySelector('.frame svg')")
    frame, drawing = (page.locator(f".frame {name}").first.bounding_box() for name in ("img", "svg"))
    assert frame == drawing
    # The true box was painted in yellow: its corners in the picture are the corners of the drawing.
    painted = picture.evaluate(PAINTED)
    drawn = page.locator(".frame svg").first.locator(".box.true:not(.under)")
    corners = [float(drawn.get_attribute(name)) for name in ("x", "y", "width", "height")]
    assert corners == pytest.approx(painted, abs=2.5)
    page.close()


def test_galleries_show_more(browser, report):
    page, _ = opened(browser, report)
    shelf = page.locator(".shelf", has=page.locator("[data-gallery=mistakes-3]"))
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    before = shelf.locator("li").count()
    shelf.locator(".more").click()
    assert shelf.locator("li").count() > before == 16
    page.close()


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("kind", ["report", "hostile_report"])
def test_the_body_never_scrolls_sideways(browser, request, kind, width):
    page, trouble = opened(browser, request.getfixturevalue(kind), width, 844)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert trouble == []
    page.close()


def test_hostile_names_stay_text(browser, hostile_report):
    page, trouble = opened(browser, hostile_report)
    for cell in page.locator(".matrix button").all()[:6]:
        cell.click()
        page.keyboard.press("Escape")
    assert page.evaluate("window.hit") is None
    assert page.locator("script").count() == 2
    assert page.locator("iframe, base, main img[src=x], [onerror], [onload], [onmouseover], style + style").count() == 0
    assert page.locator("meta[http-equiv=refresh]").count() == 0
    assert page.locator("h1").is_visible()
    shown = page.evaluate("JSON.parse(document.getElementById('store').textContent).photos")
    assert len(shown) == 60
    assert "<script>window.hit=1</script>" in shown
    assert "window.hit" in page.locator("main").inner_text()
    assert trouble == []
    page.close()


def test_the_policy_stops_foreign_scripts(browser, report, tmp_path):
    broken = tmp_path / "broken.html"
    text = report.read_text(encoding="utf-8")
    broken.write_text(text.replace("</main>", "<img src=x onerror='window.hit=1'><script>window.hit=1</script></main>"))
    page, trouble = opened(browser, broken)
    assert page.evaluate("window.hit") is None
    assert trouble
    page.close()


PAINTED = """async (picture) => {
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const [xs, ys] = [[], []];
  for (let at = 0; at < data.length; at += 4) {
    if (data[at] - data[at + 2] > 80) {
      xs.push((at / 4) % canvas.width);
      ys.push(Math.floor(at / 4 / canvas.width));
    }
  }
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  return [left, top, Math.max(...xs) + 1 - left, Math.max(...ys) + 1 - top];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser, report, scheme):
    page, _ = opened(browser, report, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == ("rgb(20, 22, 26)" if scheme == "dark" else "rgb(251, 250, 247)")
    assert page.evaluate(CONTRAST) == []
    page.close()


def test_paper_is_light_and_complete(browser, report):
    page, _ = opened(browser, report, scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).getPropertyValue('--ink').trim()") == "#1d1c1a"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0
    assert page.locator("nav").is_hidden()
    page.close()
