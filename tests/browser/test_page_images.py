"""Many images: how they come in, the filmstrip, and one that the server refuses among others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from hindsight.artifact import write_artifact_manifest
from tests.browser.browsing import (
    OpenPage,
    Watch,
    drop,
    pick_all,
    running_server,
    states,
    tile,
    wait_for_all,
    wait_for_count,
)
from tests.factories import encode, make_tiny_artifact, tiles_image

PHOTO = encode(tiles_image())
BLACK = encode(np.zeros((64, 64, 3), np.uint8))


def test_a_refused_image_is_shown_on_its_tile_and_the_others_go_on(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    pick_all(
        page,
        [
            ("one.png", PHOTO, "image/png"),
            ("broken.jpg", b"no image", "image/jpeg"),
            ("black.png", BLACK, "image/png"),
        ],
    )
    wait_for_count(page, 2, 2)  # the first of them is looked at
    expected = {
        "one.png": "done",
        "broken.jpg": "failed",
        "black.png": "done",
        "board.jpg": "done",
        "tiles.jpg": "done",
    }
    page.wait_for_function("document.querySelectorAll('#film li[data-state=done]').length === 4")
    assert states(page) == expected
    broken = tile(page, "broken.jpg")
    expect(broken.locator(".badge")).to_have_text("!")
    assert "refused" in (broken.get_attribute("aria-label") or "")
    expect(page.locator("#film-count")).to_have_text("5, 1 refused")
    expect(page.locator("#problem")).to_be_hidden()  # it is another image's problem
    broken.click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("#table .empty")).to_contain_text("This image has no boxes")
    tile(page, "black.png").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#table .empty")).to_contain_text("No boxes, not even of score 0.05")
    expect(tile(page, "black.png").locator(".badge")).to_have_text("0")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_several_images_at_once(page: Page, way: str) -> None:
    drop(page, way, ("a.png", PHOTO, "image/png"), ("b.png", BLACK, "image/png"))
    wait_for_count(page, 2, 2)
    wait_for_all(page)
    assert list(states(page)) == ["a.png", "b.png", "board.jpg", "tiles.jpg"]


def test_a_dropped_folder_gives_its_pictures(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("10.png", "9.png", "more/11.png"):
        (folder / name).write_bytes(PHOTO)
    (folder / "Thumbs.db").write_bytes(b"not meant")
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 300, "data": data})
    wait_for_count(page, 2, 2)
    wait_for_all(page)
    assert list(states(page)) == ["9.png", "10.png", "11.png", "board.jpg", "tiles.jpg"]
    expect(page.locator("#drop")).to_be_hidden()


def test_annotation_files_are_not_sent_to_the_detector(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    asked = len(watch.detections)
    drop(page, "drop", ("boxes.json", b"[]", "application/json"))
    page.wait_for_timeout(300)
    assert len(watch.detections) == asked
    assert list(states(page)) == ["board.jpg", "tiles.jpg"]


def test_where_there_is_no_box_no_room_is_kept_for_one(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    wait_for_all(page)
    detail = page.locator("#detail")
    height = "document.querySelector('#detail').clientHeight"
    assert page.evaluate(height) > 250  # kept from box to box, so that nothing jumps
    for name, content in (("black.png", BLACK), ("broken.png", b"no image")):
        pick_all(page, [(name, content, "image/png")])
        expect(detail).to_have_text("No box to look at.")
        assert page.evaluate(height) < 60, name
    tile(page, "board.jpg").click()
    expect(detail.locator(".bar")).to_have_count(4)
    assert page.evaluate(height) > 250


def test_own_images_can_be_removed_and_samples_stay(page: Page) -> None:
    pick_all(
        page, [("a.png", PHOTO, "image/png"), ("b.png", BLACK, "image/png"), ("c.png", PHOTO, "image/png")]
    )
    wait_for_all(page)
    tile(page, "a.png").hover()
    page.get_by_role("button", name="Remove a.png").click()
    assert list(states(page)) == ["b.png", "c.png", "board.jpg", "tiles.jpg"]
    expect(tile(page, "b.png")).to_have_attribute("aria-pressed", "true")
    tile(page, "c.png").focus()
    page.keyboard.press("Delete")
    expect(tile(page, "c.png")).to_have_count(0)
    tile(page, "board.jpg").focus()
    page.keyboard.press("Delete")
    expect(tile(page, "board.jpg")).to_have_count(1)
    page.get_by_role("button", name="Remove my images").click()
    assert list(states(page)) == ["board.jpg", "tiles.jpg"]
    expect(page.get_by_role("button", name="Remove my images")).to_be_hidden()


SEEN_CROSSES = """() => [...document.querySelectorAll("#film .remove")].filter((cross) => {
    const { x, y, width, height } = cross.getBoundingClientRect();
    const seen = document.elementFromPoint(x + width / 2, y + height / 2) === cross;
    return seen && width >= 24 && height >= 24 && getComputedStyle(cross).opacity === "1";
}).map((cross) => cross.getAttribute("aria-label"))"""


def test_an_image_of_ones_own_has_a_cross_on_its_tile(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    wait_for_all(page)
    files = [("a.png", PHOTO), ("broken.png", b"no image"), ("c.png", PHOTO)]
    pick_all(page, [(name, content, "image/png") for name, content in files])
    busy = "#film li:is([data-state=waiting], [data-state=running])"
    expect(page.locator(busy)).to_have_count(0)
    page.mouse.move(5, 5)
    # Where nothing points: on the image that is looked at, and on what was refused. A sample has none.
    assert page.evaluate(SEEN_CROSSES) == ["Remove a.png", "Remove broken.png"]
    tile(page, "c.png").hover()
    assert page.evaluate(SEEN_CROSSES) == ["Remove a.png", "Remove broken.png", "Remove c.png"]
    page.get_by_role("button", name="Remove broken.png").click()
    assert list(states(page)) == ["a.png", "c.png", "board.jpg", "tiles.jpg"]
    tile(page, "a.png").focus()
    page.keyboard.press("ArrowRight")
    page.mouse.move(5, 5)
    assert page.evaluate(SEEN_CROSSES) == ["Remove c.png"]


def test_a_finger_finds_a_cross_on_each_tile_of_ones_own(browser: Browser, server: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(server)
    wait_for_all(page)
    pick_all(page, [(name, PHOTO, "image/png") for name in ("a.png", "b.png")])
    wait_for_all(page)
    page.locator("#film").scroll_into_view_if_needed()
    assert page.evaluate(SEEN_CROSSES) == ["Remove a.png", "Remove b.png"]
    page.get_by_role("button", name="Remove b.png").tap()
    assert list(states(page)) == ["a.png", "board.jpg", "tiles.jpg"]
    context.close()


def test_an_image_removed_while_it_is_asked_for_is_gone(page: Page) -> None:
    wait_for_all(page)
    held: list[Route] = []
    page.route("**/detect*", lambda route: held.append(route))  # noqa: PLW0108  # playwright marks the function
    pick_all(page, [("a.png", PHOTO, "image/png")])
    page.wait_for_function("document.querySelector('#film li').dataset.state === 'running'")
    page.wait_for_timeout(100)
    tile(page, "a.png").focus()
    page.keyboard.press("Delete")
    wait_for_count(page, 9, 9)
    for route in held:
        route.abort()
    assert list(states(page)) == ["board.jpg", "tiles.jpg"]
    expect(page.locator("#problem")).to_be_hidden()


def test_arrow_keys_move_along_the_filmstrip(page: Page) -> None:
    wait_for_all(page)
    tile(page, "board.jpg").focus()
    page.keyboard.press("ArrowRight")
    wait_for_count(page, 2, 2)
    expect(tile(page, "tiles.jpg")).to_be_focused()
    page.keyboard.press("Home")
    wait_for_count(page, 9, 9)
    expect(tile(page, "board.jpg")).to_be_focused()
    page.locator("#photo-section").focus()
    page.keyboard.press("]")
    wait_for_count(page, 2, 2)
    page.keyboard.press("[")
    wait_for_count(page, 9, 9)


def test_a_model_without_samples_invites_an_image(browser: Browser, tmp_path: Path) -> None:
    bare = make_tiny_artifact(tmp_path / "bare")
    (bare.path / "samples" / "tiles.jpg").unlink()
    write_artifact_manifest(bare.path, replace(bare.manifest, files={}))
    with running_server(tmp_path / "server.log", HINDSIGHT_MODEL=str(bare.path)) as address:
        page = browser.new_context().new_page()
        watch = Watch(address)
        watch.attach(page)
        page.goto(address)
        expect(page.locator("#placeholder")).to_contain_text("Add an image")
        pick_all(page, [("a.png", PHOTO, "image/png")])
        wait_for_count(page, 2, 2)
        page.get_by_role("button", name="Remove my images").click()
        expect(page.locator("#placeholder")).to_contain_text("Add an image")
        expect(page.locator("#table .empty")).to_have_text("Add an image to see its boxes.")
        watch.check(page)
        page.context.close()
