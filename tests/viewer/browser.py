"""A headless browser for tests, or a skip that says what is missing."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

# Points are drawn on the CPU, and the browser asks no other machine for anything.
ARGUMENTS = (
    *("--no-sandbox", "--no-first-run", "--disable-quic", "--disable-sync", "--disable-background-networking"),
    *("--disable-component-update", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def opened_page() -> Iterator[Callable[[], AbstractContextManager]]:
    """Gives empty pages of 1280 x 800 pixels; errors of scripts in one fail the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(ARGUMENTS))

        @contextmanager
        def page_of() -> Iterator:
            errors: list[str] = []
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(WAIT)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("requestfailed", lambda request: errors.append(request.url))
            yield page
            page.close()
            assert errors == []

        yield page_of
        browser.close()
