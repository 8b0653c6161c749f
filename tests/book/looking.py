"""A browser and how to look at a page with it. For the tests beside this file."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import Browser, Page

Width = Literal["desktop", "phone"]
Scheme = Literal["light", "dark"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
REQUIRED = bool(os.environ.get("CI") or os.environ.get("PCNOTES_REQUIRE_BROWSER"))
MISSING = (
    "no Chromium, so no page was looked at; install one (Debian: apt-get install "
    "chromium, macOS: brew install --cask chromium) and run again"
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {
    "desktop": {"width": 1280, "height": 900},
    "phone": {"width": 375, "height": 812},
}


@contextmanager
def fresh_page(
    browser: Browser, width: Width = "desktop", scheme: Scheme = "light"
) -> Iterator[Page]:
    """A page that shares nothing with the pages before it."""
    context = browser.new_context(viewport=SIZES[width], color_scheme=scheme)
    context.set_default_timeout(60_000)  # a busy machine is no failure
    try:
        yield context.new_page()
    finally:
        context.close()


def visit(page: Page, url: str) -> None:
    """Open a page and wait until scripts, fonts and transitions have come to rest.

    In the dark a page starts light and fades: a colour read half way is nobody's.
    """
    page.goto(url, wait_until="load")
    come_to_rest(page)


def resize(page: Page, width: Width) -> None:
    page.set_viewport_size(SIZES[width])
    page.wait_for_function("width => innerWidth === width", arg=SIZES[width]["width"])
    come_to_rest(page)


def come_to_rest(page: Page) -> None:
    """Two frames let handlers of `resize` run and transitions begin."""
    page.evaluate(
        "() => new Promise(next =>"
        " requestAnimationFrame(() => requestAnimationFrame(next)))"
    )
    page.evaluate("() => document.fonts.ready.then(() => true)")
    page.wait_for_function(
        "() => document.getAnimations().every(a => a.playState !== 'running')"
    )
