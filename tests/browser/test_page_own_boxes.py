"""Own boxes by click path: draw, change, read from files, and the model's second opinion on them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.browsing import OpenPage, drop, pick, sample, states, wait_for_all
from tests.browser.modules import Modules, open_modules
from tests.browser.workbench import (
    PIXEL,
    choose,
    drag,
    own_boxes,
    own_mode,
    read_file,
    rescored,
    rows,
    wait_for_opinions,
)
from tests.factories import encode, tiles_image

RED, GREEN, DARK = [32.0, 0.0, 64.0, 32.0], [96.0, 64.0, 128.0, 96.0], [0.0, 40.0, 30.0, 90.0]  # of tiles.jpg


@pytest.fixture(scope="module")
def modules(browser: Browser, server: str) -> Iterator[Modules]:
    with open_modules(browser, server) as found:
        yield found


@pytest.fixture
def tiles(page: Page) -> Page:
    """The page in own-box mode on tiles.jpg, 160 x 96 pixels."""
    choose(page, "tiles.jpg")
    own_mode(page)
    return page


def shown_ious(page: Page) -> list[str]:
    return re.findall(r"IoU (\d\.\d\d)", "\n".join(rows(page)))


def given(page: Page, *boxes: list[float], label: str | None = None) -> None:
    """Boxes of the class `label` through a file."""
    before = len(own_boxes(page))
    items: list[Any] = list(boxes) if label is None else [{"box": box, "label": label} for box in boxes]
    read_file(page, "boxes.json", json.dumps(items))
    expect(page.locator("#own-layer [data-own]")).to_have_count(before + len(boxes))


def test_a_drawn_box_gets_the_servers_opinion(tiles: Page, server: str) -> None:
    drag(tiles, (30, 50), (70, 90))
    wait_for_opinions(tiles, 1)
    [box] = own_boxes(tiles)
    np.testing.assert_allclose(box, [30, 50, 70, 90], atol=PIXEL)
    [opinion] = rescored(server, sample(server, "tiles.jpg"), [box])
    assert shown_ious(tiles) == [f"{opinion['iou']:.2f}"]
    expect(tiles.locator(".own-list button").first).to_contain_text(
        "red"
    )  # the first class, until another is chosen


def test_each_box_has_one_plain_line(tiles: Page) -> None:
    given(tiles, RED, label="red")
    wait_for_opinions(tiles, 1)
    expect(tiles.locator(".own-list .remark")).to_have_text("cut: 20 % of the object is outside")
    given(tiles, GREEN, label="red")
    wait_for_opinions(tiles, 2)
    expect(tiles.locator(".own-list")).to_contain_text("may be a different class: green 0.9")
    given(tiles, DARK, label="red")
    wait_for_opinions(tiles, 3)
    expect(tiles.locator(".own-list button").first).to_contain_text("may be no object: the best class is")
    half = [32.0, 0.0, 64.0, 44.0]
    given(tiles, half, label="red")
    wait_for_opinions(tiles, 4)
    expect(tiles.locator(".own-list")).to_contain_text(
        re.compile(r"loose and cut: 2\d % of this box is background, 20 %")
    )


def test_the_worst_fitting_come_first(tiles: Page, server: str) -> None:
    boxes = [[32.0, 0.0, 64.0, 32.0 + 7 * step] for step in (2, 0, 5, 3, 1, 4)]
    given(tiles, *boxes, label="red")
    wait_for_opinions(tiles, len(boxes))
    expected = sorted(opinion["iou"] for opinion in rescored(server, sample(server, "tiles.jpg"), boxes))
    assert shown_ious(tiles) == [f"{iou:.2f}" for iou in expected]
    drawn = tiles.locator("#own-layer [data-own]")
    assert drawn.count() == len(boxes)
    first = tiles.locator(".own-list button").first
    first.click()
    chosen = tiles.locator(f'#own-layer [data-own="{first.get_attribute("data-own-row")}"]')
    expect(chosen).to_have_attribute("aria-pressed", "true")


def test_doubted_classes_can_come_first(tiles: Page) -> None:
    given(tiles, [96.0, 64.0, 128.0, 90.0], label="red")
    given(tiles, [32.0, 0.0, 64.0, 60.0], label="red")
    wait_for_opinions(tiles, 2)
    assert "different class" not in rows(tiles)[0]
    tiles.get_by_label("Order").select_option(label="Doubted class first")
    expect(tiles.locator(".own-list button").first).to_contain_text("may be a different class: green")


def test_a_box_that_is_badly_placed_on_an_object_is_not_called_empty(modules: Modules) -> None:
    """Of such a box the classifier says background; the model's own box beside it shows that it is not."""
    opinion = {"label": "red", "class_score": 0.01, "class_scores": {"red": 0.01}, "iou": 0.4}
    opinion |= {"purity": 0.9, "integrity": 0.42}
    code = "module.remarkOf('red', value[0], value[1])"
    near = {"detection": {}, "overlap": 0.4}
    assert modules.call("opinions", code, [opinion, near]) == "cut: 58 % of the object is outside"
    for nothing in (None, near | {"overlap": 0.05}):
        said = modules.call("opinions", code, [opinion, nothing])
        assert said == "may be no object: the best class is red 0.01"


def test_boxes_move_and_resize_by_pointer_and_all_of_it_can_be_undone(tiles: Page) -> None:
    drag(tiles, (20, 20), (60, 60))
    drag(tiles, (40, 40), (60, 50))  # moves it by 20, 10
    np.testing.assert_allclose(own_boxes(tiles), [[40, 30, 80, 70]], atol=PIXEL)
    drag(tiles, (80, 70), (100, 90))  # its south-east corner
    np.testing.assert_allclose(own_boxes(tiles), [[40, 30, 100, 90]], atol=PIXEL)
    drag(tiles, (70, 60), (159, 60))  # as far as the image goes
    [box] = own_boxes(tiles)
    np.testing.assert_allclose(box, [100, 30, 160, 90], atol=PIXEL)
    assert box[2] <= 160
    tiles.keyboard.press("Control+z")
    np.testing.assert_allclose(own_boxes(tiles), [[40, 30, 100, 90]], atol=PIXEL)
    tiles.get_by_role("button", name="Undo").click()
    tiles.get_by_role("button", name="Undo").click()
    np.testing.assert_allclose(own_boxes(tiles), [[20, 20, 60, 60]], atol=PIXEL)
    tiles.get_by_role("button", name="Undo").click()
    assert own_boxes(tiles) == []
    for _ in range(4):
        tiles.get_by_role("button", name="Redo").click()
    np.testing.assert_allclose(own_boxes(tiles), [box], atol=1e-6)
    expect(tiles.get_by_role("button", name="Redo")).to_be_disabled()


def test_a_click_draws_nothing_and_escape_ends_a_drag(tiles: Page) -> None:
    drag(tiles, (20, 20), (20.5, 20.5))
    assert own_boxes(tiles) == []
    drag(tiles, (20, 20), (60, 60))
    before = own_boxes(tiles)
    drag(tiles, (40, 40), (80, 80), release=False)
    assert own_boxes(tiles) != before
    tiles.keyboard.press("Escape")
    tiles.mouse.up()
    assert own_boxes(tiles) == before


def test_shift_draws_inside_another_box(tiles: Page) -> None:
    drag(tiles, (20, 20), (90, 90))
    tiles.keyboard.down("Shift")
    drag(tiles, (40, 40), (60, 60))
    tiles.keyboard.up("Shift")
    np.testing.assert_allclose(own_boxes(tiles), [[20, 20, 90, 90], [40, 40, 60, 60]], atol=PIXEL)


def test_everything_goes_by_keyboard(tiles: Page) -> None:
    tiles.get_by_role("button", name="Add a box").focus()
    tiles.keyboard.press("Enter")
    assert own_boxes(tiles) == [[60, 36, 100, 60]]
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown", "Control+ArrowRight", "Alt+Shift+ArrowUp"):
        tiles.keyboard.press(key)
    assert own_boxes(tiles) == [[62, 46, 103, 60]]
    assert "62, 46" in (tiles.evaluate("document.activeElement.getAttribute('aria-label')") or "")
    tiles.keyboard.press("2")
    expect(tiles.locator(".own-list button b")).to_have_text("green")
    tiles.get_by_role("button", name="Add a box").focus()
    tiles.keyboard.press("Enter")
    expect(tiles.locator(".own-list button b")).to_have_text(["green", "green"])
    first = tiles.evaluate("document.activeElement.dataset.own")
    tiles.keyboard.press("PageDown")
    assert tiles.evaluate("document.activeElement.dataset.own") != first
    tiles.keyboard.press("Delete")
    assert len(own_boxes(tiles)) == 1
    assert tiles.evaluate("document.activeElement.dataset.own") == first
    tiles.keyboard.press("Control+z")
    assert own_boxes(tiles)[0] == [62, 46, 103, 60]
    tiles.keyboard.press("Control+z")  # the second box
    tiles.keyboard.press("Control+z")  # its class
    tiles.keyboard.press("Control+z")  # the last resize
    assert own_boxes(tiles) == [[62, 46, 103, 70]]
    tiles.locator(".own-list button").focus()
    tiles.get_by_role("button", name="Delete", exact=True).focus()
    tiles.keyboard.press("Enter")
    assert own_boxes(tiles) == []
    expect(tiles.get_by_role("button", name="Add a box")).to_be_focused()


def test_a_held_arrow_key_is_one_step_to_undo(tiles: Page) -> None:
    tiles.get_by_role("button", name="Add a box").click()
    for _ in range(12):
        tiles.keyboard.down("ArrowLeft")
    tiles.keyboard.up("ArrowLeft")
    assert own_boxes(tiles) == [[48, 36, 88, 60]]
    tiles.keyboard.press("Control+z")
    assert own_boxes(tiles) == [[60, 36, 100, 60]]


def test_place_and_class_can_be_typed(tiles: Page) -> None:
    given(tiles, RED, label="red")
    tiles.locator(".own-list button").first.click()
    tiles.get_by_label("Left", exact=True).fill("10")
    tiles.get_by_label("Left", exact=True).press("Enter")
    assert own_boxes(tiles) == [[10, 0, 42, 32]]
    tiles.get_by_label("Width", exact=True).fill("400")
    tiles.get_by_label("Width", exact=True).press("Enter")
    expect(tiles.locator(".own-problems")).to_contain_text("leaves the image, which is 160 x 96 pixels")
    assert own_boxes(tiles) == [[10, 0, 42, 32]]
    tiles.locator("#own-label").select_option("blue")
    expect(tiles.locator(".own-list button b")).to_have_text("blue")


def test_the_models_own_box_is_shown_beside_and_can_be_taken(tiles: Page, server: str) -> None:
    given(tiles, [36.0, 4.0, 70.0, 40.0], label="red")
    tiles.locator(".own-list button").first.click()
    compared = tiles.get_by_role("table", name="Your box and the model's")
    expect(compared).to_contain_text("The model's")
    expect(compared.locator("caption")).to_have_text("The two overlap by 0.54 (IoU).")
    ghost = tiles.locator(".own-ghost")
    expect(ghost).to_be_visible()
    tiles.get_by_label("The model's nearest box beside it").uncheck()
    expect(ghost).to_be_hidden()
    expect(compared).not_to_contain_text("The model's")
    tiles.get_by_label("The model's nearest box beside it").check()
    tiles.get_by_role("button", name="Take the model's box").click()
    np.testing.assert_allclose(own_boxes(tiles), [RED], atol=0.01)
    given(tiles, DARK, label="red")
    tiles.locator(".own-list button", has_text="no object").click()
    expect(compared.locator("caption")).to_have_text("The model has no box that overlaps with this one.")
    expect(ghost).to_be_hidden()


def test_the_models_boxes_can_be_copied_once(tiles: Page) -> None:
    tiles.get_by_role("button", name="Copy the model's boxes").click()
    np.testing.assert_allclose(sorted(own_boxes(tiles)), [RED, GREEN], atol=0.01)
    assert {row.split("\n")[0].split()[0] for row in rows(tiles)} == {"red", "green"}
    tiles.get_by_role("button", name="Copy the model's boxes").click()
    assert len(own_boxes(tiles)) == 2


# The second opinion's requests ------------------------------------------------------------------------------


def test_many_edits_are_one_request_and_an_undo_is_none(tiles: Page) -> None:
    asked: list[str] = []
    tiles.on("request", lambda request: asked.append(request.url) if "/rescore" in request.url else None)
    tiles.get_by_role("button", name="Add a box").click()
    wait_for_opinions(tiles, 1)
    assert len(asked) == 1
    for _ in range(10):
        tiles.keyboard.press("ArrowLeft")
    wait_for_opinions(tiles, 1)
    assert len(asked) < 6
    before = len(asked)
    # Every place on the way back has no opinion yet, but the first one has.
    for _ in range(10):
        tiles.keyboard.press("Control+z")
    assert own_boxes(tiles) == [[60, 36, 100, 60]]
    wait_for_opinions(tiles, 1)
    assert len(asked) - before < 6
    tiles.locator("#own-label").select_option("green")
    after = len(asked)
    tiles.wait_for_timeout(600)
    assert len(asked) == after  # a class is no question to the model


def test_an_answer_that_was_overtaken_is_dropped(tiles: Page, server: str) -> None:
    tiles.evaluate(
        """(() => { const original = window.fetch; let first = true;
            window.aborted = 0;
            window.fetch = async (...request) => {
                const slow = first && String(request[0]).includes("/rescore");
                if (slow) {
                    first = false;
                    request[1].signal.addEventListener("abort", () => { window.aborted += 1; });
                    await new Promise((resolve) => setTimeout(resolve, 1500));
                }
                return original(...request);
            }; })()"""
    )
    with tiles.expect_request("**/rescore*", timeout=60_000):
        drag(tiles, (34, 2), (62, 30))
        tiles.wait_for_timeout(700)  # the first question is under way
        tiles.keyboard.press("Shift+ArrowDown")
    wait_for_opinions(tiles, 1)
    assert tiles.evaluate("window.aborted") == 1
    [box] = own_boxes(tiles)
    [opinion] = rescored(server, sample(server, "tiles.jpg"), [box])
    tiles.wait_for_timeout(1500)
    assert shown_ious(tiles) == [f"{opinion['iou']:.2f}"]


def test_a_failed_question_is_said_and_can_be_asked_again(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    choose(page, "tiles.jpg")
    own_mode(page)
    page.route("**/rescore*", lambda route: route.abort())
    drag(page, (34, 2), (62, 30))
    expect(page.locator("#own-state")).to_contain_text("No answer from the server, next try in")
    page.unroute("**/rescore*")
    page.get_by_role("button", name="Ask again").click()
    wait_for_opinions(page, 1)
    expect(page.get_by_role("button", name="Ask again")).to_be_hidden()


def test_a_busy_server_is_asked_again_after_the_time_it_names(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    choose(page, "tiles.jpg")
    own_mode(page)
    headers = {"retry-after": "2", "content-type": "application/problem+json"}
    busy = json.dumps({"title": "The queue is full", "status": 503, "detail": "Full."})
    page.route("**/rescore*", lambda route: route.fulfill(status=503, headers=headers, body=busy), times=1)
    drag(page, (34, 2), (62, 30))
    expect(page.locator("#own-state")).to_have_text(re.compile("The server is busy, next try in [12] s"))
    wait_for_opinions(page, 1)


def test_more_boxes_than_one_request_takes_are_asked_in_parts(tiles: Page, server: str) -> None:
    sizes: list[int] = []

    def count(route: Route) -> None:
        sizes.append((route.request.post_data_buffer or b"").count(b"],[") + 1)
        route.continue_()

    tiles.route("**/rescore*", count)
    boxes = [[float(n % 100), float(n // 100), n % 100 + 30.0, n // 100 + 30.0] for n in range(230)]
    given(tiles, *boxes)
    expect(tiles.locator("#own-state")).to_have_text("230 boxes, the worst-fitting first")
    assert sizes == [100, 100, 30]
    assert tiles.locator(".own-list button").count() == 200
    tiles.get_by_role("button", name="Show more").click()
    assert tiles.locator(".own-list button").count() == 230
    expected = sorted(
        opinion["iou"] for part in (boxes[:100], boxes[100:200], boxes[200:])
        for opinion in rescored(server, sample(server, "tiles.jpg"), part)
    )  # fmt: skip
    assert shown_ious(tiles) == [f"{iou:.2f}" for iou in expected]


def test_a_model_that_judges_no_boxes_says_so_and_drawing_still_works(page: Page) -> None:
    page.locator("#model").select_option("plain")
    choose(page, "tiles.jpg")
    own_mode(page)
    expect(page.locator("#own-state")).to_contain_text("plain does not judge boxes")
    drag(page, (20, 20), (60, 60))
    assert len(own_boxes(page)) == 1


# Files ------------------------------------------------------------------------------------------------------


def labels_of_two_images() -> str:
    return json.dumps(
        {
            "images": [
                {"id": 1, "file_name": "data/tiles.jpg"},
                {"id": 2, "file_name": "mine.png", "width": 160, "height": 96},
            ],
            "categories": [{"id": 1, "name": "Red"}, {"id": 2, "name": "cat"}],
            "annotations": [
                {"image_id": 1, "category_id": 1, "bbox": [32, 0, 32, 32]},
                {"image_id": 1, "category_id": 2, "bbox": [96, 64, 32, 32]},
                {"image_id": 2, "category_id": 1, "bbox": [0, 40, 30, 50]},
                {"image_id": 2, "category_id": 1, "bbox": [150, 40, 30, 50]},
            ],
        }
    )


def test_a_file_for_several_images_is_one_list_of_doubts(tiles: Page) -> None:
    pick(tiles, "mine.png", encode(tiles_image()))
    expect(tiles.get_by_role("button", name="Add a box")).to_be_enabled()
    read_file(tiles, "labels.json", labels_of_two_images())
    expect(tiles.locator(".own-problems li")).to_have_text(
        [
            "labels.json: annotation 4: [150, 40, 180, 90] leaves the image, which is 160 x 96 pixels",
            "labels.json: “cat” is no class of this model (red, green, blue): 1 box taken without a class",
        ]
    )
    tiles.locator(".own-problems").get_by_role("button", name="Close").click()
    expect(tiles.locator(".own-problems")).to_be_hidden()
    tiles.get_by_label("All images", exact=True).check()
    wait_for_opinions(tiles, 3)
    first, *others = rows(tiles)
    assert "mine.png" in first and "no object" in first
    assert all("tiles.jpg" in row for row in others)
    tiles.locator(".own-list button", has_text="no class").click()
    expect(tiles.locator("#photo")).to_have_attribute("aria-label", re.compile("tiles.jpg"))
    assert sorted(own_boxes(tiles)) == [RED, GREEN]


def test_a_broken_file_changes_nothing(tiles: Page) -> None:
    drag(tiles, (20, 20), (60, 60))
    before = own_boxes(tiles)
    for name, content in [
        ("bad.json", b"{"),
        ("bad.xml", b"<a>"),
        ("x.bin", bytes(range(256))),
        ("bad.txt", b"\xff\xfe\x00"),
    ]:
        read_file(tiles, name, content)
        expect(tiles.locator(".own-problems li").first).to_contain_text(f"{name}: ")
        assert own_boxes(tiles) == before
    assert tiles.get_by_role("button", name="Undo").is_enabled()
    tiles.get_by_role("button", name="Undo").click()
    assert own_boxes(tiles) == []


def test_a_huge_file_is_refused_before_it_is_read(tiles: Page) -> None:
    tiles.evaluate(
        """(() => {
            const file = new File([new Blob(Array(21).fill(new Uint8Array(1e6)))], "huge.json");
            file.text = () => { throw new Error("read"); };
            const transfer = new DataTransfer();
            transfer.items.add(file);
            const input = document.getElementById("own-file");
            input.files = transfer.files;
            input.dispatchEvent(new Event("change"));
        })()"""
    )
    expect(tiles.locator(".own-problems li")).to_have_text(
        "huge.json: 21 MB; at most 20 MB can be read here. "
        "Split the file, or use `hindsight audit` for a whole data set."
    )


def test_a_dropped_file_of_boxes_opens_the_mode(page: Page) -> None:
    choose(page, "tiles.jpg")
    drop(page, "drop", ("tiles.txt", b"0 .3 .1667 .2 .3333\n", "text/plain"))
    expect(page.locator('input[name="mode"][value="own boxes"]')).to_be_checked()
    wait_for_opinions(page, 1)
    np.testing.assert_allclose(own_boxes(page), [RED], atol=0.01)


def test_boxes_wait_for_an_image_that_has_no_answer_yet(tiles: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    tiles.route("**/detect*", hold)
    pick(tiles, "slow.png", encode(tiles_image()))
    expect(tiles.locator("#own-state")).to_have_text("This image has no answer yet.")
    read_file(tiles, "slow.txt", "0 .3 .1667 .2 .3333\n")
    expect(tiles.locator("#own-state")).to_have_text("This image has no answer yet; its boxes wait for it.")
    for route in held:
        route.continue_()
    wait_for_opinions(tiles, 1)
    np.testing.assert_allclose(own_boxes(tiles), [RED], atol=0.01)


@pytest.mark.parametrize("content", [b"hello", b"", b"0 1 2\n"])
def test_a_text_without_boxes_among_pictures_leaves_the_page_as_it_is(page: Page, content: bytes) -> None:
    wait_for_all(page)
    drop(
        page,
        "drop",
        ("notes.txt", content, "text/plain"),
        ("photo.png", encode(tiles_image()), "image/png"),
    )
    expect(page.locator("#status")).to_have_text("notes.txt holds no boxes")
    expect(page.get_by_role("radio", name="Detections")).to_be_checked()
    expect(page.locator("#own-boxes")).to_be_hidden()
    assert "photo.png" in states(page)
    drop(page, "drop", ("a.txt", b"x", "text/plain"), ("b.json", b"[]", "application/json"))
    expect(page.locator("#status")).to_have_text("a.txt and 1 more hold no boxes")
    drop(page, "drop", ("photo.txt", b"0 .3 .1667 .2 .3333", "text/plain"))  # boxes go where they are shown
    wait_for_opinions(page, 1)


def test_in_own_boxes_a_text_without_boxes_is_told_with_the_reason(tiles: Page) -> None:
    read_file(tiles, "notes.txt", "hello")
    expect(tiles.locator("#own-said")).to_have_text("notes.txt holds no boxes")
    reason = "line 1: expected class, cx, cy, width, height"
    expect(tiles.locator(".own-problems li").first).to_contain_text(reason)


def test_a_refused_image_is_not_waited_for(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    wait_for_all(page)
    pick(page, "broken.png", b"no image")
    expect(page.locator("#problem")).to_be_visible()
    page.locator('input[name="mode"][value="own boxes"]').check()
    expect(page.locator("#own-state")).to_have_text("This image was refused: it can have no boxes.")
    read_file(page, "broken.txt", "0 .3 .1667 .2 .3333\n")
    expect(page.locator(".own-problems li")).to_have_text(["broken.txt: its image was refused"])
    expect(page.locator("#own-said")).not_to_contain_text("wait")


def test_boxes_that_waited_for_an_image_that_is_refused_are_given_up(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    wait_for_all(page)
    held: list[Route] = []
    page.route("**/detect*", lambda route: held.append(route))  # noqa: PLW0108  # playwright marks the function
    pick(page, "broken.png", b"no image")
    page.locator('input[name="mode"][value="own boxes"]').check()
    read_file(page, "broken.txt", "0 .3 .1667 .2 .3333\n")
    expect(page.locator("#own-state")).to_contain_text("its boxes wait for it")
    for route in held:
        route.continue_()
    expect(page.locator(".own-problems li")).to_have_text(["broken.txt: its image was refused"])
    expect(page.locator("#own-state")).to_have_text("This image was refused: it can have no boxes.")


def test_foreign_text_stays_text(tiles: Page) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    pick(tiles, name, encode(tiles_image()))
    expect(tiles.get_by_role("button", name="Add a box")).to_be_enabled()
    label = "<b>bold</b><script>alert(1)</script>"
    document = {
        "images": [{"id": 1, "file_name": name}],
        "categories": [{"id": 1, "name": label}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [1, 1, 30, 30]},
            {"image_id": "<i>2</i>", "bbox": []},
        ],
    }
    read_file(tiles, "<u>labels.json", json.dumps(document))
    expect(tiles.locator(".own-problems li")).to_have_count(2)
    expect(tiles.locator(".own-problems")).to_contain_text("<b>bold</b>")
    tiles.get_by_label("All images", exact=True).check()
    expect(tiles.locator(".own-list small")).to_have_text(name)
    assert (
        tiles.locator("#own-boxes :is(b, i, u, script, img)", has_text=re.compile("bold|2|labels")).count()
        == 0
    )
    assert tiles.locator("#own-boxes img").count() == 0
