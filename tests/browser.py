"""A real browser without a screen, and without a network, for the tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            f"These tests open pages in a browser, and none of {', '.join(NAMES)} is on the PATH: `apt-get install chromium`.",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def open_page(browser: Browser, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """Open a page from disk, offline, and note its dialogs, messages of the console, errors, and requests beside itself."""
    said: list[str] = []
    page = browser.new_context(offline=True, **{"viewport": {"width": 1280, "height": 900}, **options}).new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda message: said.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request",
        lambda request: request.url.startswith(("data:", path.as_uri())) or said.append(f"request: {request.url}"),
    )
    page.goto(path.as_uri())
    return page, said
