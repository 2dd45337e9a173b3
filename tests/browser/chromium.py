"""The Chromium that tests, pictures and benchmarks look at pages with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def launched_chromium() -> Iterator[Browser]:
    """From $CHROMIUM, else from the PATH. Raises FileNotFoundError where there is none.

    While it is open, playwright keeps an event loop running in this thread, and asyncio.run fails there.
    """
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if executable is None:
        raise FileNotFoundError(
            "chromium is not on the PATH: apt-get install chromium, or name one with CHROMIUM=..."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        yield browser
        browser.close()
