"""Calls functions of the page's own modules in Chromium: their logic without a page around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page

CALL = """async ([base, module, code, value]) => {
    const found = await import(new URL(`page/${module}.js`, base));
    const work = new Function("module", "value", `return (${code})`);
    return await work(found, value);
}"""


class Modules:
    """`page` stands anywhere on the server at `base`. It must allow `new Function`: the context bypasses the
    CSP, because the test's own code is text; the page itself is tested under its policy.
    """

    def __init__(self, page: Page, base: str) -> None:
        self._page, self.base = page, base

    def call(self, module: str, code: str, value: object = None) -> Any:
        """`code`: an expression over `module` (the module's exports) and `value` (JSON)."""
        return self._page.evaluate(CALL, [self.base, module, code, value])


@contextmanager
def open_modules(browser: Browser, server: str) -> Iterator[Modules]:
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(f"{server}docs.css")  # any small document of the server's
    yield Modules(page, server)
    context.close()
