"""The built book, as the tests look at it."""

import functools
import http.server
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from looking import FLAGS, FOUND, MISSING, REQUIRED, fresh_page
from playwright.sync_api import Browser, Page, sync_playwright

from tools.house import SITE


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / "theorems.json").exists():
        pytest.fail("There is no book yet: run `make book` first.")
    return SITE


@pytest.fixture(scope="session")
def theorems(site: Path) -> list[dict]:
    return json.loads((site / "theorems.json").read_text("utf-8"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing: the tests report what matters."""


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The site as a server on this machine serves it."""
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Without Chromium the tests that need it are skipped, except where CI or
    PCNOTES_REQUIRE_BROWSER is set: there a missing browser is a failure.
    """
    if FOUND is None:
        (pytest.fail if REQUIRED else pytest.skip)(MISSING)
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=FOUND, args=FLAGS, env={**os.environ, "HOME": folder}
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with fresh_page(browser) as page:
        yield page
