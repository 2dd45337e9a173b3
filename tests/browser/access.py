"""What makes a page usable by everybody, asked of the page itself. Screenshots: tests/.output."""

from __future__ import annotations

from collections.abc import Sequence

from playwright.sync_api import Page

from tests.browser.browsing import REPOSITORY

OUTPUT = REPOSITORY / "tests" / ".output"
LEAST_CONTRAST = 4.5
_HEIGHT = 860

# WCAG 2 contrast of every visible piece of text with the nearest opaque background behind it.
POOR_CONTRAST = """(least) => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => [r, g, b]
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] > 200) return colour;
        }
        return [255, 255, 255, 255];
    };
    const poor = [];
    let looked = 0;
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        const text = walker.currentNode.data.trim();
        if (!text || !node.checkVisibility()) continue;
        looked += 1;
        const pair = [rgba(getComputedStyle(node).color), behind(node)].map(luminance).sort((a, b) => b - a);
        const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
        if (ratio < least) poor.push(`${text}: ${ratio.toFixed(2)}`);
    }
    return { looked, poor };
}"""

# Interactive elements whose accessible name would be empty.
NAMELESS = """[...document.querySelectorAll("button, input, select, a, [tabindex='0'], [role='meter']")]
    .filter((node) => node.checkVisibility())
    .filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.length))
    .map((node) => node.outerHTML)"""


def assert_screens_are_readable(page: Page, name: str, widths: Sequence[int], *, texts: int) -> None:
    """At each width nothing is wider than the window, and every text stands out; there are more than `texts`.

    name: of the pictures, with {} for the width.
    """
    OUTPUT.mkdir(exist_ok=True)
    for width in widths:
        page.set_viewport_size({"width": width, "height": _HEIGHT})
        page.screenshot(path=OUTPUT / f"{name.format(width)}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        found = page.evaluate(POOR_CONTRAST, LEAST_CONTRAST)
        assert found["looked"] > texts
        assert found["poor"] == []
