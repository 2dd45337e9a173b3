"""The workbench for every user: names, contrast, small screens, both schemes. Screenshots: tests/.output."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from tests.browser.access import NAMELESS, assert_screens_are_readable
from tests.browser.browsing import OpenPage
from tests.browser.workbench import choose, drag, own_mode, read_file, wait_for_opinions

SECTIONS = "#own-boxes, #export, #snippets, #server-panel, #own-layer"


def busy_workbench(page: Page) -> None:
    """Boxes of every kind, one selected, a complaint about a file, the live panel open."""
    choose(page, "tiles.jpg")
    own_mode(page)
    boxes = [
        {"box": [30, 0, 66, 40], "label": "red"},
        {"box": [96, 64, 128, 96], "label": "red"},
        {"box": [0, 50, 30, 90], "label": "blue"},
        {"box": [100, 70, 124, 90], "label": "a class of a very long name that nobody would give"},
        {"box": [100, 70, 900, 90]},
    ]
    read_file(page, "labels.json", json.dumps(boxes))
    wait_for_opinions(page, 4)
    page.get_by_text("Live figures", exact=True).click()
    expect(page.locator("#server-state")).to_contain_text("workers ready")
    page.locator(".own-list button").nth(1).focus()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_the_screen_and_is_readable(open_page: OpenPage, scheme: str) -> None:
    page, _ = open_page(scheme=scheme)
    busy_workbench(page)
    assert_screens_are_readable(page, f"workbench-{{}}-{scheme}", (1280, 820, 390, 320), texts=100)


def test_every_control_has_a_name_and_shows_its_focus(page: Page) -> None:
    busy_workbench(page)
    assert page.evaluate(NAMELESS) == []
    page.locator(".skip").focus()
    stops, unmarked = [], []
    for _ in range(140):
        page.keyboard.press("Tab")
        state = page.evaluate(
            """(sections) => {
                const node = document.activeElement;
                if (node === document.body) return null;
                if (!node.closest(sections)) return { outside: true };
                const beside = node.matches("input[type=file], input[type=radio]");
                const shown = beside ? node.nextElementSibling : node;
                const outlined = getComputedStyle(shown).outlineStyle !== "none";
                const halo = node.matches("[data-own]") ? node.querySelector(".halo") : null;
                const marked = halo ? getComputedStyle(halo).strokeWidth === "8px" : outlined;
                return { marked, html: node.outerHTML.slice(0, 160) };
            }""",
            SECTIONS,
        )
        if state is None:
            break
        if "html" in state:
            stops.append(state["html"])
            if not state["marked"]:
                unmarked.append(state["html"])
    else:
        pytest.fail("more than 140 tab stops")
    assert unmarked == []
    assert len(stops) > 20
    assert sum("data-own=" in stop for stop in stops) == 1  # one stop on the stage, however many boxes
    assert sum("data-own-row" in stop for stop in stops) == 1


def test_screen_readers_hear_boxes_and_their_doubts(page: Page) -> None:
    busy_workbench(page)
    layer = page.get_by_role("application", name="Your boxes")
    names = [node.get_attribute("aria-label") or "" for node in layer.get_by_role("button").all()]
    assert any(name.startswith("red, 36 by 40 pixels at 30, 0, loose") for name in names)
    expect(page.get_by_role("list", name="Your boxes", exact=True).get_by_role("listitem")).to_have_count(4)
    expect(page.get_by_role("alert").filter(has_text="leaves the image")).to_be_visible()
    drag(page, (60, 60), (80, 80))
    expect(page.locator("#own-said")).to_have_text("Box added, red; 5 in all")


def test_a_finger_draws_and_the_page_does_not_scroll_away(open_page: OpenPage) -> None:
    page, _ = open_page(width=390, height=844)
    choose(page, "tiles.jpg")
    own_mode(page)
    assert page.evaluate("getComputedStyle(document.getElementById('stage')).touchAction") == "none"
