"""Hundreds of images, images of one name, stopping, and everything changing while requests are under way."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import numpy as np
from playwright.sync_api import Page, Route, expect

from tests.browser.browsing import (
    OpenPage,
    drop,
    pick_all,
    set_slider,
    states,
    table_rows,
    tile,
    wait_for_all,
    wait_for_count,
)
from tests.factories import encode, tiles_image

PHOTO = encode(tiles_image())
BLACK = encode(np.zeros((64, 64, 3), np.uint8))
COUNT_URLS = """() => {
    const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
    window.alive = new Set();
    URL.createObjectURL = (blob) => { const url = make.call(URL, blob); window.alive.add(url); return url; };
    URL.revokeObjectURL = (url) => { window.alive.delete(url); revoke.call(URL, url); };
}"""


def refuse(route: Route, status: int, title: str, **headers: str) -> None:
    body = {"title": title, "status": status, "detail": "Said by the test."}
    route.fulfill(
        status=status, headers={"content-type": "application/problem+json", **headers}, body=json.dumps(body)
    )


def test_different_images_of_one_name_keep_their_own_boxes(page: Page) -> None:
    pick_all(page, [("same.png", PHOTO, "image/png"), ("same.png", BLACK, "image/png")])
    wait_for_all(page)
    both = tile(page, "same.png")
    expect(both).to_have_count(2)
    both.nth(0).click()
    wait_for_count(page, 2, 2)
    both.nth(1).click()
    wait_for_count(page, 0, 0)
    assert [both.nth(at).locator(".badge").inner_text() for at in (0, 1)] == ["2", "0"]
    page.keyboard.press("Delete")
    expect(both).to_have_count(1)
    both.click()
    wait_for_count(page, 2, 2)


def test_three_hundred_images_are_worked_off_and_leave_nothing_behind(open_page: OpenPage) -> None:
    page, _ = open_page()
    wait_for_all(page)
    page.evaluate(COUNT_URLS)
    count = 300
    pick_all(page, [(f"{number:03}.png", PHOTO, "image/png") for number in range(count)])
    expect(page.locator("#film-count")).to_contain_text("to go")
    page.locator("#min-score").fill("0.5")  # the page answers meanwhile
    page.wait_for_function(
        "(count) => document.querySelectorAll('#film li[data-state=done]').length === count",
        arg=count + 2,
        timeout=240_000,
    )
    expect(page.locator("#film-count")).to_have_text(f"{count + 2}")
    assert page.evaluate("window.alive.size") == count
    page.get_by_role("button", name="Remove my images").click()
    assert list(states(page)) == ["board.jpg", "tiles.jpg"]
    assert page.evaluate("window.alive.size") == 0
    wait_for_count(page, 7, 9)


def test_work_can_be_stopped_and_gone_on_with(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    expect(page.locator("#stop")).to_be_hidden()
    held: list[Route] = []
    page.route("**/detect*", lambda route: held.append(route))  # noqa: PLW0108  # playwright marks the function
    pick_all(page, [(f"{number}.png", PHOTO, "image/png") for number in range(6)])
    page.wait_for_function("() => document.querySelector('#film li[data-state=running]') !== null")
    page.get_by_role("button", name="Stop").click()
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("Stopped")
    expect(notice).to_contain_text("6 images wait")
    assert set(states(page).values()) == {"waiting", "done"}
    page.unroute("**/detect*")
    asked = len(watch.detections)
    page.wait_for_timeout(500)
    assert len(watch.detections) == asked
    wait = states(page)
    assert wait["board.jpg"] == wait["tiles.jpg"] == "done"
    drop(page, "drop", ("more.png", PHOTO, "image/png"))
    expect(notice).to_contain_text("7 images wait")
    expect(page.locator("#table .empty")).to_have_text("Waiting: see above.")
    expect(page.locator("#retry")).to_have_text("Go on")
    page.locator("#stop").click()  # which says the same: the notice may be out of sight
    wait_for_all(page)
    expect(page.locator("#problem")).to_be_hidden()
    assert len(states(page)) == 9


def test_a_stop_ends_when_nothing_is_left_to_do(page: Page) -> None:
    wait_for_all(page)
    held: list[Route] = []
    page.route("**/detect*", lambda route: held.append(route))  # noqa: PLW0108  # playwright marks the function
    pick_all(page, [(f"{number}.png", PHOTO, "image/png") for number in range(3)])
    page.get_by_role("button", name="Stop").click()
    page.unroute("**/detect*")
    page.get_by_role("button", name="Remove my images").click()
    expect(page.locator("#problem")).to_be_hidden()
    pick_all(page, [("new.png", PHOTO, "image/png")])
    wait_for_count(page, 2, 2)


def test_what_failed_is_tried_again_by_one_click(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/detect*", lambda route: refuse(route, 500, "Internal error"))
    pick_all(
        page,
        [*((f"{number}.png", PHOTO, "image/png") for number in range(4)), ("broken.png", b"x", "image/png")],
    )
    page.wait_for_function("() => document.querySelectorAll('#film li[data-state=failed]').length === 5")
    page.unroute("**/detect*")
    page.get_by_role("button", name="Try 5 again").click()
    page.wait_for_function("() => document.querySelectorAll('#film li[data-state=done]').length === 6")
    page.wait_for_function("() => document.querySelectorAll('#film li[data-state=failed]').length === 1")
    expect(page.get_by_role("button", name="Try 1 again")).to_be_hidden()  # it is the file's own fault
    assert states(page)["broken.png"] == "failed"


def test_more_images_and_a_moved_slider_while_some_are_under_way(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    held: list[Route] = []
    gate = {"open": False}
    page.route("**/detect*", lambda route: route.continue_() if gate["open"] else held.append(route))
    pick_all(page, [(f"a{number}.png", PHOTO, "image/png") for number in range(4)])
    page.wait_for_function("() => document.querySelector('#film li[data-state=running]') !== null")
    drop(page, "drop", *((f"b{number}.png", PHOTO, "image/png") for number in range(4)))
    expect(tile(page, "b0.png")).to_have_attribute("aria-pressed", "true")
    tile(page, "a1.png").focus()
    page.keyboard.press("Delete")  # one that waits, or is under way
    gate["open"] = True
    set_slider(page, "iou-weight", 0.1)
    page.wait_for_timeout(600)
    assert held
    for route in held:  # answers to what is no longer asked; those of dropped requests cannot be given
        refuse(route, 500, "An old answer")
    wait_for_all(page)
    assert list(states(page)) == [
        *("a0.png", "a2.png", "a3.png", "b0.png", "b1.png", "b2.png", "b3.png"),
        *("board.jpg", "tiles.jpg"),
    ]
    asked = [parse_qs(urlsplit(url).query).get("iou_weight") for url in watch.detections[-9:]]
    assert asked == [["0.1"]] * 9
    for name in ("a0.png", "b3.png"):
        tile(page, name).click()
        wait_for_count(page, 2, 2)
        [red, _] = table_rows(page)
        assert red[2] == f"{1.0**0.9 * 0.8**0.1:.2f}"
