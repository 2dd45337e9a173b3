"""Pictures of the page for the documentation, taken of the real server with the shipped models.

    python -m tests.browser.screenshots [FOLDER]      (default: docs/images; `make page-images` does it)

Needs Chromium and onnxruntime, as the tests do. Each picture is a visit of its own: what it shows is what somebody sees who
does just that.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.browsing import REPOSITORY, running_server, set_slider, wait_for_all
from tests.browser.conftest import FLAGS

MOST_BYTES = 400_000
WAIT_MS = 60_000


def look(page: Page) -> None:
    """Point at the box that fits worst."""
    page.locator('th[data-key="iou"] button').click()
    page.locator('th[data-key="iou"] button').click()
    page.locator("#table tbody tr").first.get_by_role("button").focus()
    page.evaluate("scrollTo(0, 0)")


def compare(page: Page) -> None:
    page.get_by_role("radio", name="Compare").check()
    page.locator("#compare-table tbody tr").first.wait_for()


def zoom(page: Page) -> None:
    look(page)
    page.keyboard.press("z")


def boards(page: Page) -> None:
    page.locator("#model").select_option("pcb")
    wait_for_all(page)
    look(page)


def card(page: Page) -> None:
    page.get_by_role("button", name="Model card").click()
    page.get_by_role("dialog").wait_for()


def filtered(page: Page) -> None:
    set_slider(page, "min-score", 0.3)
    set_slider(page, "min-iou", 0.7)


@dataclass(frozen=True)
class Picture:
    name: str
    width: int
    height: int
    scheme: str
    act: Callable[[Page], None]
    whole: bool = False
    """The whole page, not what fits the window."""


PICTURES = (
    Picture("page", 1280, 800, "light", look),
    Picture("page-dark", 1280, 800, "dark", look),
    Picture("page-wide", 1920, 1080, "light", look),
    Picture("page-wide-dark", 1920, 1080, "dark", look),
    Picture("page-phone", 390, 844, "light", look),
    Picture("page-phone-dark", 390, 844, "dark", look),
    Picture("page-phone-whole", 390, 844, "light", look, whole=True),
    Picture("page-compare", 1280, 800, "light", compare),
    Picture("page-compare-dark", 1280, 800, "dark", compare),
    Picture("page-compare-wide", 1920, 1080, "light", compare),
    Picture("page-compare-phone", 390, 844, "light", compare),
    Picture("page-zoom", 1280, 800, "light", zoom),
    Picture("page-pcb", 1280, 800, "dark", boards),
    Picture("page-card", 1280, 800, "light", card),
    Picture("page-whole", 1280, 800, "light", filtered, whole=True),
)
KEPT = {"page", "page-wide-dark", "page-phone", "page-compare", "page-pcb"}


def take(browser: Browser, address: str, picture: Picture) -> bytes:
    viewport = {"width": picture.width, "height": picture.height}
    page = browser.new_context(viewport=viewport, color_scheme=picture.scheme).new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(address)
    wait_for_all(page)
    picture.act(page)
    page.wait_for_timeout(300)  # two frames, and the stage's size after a change of layout
    content = page.screenshot(full_page=picture.whole)
    page.context.close()
    return content


def small(content: bytes) -> bytes:
    """The PNG, with fewer colours if it is too large for the repository."""
    for colours in (None, 256, 128):
        image = Image.open(io.BytesIO(content)).convert("RGB")
        if colours is not None:
            image = image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
        stream = io.BytesIO()
        image.save(stream, "PNG", optimize=True)
        if len(stream.getvalue()) <= MOST_BYTES:
            return stream.getvalue()
    raise SystemExit(f"a picture has more than {MOST_BYTES} bytes even with 128 colours")


def main(arguments: list[str]) -> None:
    everything = "--all" in arguments
    names = [argument for argument in arguments if not argument.startswith("-")]
    folder = Path(names[0]) if names else REPOSITORY / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with (
        tempfile.TemporaryDirectory() as logs,
        running_server(Path(logs) / "server.log", HINDSIGHT_MODEL="cells,pcb", HINDSIGHT_BACKEND="onnxruntime") as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        for picture in PICTURES:
            if everything or picture.name in KEPT:
                (folder / f"{picture.name}.png").write_bytes(small(take(browser, address, picture)))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
