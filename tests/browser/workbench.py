"""Hands on the workbench: drawing on the image, reading what is drawn, asking the server the same by hand."""

from __future__ import annotations

import json
from typing import Any

import httpx
from playwright.sync_api import Page, expect

from tests.browser.browsing import tile, wait_for_all

PIXEL = 1.5  # of an image that is shown larger than it is: how exact a mouse can be


def own_mode(page: Page) -> None:
    page.locator('input[name="mode"][value="own boxes"]').check()
    expect(page.get_by_role("button", name="Add a box")).to_be_enabled()


def choose(page: Page, name: str) -> None:
    """Bring an image of the filmstrip onto the stage."""
    wait_for_all(page)
    tile(page, name).click()
    expect(page.locator("#photo")).to_have_attribute("aria-label", f"Photo {name}")


def screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the image is in the window."""
    found = page.evaluate(
        """([x, y]) => {
            const matrix = document.getElementById("boxes").getScreenCTM();
            const at = new DOMPoint(x, y).matrixTransform(matrix);
            return [at.x, at.y];
        }""",
        [x, y],
    )
    return found[0], found[1]


def drag(page: Page, start: tuple[float, float], end: tuple[float, float], *, release: bool = True) -> None:
    """From one point of the image to another."""
    page.locator("#stage").scroll_into_view_if_needed()
    page.mouse.move(*screen(page, *start))
    page.mouse.down()
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    for point in (middle, end):
        page.mouse.move(*screen(page, *point))
    if release:
        page.mouse.up()


def own_boxes(page: Page) -> list[list[float]]:
    """xyxy of the boxes on the stage, in the order in which they were made."""
    return page.evaluate(
        """[...document.querySelectorAll("#own-layer [data-own]")]
            .sort((a, b) => a.dataset.own - b.dataset.own)
            .map((group) => {
                const edge = group.querySelector(".edge");
                const [x, y, width, height] = ["x", "y", "width", "height"]
                    .map((name) => Number(edge.getAttribute(name)));
                return [x, y, x + width, y + height];
            })"""
    )


def rows(page: Page) -> list[str]:
    return [row.inner_text() for row in page.locator(".own-list button").all()]


def wait_for_opinions(page: Page, count: int) -> None:
    boxes = "box" if count == 1 else "boxes"
    expect(page.locator("#own-state")).to_have_text(f"{count} {boxes}, the worst-fitting first")


def read_file(page: Page, name: str, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    page.locator("#own-file").set_input_files({"name": name, "mimeType": "", "buffer": data})


def rescored(
    server: str, image: bytes, boxes: list[list[float]], model: str = "tiny"
) -> list[dict[str, Any]]:
    answer = httpx.post(
        f"{server}rescore",
        params={"model": model},
        files={"image": ("image", image), "boxes": (None, json.dumps(boxes))},
    )
    return answer.raise_for_status().json()["results"]
