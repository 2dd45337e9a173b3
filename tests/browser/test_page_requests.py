"""What the page does while it waits for answers, and with answers that do not come or cannot be used."""

from __future__ import annotations

import json

from playwright.sync_api import Page, expect

from tests.browser.browsing import OpenPage, pick, wait_for_count
from tests.factories import encode, tiles_image


def test_a_lost_server_is_reported_and_can_be_tried_again(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    page.route("**/detect*", lambda route: route.abort())
    pick(page, "photo.png", encode(tiles_image()))
    expect(page.get_by_role("alert")).to_contain_text("No answer from the server")
    page.unroute("**/detect*")
    page.get_by_role("button", name="Try again").click()
    wait_for_count(page, 2, 2)
    expect(page.locator("#problem")).to_be_hidden()


def test_a_busy_server_is_asked_again_after_the_time_it_names(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    busy = {"title": "The queue is full", "status": 503, "detail": "Full."}
    headers = {"retry-after": "4", "content-type": "application/problem+json"}
    page.route(
        "**/detect*", lambda route: route.fulfill(status=503, headers=headers, body=json.dumps(busy)), times=1
    )
    page.locator('#samples button[data-file="tiles.jpg"]').click()
    expect(page.locator("#status")).to_contain_text("The server is busy")
    wait_for_count(page, 2, 2)
    expect(page.locator("#problem")).to_be_hidden()


def test_only_the_latest_photo_is_shown(page: Page) -> None:
    """A slow answer for an older photo must not overwrite the newer one."""
    page.evaluate(
        """(() => { const original = window.fetch; let first = true;
            window.fetch = async (...request) => {
                const slow = first && String(request[0]).includes("/detect");
                if (slow) { first = false; await new Promise((resolve) => setTimeout(resolve, 600)); }
                return original(...request);
            }; })()"""
    )
    page.locator('#samples button[data-file="board.jpg"]').click()
    page.locator('#samples button[data-file="tiles.jpg"]').click()
    wait_for_count(page, 2, 2)
    page.wait_for_timeout(900)
    wait_for_count(page, 2, 2)


def test_an_answer_that_is_no_json_is_reported(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allowed.append("is not valid JSON")
    page.route("**/detect*", lambda route: route.fulfill(status=200, body="<p>Please log in</p>"), times=1)
    page.locator('#samples button[data-file="tiles.jpg"]').click()
    expect(page.get_by_role("alert")).to_contain_text("The answer could not be used")
    expect(page.locator("#status")).to_have_text("")
    page.get_by_role("button", name="Try again").click()
    wait_for_count(page, 2, 2)


def test_a_slider_moved_just_before_does_not_undo_the_choice_of_a_sample(page: Page) -> None:
    page.evaluate(
        """(() => { const original = window.fetch;
            window.fetch = async (address, options) => {
                const slow = String(address).includes("/samples/");
                if (slow) await new Promise((resolve) => setTimeout(resolve, 400));
                options?.signal?.throwIfAborted();
                return original(address, options);
            };
            const slider = document.getElementById("iou-weight");
            slider.value = 0;
            slider.dispatchEvent(new Event("input"));
            document.querySelector('#samples button[data-file="tiles.jpg"]').click(); })()"""
    )
    wait_for_count(page, 2, 2)
    expect(page.locator('#samples button[data-file="tiles.jpg"]')).to_have_attribute("aria-pressed", "true")
