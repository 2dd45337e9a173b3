"""What can come instead of an answer: the page says so, goes on by itself where that helps, loses nothing."""

from __future__ import annotations

import json
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from service.keys import create_key
from tests.browser.browsing import (
    OpenPage,
    Watch,
    drop,
    pick,
    pick_all,
    running_server,
    set_slider,
    states,
    tile,
    wait_for_all,
    wait_for_count,
)
from tests.browser.workbench import choose, drag, own_mode, wait_for_opinions
from tests.factories import encode, make_tiny_artifact, tiles_image

PHOTO = encode(tiles_image())
PROBLEM = "application/problem+json"


def refuse(route: Route, status: int, title: str, slug: str = "test", **headers: str) -> None:
    body = {"type": f"/docs#{slug}", "title": title, "status": status, "detail": "Said by the test."}
    route.fulfill(status=status, headers={"content-type": PROBLEM, **headers}, body=json.dumps(body))


def from_a_proxy(route: Route, status: int) -> None:
    """As a proxy answers for a server that it cannot reach: no JSON."""
    route.fulfill(status=status, headers={"content-type": "text/html"}, body="<h1>Bad Gateway</h1>")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_named_time_is_waited_for_and_counted_down(open_page: OpenPage, status: int, form: str) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=4), usegmt=True)
    after = {"retry-after": "3" if form == "seconds" else date}
    page.route("**/detect*", lambda route: refuse(route, status, "Not now", **after), times=1)
    pick_all(page, [(f"{number}.png", PHOTO, "image/png") for number in range(3)])
    expect(page.get_by_role("alert")).to_contain_text("Not now")
    expect(page.locator("#problem-wait")).to_contain_text("next try in")
    assert "failed" not in states(page).values()
    wait_for_all(page)  # by itself
    expect(page.locator("#problem")).to_be_hidden()


def test_a_server_that_is_busy_for_long_is_asked_less_and_less_often(page: Page) -> None:
    """Loading a model takes longer than its Retry-After of a second says, again and again."""
    code = """async () => {
        const { waitFor } = await import(new URL("page/patience.js", document.baseURI));
        const { Problem } = await import(new URL("page/api.js", document.baseURI));
        const waits = (fields) => [...Array(40).keys()]
            .map((tries) => waitFor(new Problem({ title: "x", ...fields }), tries));
        return {
            busy: waits({ status: 503, retryAfter: 1 }), far: waits({ status: 429, retryAfter: 60 }),
            lost: waits({ lost: true }), gateway: waits({ status: 502 }),
            unnamed: waits({ status: 503 }), never: waits({ status: 503, retryAfter: 3600 }),
        };
    }"""
    waits = page.evaluate(code)
    for name in ("busy", "far", "lost", "gateway"):
        asked = [wait for wait in waits[name] if wait is not None]
        assert asked == sorted(asked), name
        assert sum(asked) > 300, f"{name}: goes on for minutes"
        assert waits[name][-1] is None, f"{name}: not for ever"
    assert waits["busy"][0] == 1
    assert max(wait for wait in waits["lost"] if wait is not None) == 30
    assert min(wait for wait in waits["far"] if wait is not None) == 60
    assert set(waits["unnamed"]) == set(waits["never"]) == {None}


@pytest.mark.parametrize("status", [502, 503])
def test_a_proxy_in_front_of_a_server_that_restarts_refuses_no_image(
    open_page: OpenPage, status: int
) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/detect*", lambda route: from_a_proxy(route, status), times=1)
    pick_all(page, [(f"{number}.png", PHOTO, "image/png") for number in range(3)])
    expect(page.locator("#problem")).to_be_visible()
    assert "failed" not in states(page).values()
    assert "Said no reason" not in page.locator("#problem").inner_text()
    page.locator("#retry").click()
    wait_for_all(page)


@pytest.mark.parametrize(
    ("status", "words"),
    [(413, "larger than"), (404, "no such address"), (400, "no reason"), (500, "no reason")],
)
def test_a_refusal_without_words_gets_some(open_page: OpenPage, status: int, words: str) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/detect*", lambda route: from_a_proxy(route, status), times=1)
    pick(page, "photo.png", PHOTO)
    expect(page.locator("#problem-detail")).to_contain_text(words)
    expect(page.locator("#problem-status")).to_have_text(f"HTTP {status}")


@pytest.mark.parametrize("body", ["null", "[1]", '"text"', '{"title": {"a": 1}, "detail": [1]}', "{"])
def test_a_refusal_in_strange_json_is_shown_all_the_same(open_page: OpenPage, body: str) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    answer = {"status": 500, "headers": {"content-type": PROBLEM}, "body": body}
    page.route("**/detect*", lambda route: route.fulfill(**answer), times=1)
    pick(page, "photo.png", PHOTO)
    expect(page.locator("#problem-status")).to_have_text("HTTP 500")
    expect(page.locator("#problem-detail")).to_have_text("The answer gave no reason.")
    page.locator("#retry").click()
    wait_for_count(page, 2, 2)


@pytest.mark.parametrize("body", ["<p>Please log in</p>", "{}", "null", '{"models": 1}'])
def test_a_list_of_models_that_is_none_is_reported(open_page: OpenPage, body: str) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/models", lambda route: route.fulfill(status=200, body=body), times=1)
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The answer could not be used")
    page.locator("#retry").click()
    wait_for_count(page, 9, 9)


@pytest.mark.parametrize("body", ["{}", "null", '{"image": {}}', "[]"])
def test_an_answer_of_another_shape_is_reported_and_can_be_asked_again(
    open_page: OpenPage, body: str
) -> None:
    page, _ = open_page()
    wait_for_all(page)
    page.route("**/detect*", lambda route: route.fulfill(status=200, body=body), times=1)
    pick(page, "photo.png", PHOTO)
    expect(page.get_by_role("alert")).to_contain_text("The answer could not be used")
    assert "undefined" not in page.locator("#problem-detail").inner_text()
    page.locator("#retry").click()
    wait_for_count(page, 2, 2)


def test_a_second_opinion_goes_on_by_itself_after_a_busy_server_and_a_lost_network(
    open_page: OpenPage,
) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    choose(page, "tiles.jpg")
    own_mode(page)
    page.route(
        "**/rescore*", lambda route: refuse(route, 503, "The queue is full", **{"retry-after": "8"}), times=1
    )
    drag(page, (34, 2), (62, 30))
    expect(page.locator("#own-state")).to_contain_text("next try in")
    wait_for_opinions(page, 1)
    page.route("**/rescore*", lambda route: route.abort(), times=1)
    drag(page, (98, 66), (126, 94))
    expect(page.locator("#own-state")).to_contain_text("next try in")
    wait_for_opinions(page, 2)
    page.context.set_offline(True)
    drag(page, (10, 40), (30, 60))
    expect(page.locator("#own-state")).to_contain_text("next try in")
    page.context.set_offline(False)  # the browser says so: nobody has to wait
    wait_for_opinions(page, 3)


@pytest.mark.parametrize("body", ["<p>Please log in</p>", "null", '{"results": 1}', '{"results": [null]}'])
def test_a_second_opinion_that_is_none_can_be_asked_again(open_page: OpenPage, body: str) -> None:
    page, _ = open_page()
    choose(page, "tiles.jpg")
    own_mode(page)
    page.route("**/rescore*", lambda route: route.fulfill(status=200, body=body), times=1)
    drag(page, (34, 2), (62, 30))
    expect(page.locator("#own-state")).to_contain_text("No second opinion: The answer could not be used")
    assert "Unexpected token" not in page.locator("#own-state").inner_text()
    page.get_by_role("button", name="Ask again").click()
    wait_for_opinions(page, 1)


def test_comparing_that_failed_can_be_asked_again(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/detect*", lambda route: refuse(route, 500, "Internal error"), times=1)
    page.get_by_role("radio", name="Compare").check()
    expect(page.locator("#compare-summary")).to_contain_text("Internal error")
    page.locator("#compare-bar").get_by_role("button", name="Ask again").click()
    expect(page.locator("#compare-summary")).to_contain_text("The best 9 boxes")
    expect(page.locator("#compare-bar").get_by_role("button", name="Ask again")).to_be_hidden()


def test_comparing_a_refused_image_says_that_there_is_nothing_to_compare(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    pick(page, "broken.png", b"x")
    expect(page.locator("#problem")).to_be_visible()
    page.get_by_role("radio", name="Compare").check()
    expect(page.locator("#compare-summary")).to_have_text(
        "This image was refused: there is nothing to compare."
    )


def test_a_key_that_is_withdrawn_is_asked_for_and_nothing_is_lost(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    tiny = make_tiny_artifact(tmp_path / "tiny")
    first, watching = create_key(file, "first", "user"), create_key(file, "watching", "metrics")
    settings = {"HINDSIGHT_MODEL": str(tiny.path), "HINDSIGHT_KEYS_FILE": str(file)}
    with running_server(tmp_path / "server.log", **settings) as address:
        page = browser.new_context().new_page()
        watch = Watch(address)
        watch.allow_failed_requests()
        watch.attach(page)
        page.goto(address)
        dialog = page.get_by_role("dialog", name="This server asks for a key")

        def enter(key: str) -> None:
            expect(dialog).to_be_visible()
            page.get_by_label("API key", exact=True).fill(key)
            page.get_by_role("button", name="Use this key").click()

        enter(watching)  # a key, but one that may not detect
        expect(dialog).to_contain_text("role")
        enter(first)
        wait_for_all(page)
        pick_all(page, [("one.png", PHOTO, "image/png")])
        wait_for_count(page, 2, 2)
        file.unlink()
        second = create_key(file, "second", "user")
        deadline = time.monotonic() + 60  # the server looks at the file now and then
        while not dialog.is_visible():
            assert time.monotonic() < deadline
            pick_all(page, [(f"{time.monotonic()}.png", PHOTO, "image/png")])
            page.wait_for_timeout(500)
        page.keyboard.press("Escape")
        expect(page.locator("#problem")).to_contain_text("API key")
        assert "failed" not in states(page).values()
        assert states(page)["one.png"] == "done"
        page.locator("#retry").click()
        enter(second)
        wait_for_all(page)
        watch.check(page)
        page.context.close()


def test_a_server_that_restarts_loses_nothing(browser: Browser, tmp_path: Path) -> None:
    tiny = make_tiny_artifact(tmp_path / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = browser.new_context().new_page()
    page.set_default_timeout(120_000)
    with running_server(tmp_path / "one.log", port, HINDSIGHT_MODEL=str(tiny.path)) as address:
        watch = Watch(address)
        watch.allow_failed_requests()
        watch.attach(page)
        page.goto(address)
        pick(page, "before.png", PHOTO)
        wait_for_all(page)
    pick_all(page, [("during.png", PHOTO, "image/png"), ("also.png", PHOTO, "image/png")])
    expect(page.get_by_role("alert")).to_contain_text("No answer from the server")
    assert states(page)["before.png"] == "done"
    with running_server(tmp_path / "two.log", port, HINDSIGHT_MODEL=str(tiny.path)):
        page.wait_for_function(
            "() => [...document.querySelectorAll('#film li')].every((item) => item.dataset.state === 'done')",
            timeout=120_000,
        )
        expect(page.locator("#problem")).to_be_hidden()
        tile(page, "during.png").click()
        wait_for_count(page, 2, 2)
        watch.check(page)
    page.context.close()


def test_an_image_that_failed_later_carries_its_problem_into_the_export(open_page: OpenPage) -> None:
    """Answered once, then refused with another option: it is not "without an answer yet"."""
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    page.route("**/detect*", lambda route: refuse(route, 500, "Internal error"), times=1)
    set_slider(page, "iou-weight", 0.2)
    page.wait_for_function("() => document.querySelectorAll('#film li[data-state=failed]').length === 1")
    page.wait_for_function("() => document.querySelectorAll('#film li[data-state=done]').length === 1")
    page.locator('input[name="export-scope"][value="all"]').check()
    expect(page.locator("#export-facts")).to_contain_text("1 failed")
    with page.expect_download() as download:
        page.locator("#export").get_by_role("button", name="COCO JSON").click()
    images = json.loads(Path(download.value.path()).read_bytes())["images"]
    assert [entry["problem"]["title"] for entry in images if "problem" in entry] == ["Internal error"]


@pytest.mark.parametrize("part", ["export.js", "own-boxes.js", "onscreen.js"])
def test_a_part_that_did_not_load_can_be_loaded_again(open_page: OpenPage, part: str) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    watch.allowed.append("dynamically imported module")
    page.route(f"**/page/{part}*", lambda route: route.abort(), times=1)
    page.reload()
    section = page.locator("#own-boxes" if part == "own-boxes.js" else "#export")
    again = section.locator("button", has_text="Load it again")  # of a section that may be hidden
    expect(again).to_have_count(1)
    again.dispatch_event("click")
    expect(again).to_have_count(0)
    if part == "own-boxes.js":
        own_mode(page)
    else:
        expect(section.get_by_role("button", name="COCO JSON")).to_be_visible()


def test_a_file_that_cannot_be_dropped_does_not_take_the_others_along(page: Page) -> None:
    wait_for_all(page)
    drop(page, "drop", ("boxes.xml", b"<annotation/>", "text/xml"), ("photo.png", PHOTO, "image/png"))
    wait_for_all(page)
    assert list(states(page)) == ["photo.png", "board.jpg", "tiles.jpg"]
