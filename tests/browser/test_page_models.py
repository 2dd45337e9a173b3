"""The model switcher and the model card."""

from __future__ import annotations

import httpx
from playwright.sync_api import Page, expect

from tests.browser.browsing import (
    OpenPage,
    pick,
    set_slider,
    states,
    table_rows,
    wait_for_all,
    wait_for_count,
)
from tests.factories import encode, tiles_image


def test_the_card_says_what_the_model_is(page: Page, server: str) -> None:
    entry = next(model for model in httpx.get(f"{server}models").json()["models"] if model["name"] == "tiny")
    page.get_by_role("button", name="Model card").click()
    card = page.get_by_role("dialog", name="tiny 1")
    for text in (
        entry["description"],
        entry["licence"],
        "red",
        "green",
        "blue",
        "AP50",
        "0.900",
        "score ≥ 0.3",
    ):
        expect(card).to_contain_text(text)
    # What it was trained on is asked first: it stands before the figures.
    headings = card.get_by_role("heading").all_inner_texts()
    assert headings[1:] == ["Intended use", "Training data", "Limits", "Classes (3)", "Measured"]
    assert entry["training_data"] == {"name": "none"}
    for text in (entry["intended_use"], entry["limits"], "name", "none"):
        expect(card).to_contain_text(text)
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    expect(page.get_by_role("button", name="Model card")).to_be_focused()


def test_a_card_longer_than_the_window_opens_at_its_beginning(open_page: OpenPage) -> None:
    page, _ = open_page(width=700, height=400)
    page.get_by_role("button", name="Model card").click()
    expect(page.get_by_role("heading", name="tiny 1")).to_be_in_viewport()
    close = page.locator("#card").get_by_role("button", name="Close")
    expect(close).to_be_in_viewport(ratio=1)
    expect(close).to_be_focused()
    page.mouse.move(350, 200)
    page.mouse.wheel(0, 5000)
    expect(page.locator("#card-body").get_by_text("Apache-2.0")).to_be_in_viewport(ratio=1)
    expect(close).to_be_in_viewport(ratio=1)


def test_switching_takes_the_new_models_samples_and_own_images_along(open_page: OpenPage) -> None:
    page, watch = open_page()
    pick(page, "mine.png", encode(tiles_image()))
    wait_for_count(page, 2, 2)
    wait_for_all(page)
    set_slider(page, "min-iou", 0.9)
    page.locator("#model").select_option("plain")
    expect(page.locator("#detail .meaning")).to_contain_text("class score only")
    wait_for_all(page)
    assert list(states(page)) == ["mine.png", "tiles.jpg"]
    assert page.locator("#min-iou").input_value() == "0"
    assert all("model=plain" in url for url in watch.detections[-2:])
    page.locator("#model").select_option("tiny")
    wait_for_all(page)
    assert list(states(page)) == ["mine.png", "board.jpg", "tiles.jpg"]
    assert len(page.locator("#detail .bar").all()) == 4


def test_a_switch_while_requests_run_shows_the_new_models_answers(page: Page) -> None:
    wait_for_all(page)
    page.evaluate(
        """() => {
            const original = window.fetch;
            window.fetch = async (address, options) => { // an answer of the old model that comes late
                const response = await original(address, options);
                const old = String(address).includes("model=tiny");
                if (old) await new Promise((resolve) => setTimeout(resolve, 800));
                return response;
            };
        }"""
    )
    with page.expect_request("**/detect*"):
        pick(page, "mine.png", encode(tiles_image()))
    page.locator("#model").select_option("plain")
    wait_for_all(page)
    page.wait_for_timeout(1200)
    assert states(page) == {"mine.png": "done", "tiles.jpg": "done"}
    assert table_rows(page)[0][4] == "\N{EN DASH}"
    expect(page.locator("#timings")).to_contain_text("plain 1")


def test_leaving_compare_mode_for_a_model_that_cannot(page: Page) -> None:
    wait_for_all(page)
    page.get_by_role("radio", name="Compare").check()
    expect(page.locator("#compare-bar")).to_be_visible()
    page.locator("#model").select_option("plain")
    expect(page.get_by_role("radio", name="Detections")).to_be_checked()
    expect(page.locator("#compare-bar")).to_be_hidden()
    expect(page.locator("#table tbody tr").first).to_be_visible()
