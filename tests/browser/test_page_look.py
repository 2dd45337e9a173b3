"""How the page looks where it is hardest: phones, wide screens, odd images, long names, forced colours."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.access import LEAST_CONTRAST, OUTPUT, POOR_CONTRAST
from tests.browser.browsing import OpenPage, pick, set_slider, wait_for_all
from tests.browser.conftest import board_image
from tests.browser.workbench import choose, drag, own_mode, wait_for_opinions
from tests.factories import encode, tiles_image

LONG_NAME = "a_class_of_a_name_that_somebody_gave_it_by_mistake"

# Contrast of the labels on the image, which are translucent: over white and over black, whichever is worse.
LABEL_CONTRAST = """() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => colour.map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    return [...document.querySelectorAll(".label:not(.off)")].map((label) => {
        const text = getComputedStyle(label.querySelector("text"));
        const back = getComputedStyle(label.querySelector(".label-back"));
        const whole = Number(getComputedStyle(label).opacity);
        const ratios = [[255, 255, 255], [0, 0, 0]].map((photo) => {
            const over = (below, above, share) => above.slice(0, 3)
                .map((value, at) => share * value + (1 - share) * below[at]);
            const shownBack = over(photo, over(photo, parse(back.fill), Number(back.fillOpacity)), whole);
            const shownText = over(photo, parse(text.fill), whole);
            const [bright, dark] = [shownText, shownBack].map(luminance).sort((a, b) => b - a);
            return (bright + 0.05) / (dark + 0.05);
        });
        return Math.min(...ratios);
    });
}"""


def width_of(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth")


def overflow(page: Page, selector: str) -> int:
    """How many pixels of an element's content lie beyond its right edge."""
    return page.locator(selector).evaluate("(node) => node.scrollWidth - node.clientWidth")


def bottom(page: Page, selector: str) -> float:
    return page.locator(selector).evaluate("(node) => node.getBoundingClientRect().bottom")


@pytest.mark.parametrize("width", [2560, 1920, 1600, 1280, 1000, 641, 390, 320])
def test_the_table_is_not_cut(open_page: OpenPage, width: int) -> None:
    page, _ = open_page(width=width, height=844)
    wait_for_all(page)
    for name in ("Platelets", LONG_NAME):
        page.evaluate(
            """(name) => {
                for (const row of document.querySelectorAll("#table .row-pick")) row.lastChild.data = name;
            }""",
            name,
        )
        assert overflow(page, "#table") == 0
    shown = page.locator("#table tbody tr").first.locator("td:visible").all_inner_texts()
    assert "0.80" in shown[-2:]  # integrity; on a phone nothing comes after it
    page.get_by_role("radio", name="Compare").check()
    expect(page.locator("#compare-table tbody tr").first).to_be_visible()
    assert overflow(page, "#compare-table") == 0
    assert width_of(page) == width


def test_on_a_phone_the_sliders_stand_two_in_a_row(open_page: OpenPage) -> None:
    page, _ = open_page(width=390, height=844)
    tops = [
        page.locator(f"#{name}").evaluate("(node) => node.getBoundingClientRect().top")
        for name in ("min-score", "min-iou", "min-purity", "min-integrity", "iou-weight", "nms-threshold")
    ]
    assert tops[0] == tops[1] < tops[2] == tops[3] < tops[4] == tops[5]


def test_on_a_phone_own_boxes_have_the_page_to_themselves(open_page: OpenPage) -> None:
    page, _ = open_page(width=390, height=844)
    choose(page, "tiles.jpg")
    expect(page.locator("#unfold")).to_be_hidden()
    own_mode(page)
    page.get_by_role("button", name="Copy the model's boxes").click()
    wait_for_opinions(page, 2)
    for selector in (".results", ".filter-card"):
        expect(page.locator(selector)).to_be_hidden()
    height = page.evaluate("document.documentElement.scrollHeight")
    button = page.get_by_role("button", name="Show the model's boxes and filters")
    expect(button).to_have_attribute("aria-expanded", "false")
    button.click()
    for selector in (".results", ".filter-card"):
        expect(page.locator(selector)).to_be_visible()
    expect(page.locator("#unfold")).to_have_attribute("aria-expanded", "true")
    assert page.evaluate("document.documentElement.scrollHeight") > height + 500
    page.get_by_role("radio", name="Detections").check()
    page.locator("#unfold").wait_for(state="hidden")
    expect(page.locator(".results")).to_be_visible()


def test_own_boxes_and_the_models_boxes_are_told_apart_everywhere(page: Page) -> None:
    choose(page, "tiles.jpg")
    expect(page.locator("#table-heading")).to_have_text("Boxes 2 of 2 shown")
    own_mode(page)
    expect(page.locator("#status")).to_have_text("No own boxes yet")
    expect(page.locator("#table-heading")).to_have_text("The model's boxes 2 of 2 shown")
    expect(page.locator("#filter-heading")).to_have_text("Show the model's boxes with at least")
    expect(page.locator("#export-facts")).to_have_text("0 own boxes on 0 images")
    drag(page, (30, 2), (62, 30))
    wait_for_opinions(page, 1)
    drag(page, (70, 40), (90, 60))  # over black: nothing of it is an object
    wait_for_opinions(page, 2)
    expect(page.locator("#status")).to_have_text("2 own boxes, 2 off")
    expect(page.locator("#status")).to_have_attribute("aria-live", "off")  # the panel says it
    expect(page.locator("#export-facts")).to_have_text("2 own boxes on 1 image")
    tile = page.locator('#film .tile[aria-pressed="true"]')
    expect(tile.locator(".badge")).to_have_text("2")
    assert (tile.get_attribute("aria-label") or "").endswith(": 2 own boxes")
    page.get_by_role("radio", name="Detections").check()
    expect(page.locator("#status")).to_contain_text("2 boxes in")
    expect(page.locator("#status")).to_have_attribute("aria-live", "polite")
    expect(page.locator("#table-heading")).to_have_text("Boxes 2 of 2 shown")


def test_no_hole_beside_a_taller_column(open_page: OpenPage) -> None:
    page, _ = open_page(width=1280, height=800)
    choose(page, "tiles.jpg")
    own_mode(page)
    page.get_by_role("button", name="Copy the model's boxes").click()
    wait_for_opinions(page, 2)
    page.locator(".own-list button").first.focus()
    assert bottom(page, "#own-boxes") > bottom(page, ".results thead")
    assert bottom(page, ".results") == pytest.approx(bottom(page, "aside"), abs=1)


def test_on_a_tablet_the_image_has_the_whole_width(open_page: OpenPage) -> None:
    page, _ = open_page(width=768, height=1024)
    for mode in ("Detections", "Own boxes"):
        page.get_by_role("radio", name=mode).check()
        for selector in ("#stage", ".results", ".tools"):
            place = page.locator(selector).bounding_box()
            assert place is not None and place["width"] > 768 - 40, selector


@pytest.mark.parametrize("width", [1920, 1280, 820, 390])
def test_code_is_read_without_scrolling_sideways(open_page: OpenPage, width: int) -> None:
    page, _ = open_page(width=width)
    for way in ("curl", "Python client", "Python alone"):
        page.locator("#snippets").get_by_role("radio", name=way, exact=True).check()
        expect(page.locator("#snippet")).not_to_be_empty()
        assert overflow(page, "#snippet") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_on_images_are_readable_whatever_is_below_them(open_page: OpenPage, scheme: str) -> None:
    page, _ = open_page(scheme=scheme)
    ratios = page.evaluate(LABEL_CONTRAST)
    assert ratios and min(ratios) >= LEAST_CONTRAST
    set_slider(page, "min-score", 0.5)
    set_slider(page, "iou-weight", 1)
    page.get_by_role("radio", name="Compare").check()
    expect(page.locator(".label[data-change]:not(.off)").first).to_be_visible()
    # All kinds, whichever this image has.
    for change in ("same", "rises", "falls", "enters", "leaves", "refits"):
        page.evaluate(
            """(change) => {
                for (const node of document.querySelectorAll(".label")) node.dataset.change = change;
            }""",
            change,
        )
        ratios = page.evaluate(LABEL_CONTRAST)
        assert ratios and min(ratios) >= LEAST_CONTRAST, change


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_a_difference_is_readable_in_the_table(open_page: OpenPage, scheme: str) -> None:
    page, _ = open_page(scheme=scheme)
    page.get_by_role("radio", name="Compare").check()
    row = page.locator("#compare-table tbody tr").first
    for change in ("enters", "leaves", "refits", "rises"):
        row.evaluate(
            "(node, change) => { node.dataset.change = change; node.classList.add('active'); }", change
        )
        assert page.evaluate(POOR_CONTRAST, LEAST_CONTRAST)["poor"] == []


@pytest.mark.parametrize(
    "shape", [(20, 2000), (2000, 20), (1500, 30)], ids=["very wide", "very tall", "tall"]
)
def test_odd_images_are_shown_whole_at_every_width(open_page: OpenPage, shape: tuple[int, int]) -> None:
    page, _ = open_page(width=390, height=844)
    stripes = np.zeros((*shape, 3), np.uint8)
    stripes[::2, :, 0], stripes[:, ::3, 1] = 200, 255
    pick(page, "stripes.png", encode(stripes))
    wait_for_all(page)
    OUTPUT.mkdir(exist_ok=True)
    for width, height in ((390, 844), (844, 390), (768, 1024), (1280, 800), (2560, 1440)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(
            """() => { const place = (id) => document.getElementById(id).getBoundingClientRect();
                const [photo, stage] = [place("photo"), place("stage")];
                return photo.width > 0 && photo.left >= stage.left && photo.right <= stage.right + 0.5
                    && photo.top >= stage.top && photo.bottom <= stage.bottom + 0.5; }"""
        )
        assert width_of(page) == width
        page.screenshot(path=OUTPUT / f"odd-{shape[0]}x{shape[1]}-{width}.png")


def test_a_landscape_phone_sees_most_of_the_image_at_once(open_page: OpenPage) -> None:
    page, _ = open_page(width=844, height=390)
    assert width_of(page) == 844
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    assert stage["height"] <= 390 - 40
    page.locator("#stage").scroll_into_view_if_needed()
    seen = page.locator("#stage").bounding_box()
    assert seen is not None and seen["y"] >= 0 and seen["y"] + seen["height"] <= 391


def test_twice_the_text_size_of_a_small_window_still_fits(open_page: OpenPage) -> None:
    """200 % zoom of a window of 1280 x 800: what the browser lays out is half of it each way."""
    page, _ = open_page(width=640, height=400)
    for mode in ("Detections", "Compare", "Own boxes"):
        page.get_by_role("radio", name=mode).check()
        assert width_of(page) == 640


def test_a_long_file_name_is_shortened_and_told_in_full(open_page: OpenPage) -> None:
    name = f"{'a long name ' * 20}.png"
    for width in (1280, 390):
        page, _ = open_page(width=width)
        pick(page, name, encode(board_image()))
        wait_for_all(page)
        expect(page.locator("#film-name")).to_have_attribute("title", name)
        expect(page.locator("#film-name")).to_be_visible()
        expect(page.locator("#clear")).to_be_in_viewport(ratio=1)
        assert width_of(page) == width


def test_the_systems_own_colours_still_tell_what_is_chosen(page: Page) -> None:
    page.emulate_media(forced_colors="active")
    background = "(node) => getComputedStyle(node).backgroundColor"
    chosen = page.locator("#mode input:checked + span").evaluate(background)
    other = page.locator("#mode input:not(:checked) + span").first.evaluate(background)
    assert chosen != other
    fill, meter = (page.locator(f"#detail {name}").first.evaluate(background) for name in (".fill", ".meter"))
    assert fill != meter
    assert (
        page.locator("#film .tile[aria-pressed=true]").evaluate(
            "(node) => getComputedStyle(node).outlineStyle"
        )
        == "solid"
    )
    OUTPUT.mkdir(exist_ok=True)
    page.screenshot(path=OUTPUT / "forced-colors.png", full_page=True)


def test_who_asked_for_less_motion_sees_none(open_page: OpenPage) -> None:
    page, _ = open_page()
    wait_for_all(page)
    page.emulate_media(reduced_motion="reduce")
    held: list[Route] = []
    page.route("**/detect?*", lambda route: held.append(route))  # noqa: PLW0108  # playwright marks the function
    pick(page, "mine.png", encode(tiles_image()))
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "true")
    expect(page.locator('#film li[data-state="running"]')).to_have_count(1)
    assert page.evaluate("document.getAnimations().length") == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate("document.getAnimations().length") > 0
    for route in held:
        route.continue_()
    wait_for_all(page)


def test_the_focus_is_seen_on_dark_and_on_bright_images(page: Page) -> None:
    page.locator("#boxes .detections g").first.focus()
    page.keyboard.press("ArrowRight")
    strokes = page.evaluate(
        """[".tint", ".halo"].map((name) => {
            const node = document.querySelector(`#boxes g:focus ${name}`);
            const { stroke, strokeWidth } = getComputedStyle(node);
            return [stroke, Number.parseFloat(strokeWidth)];
        })"""
    )
    (outer, outer_width), (inner, inner_width) = strokes
    assert outer == "rgb(255, 255, 255)" and inner == "rgb(11, 15, 19)"
    assert outer_width > inner_width
