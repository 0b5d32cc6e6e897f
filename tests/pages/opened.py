"""A page in headless Chromium, for the tests of pages."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened(browser, path: Path, width: int = 1280, height: int = 860, scheme: str = "light", touch: bool = False):
    """The page when it can be used; it may complain of nothing and ask nobody."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch)
    page = context.new_page()
    page.set_default_timeout(20_000)
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else trouble.append(one.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    assert trouble == []
    context.close()


def frame(page) -> None:
    """Lets everything be drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
