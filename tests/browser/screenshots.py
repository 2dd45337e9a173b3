"""Pictures of the page for the documentation, taken of the real server with the shipped models.

    python -m tests.browser.screenshots [FOLDER] [NAME ...]      (`make page-images` does it)

FOLDER: docs/images if left out. NAME: pictures to take, or --all; left out: those of the documentation.

Needs Chromium and onnxruntime, as the tests do. Each picture is a visit of its own: what it shows is what
somebody sees who does just that.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.browsing import REPOSITORY, running_server, set_slider, tile, wait_for_all
from tests.browser.chromium import launched_chromium

MOST_BYTES = 400_000
FLAT_COLOURS = 24
WAIT_MS = 60_000


def look(page: Page, image: str = "BloodImage_00407.jpg", least_score: float = 0.6) -> None:
    """Point at the box that fits worst."""
    tile(page, image).click()
    set_slider(page, "min-score", least_score)
    heading = page.locator('th[data-key="iou"]')
    for order in ("descending", "ascending"):
        heading.get_by_role("button").click()
        expect(heading).to_have_attribute("aria-sort", order)
    page.locator("#table tbody tr").first.get_by_role("button").focus()
    page.evaluate("scrollTo(0, 0)")


def compare(page: Page) -> None:
    """The best by either ranking: platelets that are surely platelets, and their boxes not the best."""
    set_slider(page, "min-score", 0.93)
    page.get_by_role("radio", name="Compare").check()
    page.locator('#compare-table tr[data-change="enters"] button').first.focus()
    page.evaluate("scrollTo(0, 0)")


def zoom(page: Page) -> None:
    look(page)
    page.keyboard.press("z")


def boards(page: Page) -> None:
    page.locator("#model").select_option("pcb")
    wait_for_all(page)
    look(page, "90100033.jpg", 0.5)


def card(page: Page) -> None:
    page.get_by_role("button", name="Model card").click()
    page.get_by_role("dialog").wait_for()


def filtered(page: Page) -> None:
    set_slider(page, "min-score", 0.3)
    set_slider(page, "min-iou", 0.88)


def doubt(page: Page) -> None:
    """Somebody's labels, of the model's boxes: one too large, one too small, one shifted, one misnamed."""
    image = page.evaluate("document.querySelector('#film .tile').dataset.file")
    model = page.locator("#model").input_value()
    content = httpx.get(f"{page.url}models/{model}/samples/{image}").raise_for_status().content
    found = httpx.post(f"{page.url}detect", params={"model": model, "score_threshold": 0.5}, content=content)
    labels = [
        {"box": record["box"], "label": record["label"]}
        for record in found.raise_for_status().json()["detections"]
    ]
    names = [entry["name"] for entry in httpx.get(f"{page.url}models").json()["models"][0]["classes"]]
    inside = [label for label in labels if label["box"][0] > 60 and label["box"][1] > 60]
    for label, (left, top, right, bottom) in zip(
        inside, [(0.35, 0.3, 0.35, 0.3), (-0.2, -0.25, -0.2, -0.2), (-0.3, 0, 0.3, 0)], strict=False
    ):
        x1, y1, x2, y2 = label["box"]
        width, height = x2 - x1, y2 - y1
        label["box"] = [x1 - left * width, y1 - top * height, x2 + right * width, y2 + bottom * height]
    labels[0]["label"] = next(name for name in names if name != labels[0]["label"])
    page.get_by_role("radio", name="Own boxes").check()
    file = {"name": "labels.json", "mimeType": "application/json", "buffer": json.dumps(labels).encode()}
    page.locator("#own-file").set_input_files(file)
    page.get_by_text("boxes, the worst-fitting first").wait_for()
    page.locator(".own-list button").first.focus()
    page.evaluate("scrollTo(0, 0)")


def work(page: Page) -> None:
    """The sections below the image, with the figures of a server that has just been busy."""
    page.get_by_text("Live figures", exact=True).click()
    page.locator("#server-state", has_text="workers ready").wait_for()
    content = httpx.get(f"{page.url}models/cells/samples/BloodImage_00296.jpg").raise_for_status().content
    for _ in range(12):
        httpx.post(f"{page.url}detect", content=content).raise_for_status()
    page.locator("table[data-model=cells] tbody tr").first.wait_for()
    page.locator(".tools").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('.tools').scrollIntoView()")


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
    Picture("page-own-boxes", 1280, 1000, "light", doubt),
    Picture("page-own-boxes-dark", 1280, 1000, "dark", doubt),
    Picture("page-own-boxes-phone", 390, 844, "light", doubt, whole=True),
    Picture("page-tools", 1280, 700, "light", work),
    Picture("page-tools-dark", 1280, 700, "dark", work),
    Picture("page-whole", 1280, 800, "light", filtered, whole=True),
)
KEPT = {"page", "page-wide-dark", "page-phone", "page-compare", "page-pcb", "page-own-boxes"}


def take(browser: Browser, address: str, picture: Picture) -> bytes:
    viewport = {"width": picture.width, "height": picture.height}
    page = browser.new_context(viewport=viewport, color_scheme=picture.scheme).new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(address)
    wait_for_all(page)
    picture.act(page)
    page.mouse.move(0, 0)  # the pointer must not lie on a box by accident
    page.wait_for_timeout(300)  # two frames, and the stage's size after a change of layout
    content = page.screenshot(full_page=picture.whole)
    page.context.close()
    return content


def small(content: bytes) -> bytes:
    """The PNG, with fewer colours if it is too large for the repository."""
    floyd, none = Image.Dither.FLOYDSTEINBERG, Image.Dither.NONE
    for colours, dither in ((None, none), (256, floyd), (256, none), (128, none)):
        image = Image.open(io.BytesIO(content)).convert("RGB")
        if colours is not None:
            image = image.quantize(palette=_palette(image, colours), dither=dither)
        stream = io.BytesIO()
        image.save(stream, "PNG", optimize=True)
        if len(stream.getvalue()) <= MOST_BYTES:
            return stream.getvalue()
    raise SystemExit(f"a picture has more than {MOST_BYTES} bytes even with 128 colours")


def _palette(image: Image.Image, colours: int) -> Image.Image:
    """The page's own flat colours exactly, the photographs' by median cut."""
    counted = image.getcolors(image.width * image.height) or []
    flat = [colour for _, colour in sorted(counted, reverse=True)[:FLAT_COLOURS]]
    others = image.quantize(colours - FLAT_COLOURS, method=Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(
        [value for colour in flat for value in colour] + others[: 3 * (colours - FLAT_COLOURS)]
    )
    return palette


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0]) if arguments else REPOSITORY / "docs" / "images"
    names = set(arguments[1:]) or KEPT
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as logs,
        running_server(
            Path(logs) / "server.log", HINDSIGHT_MODEL="cells,pcb", HINDSIGHT_BACKEND="onnxruntime"
        ) as address,
        launched_chromium() as browser,
    ):
        for picture in PICTURES:
            if "--all" in names or picture.name in names:
                (folder / f"{picture.name}.png").write_bytes(small(take(browser, address, picture)))


if __name__ == "__main__":
    main(sys.argv[1:])
