"""Every test keeps its hands off the user's caches and the network."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

CHROMIUM = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

sys.path.insert(0, str(Path(__file__).parent / "training"))  # for `interrupted` and `together`, which are scripts too


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--record` keeps the figures of the reliability rows (tests/reliability/figures.py)."""
    parser.addoption("--record", action="store_true", help="write docs/reliability/ROW.json")


def pytest_configure(config: pytest.Config) -> None:
    """Generated examples are the same in each run but for the long one, which looks for new ones."""
    settings.register_profile("regard", derandomize="long or" not in config.getoption("-m"))
    settings.load_profile("regard")
    # Tells `figures.record`, in this process and those that a test starts.
    if config.getoption("--record"):
        os.environ["REGARD_RECORD"] = "1"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches of checks and features lie in a folder of this test session."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def peak_bytes() -> Callable[[Callable[[], object]], int]:
    """The most bytes of tensors that a function holds at once beyond those that it found, whatever else runs."""
    from torch.profiler import ProfilerActivity, profile

    def peak(function: Callable[[], object]) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            function()
        events = profiled.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
        changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        return max(accumulate(nbytes for _, nbytes in changes), default=0)

    return peak


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """Starts trainings of one process, to be disturbed."""
    import interrupted

    server = interrupted.Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def together() -> Iterator[Any]:
    """Starts trainings of several processes."""
    from together import Together

    together = Together()
    yield together
    together.close()


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; tests that look at pages skip where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM.split())
        yield browser
        browser.close()
