"""What opening the page costs: bytes, time, and nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Browser, Request, expect

from tests.browser.browsing import REPOSITORY, wait_for_all

PAGE_FOLDER = REPOSITORY / "service" / "page"
MOST_BYTES = 150_000


def test_opening_the_page_transfers_less_than_150_kilobytes_without_images(
    browser: Browser, server: str
) -> None:
    page = browser.new_context().new_page()
    finished: list[Request] = []
    page.on("requestfinished", lambda request: finished.append(request))  # noqa: PLW0108  # playwright marks the function
    page.goto(server)
    wait_for_all(page)
    expect(page.locator("#boxes .detections g").first).to_be_visible()
    expect(page.locator("#export h2 + *").first).to_be_attached()  # the sections that fill themselves later
    page.wait_for_load_state("networkidle")
    sizes, packed = {}, set()
    for request in finished:
        response = request.response()
        if response is None or not request.url.startswith(server):
            continue
        if not response.headers.get("content-type", "").startswith("image/"):
            sizes[request.url] = request.sizes()["responseBodySize"]
            packed.add(response.headers.get("content-encoding"))
    assert len(sizes) > 10
    assert "gzip" in packed

    assert sum(sizes.values()) < MOST_BYTES, sizes
    page.context.close()


def test_the_page_is_usable_soon(browser: Browser, server: str) -> None:
    """Idle: within a second. On a machine that other tests keep busy: the best of five, generously."""
    times = []
    for _ in range(5):
        page = browser.new_context().new_page()
        page.goto(server)
        times.append(page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))
        page.context.close()
    assert min(times) < 10_000, times


def test_all_modules_of_the_opening_are_asked_for_at_once() -> None:
    """Named in the HTML, they need no waterfall of imports; what comes later is not named."""
    needed, queue = set(), ["page.js"]
    while queue:
        module = queue.pop()
        if module not in needed:
            needed.add(module)
            text = (PAGE_FOLDER / module).read_text(encoding="utf-8")
            queue += re.findall(r'^(?:im|ex)port [^"]*from "\./([^"]+)"', text, re.MULTILINE)
    html = (PAGE_FOLDER / "index.html").read_text(encoding="utf-8")
    assert len(needed) > 15
    assert sorted(re.findall(r'rel="modulepreload" href="page/([^"]+)"', html)) == sorted(
        needed - {"page.js"}
    )


def test_the_page_is_plain_files_that_name_no_other_place() -> None:
    files = [path for path in Path(PAGE_FOLDER).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".html", ".css", ".js"}
    for path in files:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text and "http://www" not in text, path.name
        assert max(len(line) for line in text.splitlines()) < 600, f"{path.name} is not made to be read"
