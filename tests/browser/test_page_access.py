"""The page for every user: keyboard, names, contrast, small screens, both colour schemes."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.browsing import REPOSITORY, OpenPage, pick
from tests.browser.conftest import board_image
from tests.factories import encode

OUTPUT = REPOSITORY / "tests" / ".output"
LEAST_CONTRAST = 4.5
MOST_TABS_TO_THE_BOXES = 9

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


def focused(page: Page) -> str:
    return page.evaluate(
        "document.activeElement.closest('#boxes .detections g')?.dataset.index ?? document.activeElement.id"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_the_screen_and_is_readable(open_page: OpenPage, scheme: str) -> None:
    page, watch = open_page(scheme=scheme)
    OUTPUT.mkdir(exist_ok=True)
    for width in (1920, 1280, 820, 390, 320):
        page.set_viewport_size({"width": width, "height": 860})
        page.screenshot(path=OUTPUT / f"page-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        found = page.evaluate(POOR_CONTRAST, LEAST_CONTRAST)
        assert found["looked"] > 80
        assert found["poor"] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(background) > 600) == (scheme == "light")
    watch.allow_failed_requests()
    pick(page, "notes.jpg", b"no image", "image/jpeg")
    expect(page.get_by_role("alert")).to_be_visible()
    page.screenshot(path=OUTPUT / f"problem-{scheme}.png")
    assert page.evaluate(POOR_CONTRAST, LEAST_CONTRAST)["poor"] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_keyboard_reaches_boxes_and_moves_between_them(page: Page) -> None:
    for _ in range(MOST_TABS_TO_THE_BOXES):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#boxes') !== null"):
            break
    assert focused(page) == "0"
    halo = "getComputedStyle(document.querySelector('#boxes g:focus-visible .halo')).strokeWidth"
    assert page.evaluate(halo) == "8px"
    seen = []
    for key in ("ArrowRight", "ArrowDown", "End", "ArrowRight", "ArrowLeft", "Home"):
        page.keyboard.press(key)
        seen.append(focused(page))
        expect(page.locator("#table tr.active")).to_have_attribute("data-index", seen[-1])
    assert seen == ["1", "2", "8", "8", "7", "0"]
    page.keyboard.press("ArrowRight")
    number = page.locator('#table tr[data-index="1"] td').nth(1).inner_text()
    expect(page.locator(".detail-title b")).to_have_text(number)
    # One Tab leaves the boxes, whatever their number.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#boxes') === null")


def test_keyboard_picks_a_photo_sorts_and_walks_the_table(page: Page) -> None:
    page.locator("#file").focus()
    outline = "getComputedStyle(document.querySelector('label[for=file]')).outlineStyle"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert page.evaluate(outline) == "solid"
    page.locator('th[data-key="iou"] button').focus()
    page.keyboard.press("Enter")
    expect(page.locator('th[data-key="iou"]')).to_have_attribute("aria-sort", "descending")
    page.locator("#table tbody tr").first.get_by_role("button").focus()
    page.keyboard.press("ArrowDown")
    second = page.locator("#table tbody tr").nth(1)
    expect(second).to_have_class("active")
    expect(second.get_by_role("button")).to_be_focused()
    index = second.get_attribute("data-index") or ""
    expect(page.locator("#boxes .detections g.active")).to_have_attribute("data-index", index)


def test_every_visible_control_shows_its_focus_and_has_a_name(page: Page) -> None:
    assert page.evaluate(NAMELESS) == []
    unmarked = []
    for _ in range(60):
        page.keyboard.press("Tab")
        state = page.evaluate(
            """(() => {
                const node = document.activeElement;
                if (node === document.body) return null;
                const hidden = node.id === "file" || ["mode", "compare-view"].includes(node.name);
                const outlined = hidden ? node.nextElementSibling : node;
                const marked = getComputedStyle(outlined).outlineStyle !== "none";
                const isBox = node.closest("#boxes") !== null; // marked by its halo, tested above
                return { marked: marked || isBox, html: node.outerHTML.slice(0, 120) };
            })()"""
        )
        if state is None:
            break
        if not state["marked"]:
            unmarked.append(state["html"])
    else:
        pytest.fail("more than 60 tab stops")
    assert unmarked == []


def test_the_question_mark_lists_the_keys_and_they_can_be_switched_off(page: Page) -> None:
    page.keyboard.press("?")
    help_dialog = page.get_by_role("dialog", name="Keyboard and help")
    expect(help_dialog).to_be_visible()
    for key in ("Tab", "Z", "Shift + arrows", "Delete"):
        expect(help_dialog.locator("kbd", has_text=key).first).to_be_visible()
    assert page.evaluate(POOR_CONTRAST, LEAST_CONTRAST)["poor"] == []
    page.get_by_role("checkbox", name="Single-key shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.get_by_role("radio", name="Detections")).to_be_checked()
    page.reload()
    page.locator("#boxes .detections g").first.wait_for()
    page.keyboard.press("c")
    expect(page.get_by_role("radio", name="Detections")).to_be_checked()
    page.get_by_role("button", name="Keyboard and help").click()
    page.get_by_role("checkbox", name="Single-key shortcuts").check()
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.get_by_role("radio", name="Compare")).to_be_checked()
    page.keyboard.press("d")
    expect(page.get_by_role("radio", name="Detections")).to_be_checked()


def test_arrows_move_through_the_boxes_from_anywhere(page: Page) -> None:
    page.keyboard.press("ArrowRight")
    expect(page.locator("#boxes g:focus")).to_have_attribute("data-index", "1")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#boxes g:focus")).to_have_attribute("data-index", "2")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_compare_mode_and_model_card_are_readable(open_page: OpenPage, scheme: str) -> None:
    page, _ = open_page(scheme=scheme)
    page.get_by_role("radio", name="Compare").check()
    expect(page.locator("#compare-table tbody tr").first).to_be_visible()
    for width in (1920, 1280, 390):
        page.set_viewport_size({"width": width, "height": 860})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(POOR_CONTRAST, LEAST_CONTRAST)["poor"] == []
    page.get_by_role("button", name="Model card").click()
    expect(page.get_by_role("dialog", name="tiny 1")).to_be_visible()
    assert page.evaluate(POOR_CONTRAST, LEAST_CONTRAST)["poor"] == []


def test_screen_readers_hear_boxes_numbers_and_status(page: Page) -> None:
    box = page.locator("#boxes").get_by_role("option").first
    assert "score" in (box.get_attribute("aria-label") or "")
    meter = page.get_by_role("meter", name="Purity")
    assert 0 < float(meter.get_attribute("aria-valuenow") or 0) <= 1
    expect(page.locator("#status[role=status]")).to_contain_text("9 boxes in")
    assert page.get_by_role("heading", level=1).count() == 1


def test_removing_the_own_images_leaves_the_focus_in_the_filmstrip(page: Page) -> None:
    """The button hides itself: its focus would fall to the top of the page."""
    pick(page, "mine.png", encode(board_image(), "PNG"))
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#clear")).to_be_hidden()
    expect(page.locator('#film .tile[aria-pressed="true"]')).to_be_focused()
