"""What the page does while it waits for answers, and with answers that do not come or cannot be used."""

from __future__ import annotations

import json
import threading
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, Route, expect

from tests.browser.browsing import (
    OpenPage,
    answer_for,
    pick,
    pick_all,
    sample,
    set_slider,
    states,
    table_rows,
    tile,
    wait_for_all,
    wait_for_count,
)
from tests.factories import encode, tiles_image

PROBLEM = "application/problem+json"
SLOW_DETECT = """(milliseconds) => {
    const original = window.fetch;
    window.fetch = async (address, options) => {
        const slow = String(address).includes("/detect");
        if (slow) await new Promise((resolve) => setTimeout(resolve, milliseconds));
        options?.signal?.throwIfAborted();
        return original(address, options);
    };
}"""


def refuse(route: Route, status: int, title: str, **headers: str) -> None:
    body = {"title": title, "status": status, "detail": "Said by the test."}
    route.fulfill(status=status, headers={"content-type": PROBLEM, **headers}, body=json.dumps(body))


def test_a_lost_server_is_reported_and_can_be_tried_again(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/detect*", lambda route: route.abort())
    pick(page, "photo.png", encode(tiles_image()))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("No answer from the server")
    expect(alert).to_contain_text("next try in")
    assert states(page)["photo.png"] == "waiting"
    page.unroute("**/detect*")
    page.get_by_role("button", name="Try now").click()
    wait_for_count(page, 2, 2)
    expect(page.locator("#problem")).to_be_hidden()


def test_after_a_lost_connection_the_page_goes_on_by_itself(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.context.set_offline(True)
    pick_all(page, [(f"{number}.png", encode(tiles_image()), "image/png") for number in range(5)])
    expect(page.get_by_role("alert")).to_contain_text("No answer from the server")
    assert "failed" not in states(page).values()
    page.context.set_offline(False)  # the browser says so: the page need not wait
    wait_for_all(page)
    expect(page.locator("#problem")).to_be_hidden()


def test_a_busy_server_is_asked_again_after_the_time_it_names(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    asked = len(watch.detections)
    page.route(
        "**/detect*", lambda route: refuse(route, 503, "The queue is full", **{"retry-after": "3"}), times=1
    )
    pick(page, "photo.png", encode(tiles_image()))
    expect(page.get_by_role("alert")).to_contain_text("The queue is full")
    expect(page.get_by_role("alert")).to_contain_text("next try in")
    expect(page.locator("#status")).to_contain_text("The server is busy")
    assert len(watch.detections) == asked + 1
    wait_for_count(page, 2, 2)
    expect(page.locator("#problem")).to_be_hidden()
    assert len(watch.detections) == asked + 2


def test_a_wait_that_the_server_does_not_name_is_ended_by_the_user(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/detect*", lambda route: refuse(route, 503, "The engine is down"), times=1)
    pick(page, "photo.png", encode(tiles_image()))
    expect(page.get_by_role("alert")).to_contain_text("The engine is down")
    page.get_by_role("button", name="Try again").click()
    wait_for_count(page, 2, 2)


def test_an_error_of_one_image_can_be_tried_again(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/detect*", lambda route: refuse(route, 504, "Too late"), times=1)
    pick(page, "photo.png", encode(tiles_image()))
    expect(page.get_by_role("alert")).to_contain_text("Too late")
    assert states(page) == {"photo.png": "failed", "board.jpg": "done", "tiles.jpg": "done"}
    tile(page, "board.jpg").click()
    wait_for_count(page, 9, 9)
    expect(page.locator("#problem")).to_be_hidden()
    tile(page, "photo.png").click()
    page.get_by_role("button", name="Try again").click()
    wait_for_count(page, 2, 2)


def test_an_answer_that_is_no_json_is_reported(open_page: OpenPage) -> None:
    page, _ = open_page()
    wait_for_all(page)
    page.route("**/detect*", lambda route: route.fulfill(status=200, body="<p>Please log in</p>"), times=1)
    pick(page, "photo.png", encode(tiles_image()))
    expect(page.get_by_role("alert")).to_contain_text("The answer could not be used")
    expect(page.locator("#status")).to_have_text("")
    page.get_by_role("button", name="Try again").click()
    wait_for_count(page, 2, 2)


def test_a_server_that_is_lost_when_the_page_opens_is_asked_again(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/models", lambda route: route.abort(), times=1)
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("No answer from the server")
    page.get_by_role("button", name="Try now").click()
    wait_for_count(page, 9, 9)


def test_only_the_latest_photo_is_shown(page: Page) -> None:
    """A slow answer for an older photo must not overwrite the newer one on the stage."""
    wait_for_all(page)
    page.evaluate(
        """(() => { const original = window.fetch; let first = true;
            window.fetch = async (...request) => {
                const slow = first && String(request[0]).includes("/detect");
                if (slow) { first = false; await new Promise((resolve) => setTimeout(resolve, 900)); }
                return original(...request);
            }; })()"""
    )
    pick(page, "slow.png", encode(tiles_image()))
    tile(page, "board.jpg").click()
    wait_for_count(page, 9, 9)
    wait_for_all(page)
    wait_for_count(page, 9, 9)
    expect(page.locator("#photo")).to_have_attribute("aria-label", "Photo board.jpg")
    tile(page, "slow.png").click()
    wait_for_count(page, 2, 2)


def test_moving_a_slider_of_the_server_asks_once_and_drops_what_was_asked_before(
    open_page: OpenPage, server: str
) -> None:
    page, watch = open_page()
    wait_for_all(page)
    page.evaluate(SLOW_DETECT, 3000)
    asked = len(watch.detections)
    for weight in (0.9, 0.7, 0.2):  # faster than the page's patience: one question
        set_slider(page, "iou-weight", weight)
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "true")
    wait_for_count(page, 9, 9)  # the old boxes stay until the new ones are here
    set_slider(page, "iou-weight", 0.1)
    wait_for_all(page)
    page.wait_for_function("document.querySelector('#stage').getAttribute('aria-busy') === 'false'")
    weights = [parse_qs(urlsplit(url).query)["iou_weight"] for url in watch.detections[asked:]]
    assert set(map(tuple, weights)) == {("0.1",)}, "0.2 was asked for and dropped before it left"
    expected = answer_for(server, sample(server), iou_weight=0.1)
    assert [row[2] for row in table_rows(page)] == [f"{record['score']:.2f}" for record in expected]


def test_nms_is_asked_of_the_server(page: Page) -> None:
    wait_for_all(page)
    with page.expect_request("**/detect*") as asked:
        set_slider(page, "nms-threshold", 0.7)
    assert parse_qs(urlsplit(asked.value.url).query)["nms_threshold"] == ["0.7"]
    wait_for_all(page)


def test_a_slider_moved_just_before_does_not_undo_the_choice_of_an_image(page: Page) -> None:
    wait_for_all(page)
    page.evaluate(
        """(() => {
            const slider = document.getElementById("iou-weight");
            slider.value = 0;
            slider.dispatchEvent(new Event("input"));
            document.querySelector('#film .tile[data-file="tiles.jpg"]').click(); })()"""
    )
    wait_for_count(page, 2, 2)
    expect(tile(page, "tiles.jpg")).to_have_attribute("aria-pressed", "true")


def test_many_images_are_asked_for_a_few_at_a_time(open_page: OpenPage) -> None:
    page, _ = open_page()
    wait_for_all(page)
    gate, waiting = threading.Lock(), []
    most = 0

    def hold(route: Route) -> None:
        nonlocal most
        with gate:
            waiting.append(route)
            most = max(most, len(waiting))

    page.route("**/detect*", hold)
    count = 50
    pick_all(page, [(f"{number:02}.png", encode(tiles_image()), "image/png") for number in range(count)])
    answered = 0
    while answered < count:
        page.wait_for_function("document.querySelector('#film li[data-state=running]') !== null")
        page.wait_for_timeout(30)  # routes are called while playwright waits
        with gate:
            batch, waiting[:] = waiting[:], []
        for route in batch:
            route.continue_()
        answered += len(batch)
    wait_for_all(page)
    assert most <= 3
    assert len(states(page)) == count + 2
    expect(page.locator("#film-count")).to_have_text(f"{count + 2}")


def test_a_slow_server_is_asked_for_one_image_after_the_other(page: Page) -> None:
    """Several at once would only wait in its queue, or be refused there."""
    wait_for_all(page)
    page.evaluate(
        """() => {
            const original = window.fetch;
            const calls = window.calls = [];
            let running = 0;
            window.fetch = async (address, options) => {
                if (!String(address).includes("/detect")) return original(address, options);
                running += 1;
                calls.push(running);
                await new Promise((resolve) => setTimeout(resolve, 1200));
                try {
                    return await original(address, options);
                } finally {
                    running -= 1;
                }
            };
        }"""
    )
    pick_all(page, [(f"{number}.png", encode(tiles_image()), "image/png") for number in range(6)])
    wait_for_all(page)
    calls = page.evaluate("window.calls")
    assert len(calls) == 6
    assert max(calls) <= 3  # what was begun before the first slow answer
    assert calls[-1] == calls[-2] == 1
