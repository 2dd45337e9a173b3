"""Compare mode: the same image ranked by class score alone and by hindsight.

The tiny model ranks both ways alike, so the two answers are made up here; test_cells_page.py compares with a
real model.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.browsing import OpenPage, box, set_slider, shown_boxes, tile, wait_for_all, wait_for_count


def detection(x: float, label: str, class_score: float, iou: float, score: float) -> dict[str, Any]:
    """A box 20 wide at x."""
    return {
        "box": [x, 10.0, x + 20, 50.0], "label": label, "label_id": 0, "score": score,
        "class_score": class_score, "iou": iou, "purity": (1 + iou) / 2, "integrity": 2 * iou / (1 + iou),
    }  # fmt: skip


def fused(x: float, label: str, class_score: float, iou: float) -> dict[str, Any]:
    return detection(x, label, class_score, iou, round((class_score * iou) ** 0.5, 4))


def plain(x: float, label: str, class_score: float, iou: float) -> dict[str, Any]:
    return detection(x, label, class_score, iou, class_score)


# By class score: A .9, B .8, C .7, D .6; E comes fifth.
# By hindsight: B, A, E, C2 (another box for C's object), then D.
A, B, D, E = (5, "red", 0.9, 0.6), (35, "red", 0.8, 0.9), (95, "blue", 0.6, 0.4), (125, "green", 0.55, 0.95)
C, C2 = (65, "green", 0.7, 0.3), (67, "green", 0.65, 0.7)
BY_CLASS = [plain(*A), plain(*B), plain(*C), plain(*D), plain(*E)]
BY_HINDSIGHT = sorted((fused(*b) for b in (A, B, C2, D, E)), key=lambda found: -found["score"])


def answer(route: Route) -> None:
    weight = parse_qs(urlsplit(route.request.url).query).get("iou_weight", ["0.5"])[0]
    body = {
        "model": "tiny", "version": "1", "image": {"width": 160, "height": 96}, "timings_ms": {"model": 1.0},
        "detections": BY_CLASS if weight == "0" else BY_HINDSIGHT,
    }  # fmt: skip
    route.fulfill(status=200, content_type="application/json", body=json.dumps(body))


def opened(open_page: OpenPage) -> Page:
    """In compare mode, with four boxes on either side."""
    page, _ = open_page()
    wait_for_all(page)
    page.route("**/detect*", answer)
    set_slider(page, "nms-threshold", 0.7)  # so that all is asked anew
    wait_for_count(page, 5, 5)
    set_slider(page, "min-score", 0.6)
    wait_for_count(page, 4, 5)
    page.get_by_role("radio", name="Compare").check()
    expect(page.locator("#compare-table tbody tr")).to_have_count(5)
    return page


def row(page: Page, change: str) -> Locator:
    return page.locator(f'#compare-table tr[data-change="{change}"]')


def test_differences_are_told_and_highlighted(open_page: OpenPage) -> None:
    page = opened(open_page)
    expect(page.locator("#compare-summary")).to_have_text(
        "The best 4 boxes by hindsight against the best 4 by class score: "
        "1 enters, 1 leaves, 1 gets another box, 2 change their rank."
    )
    cells = page.locator("#compare-table tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))"
    )
    assert [line[:4] for line in cells] == [
        ["enters", "green", "(5)", "3"],
        ["leaves", "blue", "4", "(5)"],
        ["other box", "green", "3", "4"],
        ["rises", "red", "2", "1"],
        ["falls", "red", "1", "2"],
    ]
    assert cells[2][5] == "0.30 → 0.70"
    assert sorted(xyxy[0] for xyxy in shown_boxes(page, "boxes").values()) == [5, 35, 67, 125]
    assert sorted(xyxy[0] for xyxy in shown_boxes(page, "rival-boxes").values()) == [5, 35, 65, 95]
    expect(page.locator('#boxes [data-change="enters"] .halo')).to_have_css("stroke", "rgb(24, 192, 106)")
    expect(page.locator('#rival-boxes [data-change="leaves"] .halo')).to_have_css(
        "stroke", "rgb(255, 138, 60)"
    )
    expect(page.locator('#boxes .label[data-change="rises"] text')).to_have_text("1 ▲1")


def test_rows_and_both_stages_are_linked(open_page: OpenPage) -> None:
    page = opened(open_page)
    row(page, "falls").hover()
    for stage in ("boxes", "rival-boxes"):
        expect(page.locator(f"#{stage} .detections g.active .edge")).to_have_attribute("x", "5")
    expect(page.locator("#detail .note")).to_have_text("falls from 1 to 2")
    page.locator("#rival-boxes .detections g", has=page.locator('.edge[x="95"]')).hover()
    expect(page.locator("#compare-table tr.active")).to_have_attribute("data-change", "leaves")
    expect(page.locator("#detail .note")).to_contain_text("leaves: number 4 by class score")
    expect(page.locator("#detail .note")).to_contain_text("it is number 5 there")
    row(page, "enters").locator("button").focus()
    expect(page.locator('#boxes g[aria-selected="true"] .edge')).to_have_attribute("x", "125")


def test_both_stages_show_the_same_part(open_page: OpenPage) -> None:
    page = opened(open_page)
    page.get_by_role("button", name="Zoom in").click()
    views = page.evaluate(
        """["boxes", "rival-boxes"]
            .map((id) => document.getElementById(id).getAttribute("viewBox").split(" ").map(Number))"""
    )
    assert views[0] == views[1]


def test_swap_shows_one_ranking_after_the_other_in_place(open_page: OpenPage) -> None:
    page = opened(open_page)
    page.get_by_role("radio", name="Swap").check()
    expect(page.locator("#rival-stage")).to_be_hidden()
    expect(page.locator("#caption")).to_have_text("Ranked by hindsight, w = 0.50")
    assert 125 in {xyxy[0] for xyxy in shown_boxes(page).values()}
    page.keyboard.press("s")
    expect(page.locator("#caption")).to_have_text("Ranked by class score")
    assert {xyxy[0] for xyxy in shown_boxes(page).values()} == {5, 35, 65, 95}
    page.get_by_role("button", name="Show hindsight").click()
    expect(page.locator("#caption")).to_have_text("Ranked by hindsight, w = 0.50")


def test_score_slider_and_classes_apply_to_both_sides(open_page: OpenPage) -> None:
    page = opened(open_page)
    set_slider(page, "min-score", 0.8)
    expect(page.locator("#compare-summary")).to_contain_text("The best 1 box by hindsight")
    set_slider(page, "min-score", 0)
    expect(page.locator("#compare-summary")).to_contain_text("The best 5 boxes by hindsight")
    page.get_by_role("checkbox", name="green").uncheck()
    expect(page.locator("#compare-summary")).to_contain_text("The best 3 boxes by hindsight")
    assert sorted(xyxy[0] for xyxy in shown_boxes(page, "rival-boxes").values()) == [5, 35, 95]
    expect(page.locator("#min-iou")).to_be_disabled()


def test_going_back_shows_the_detections_again(open_page: OpenPage) -> None:
    page = opened(open_page)
    page.get_by_role("radio", name="Detections").check()
    wait_for_count(page, 4, 5)
    expect(page.locator("#rival-stage")).to_be_hidden()
    expect(page.locator("#compare-bar")).to_be_hidden()
    expect(page.locator("#detail .note")).to_have_count(0)
    box(page, 1).hover()
    expect(page.locator("#table tr.active")).to_have_attribute("data-index", "1")


def test_the_ranking_by_class_score_is_asked_for_once_an_image(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    asked = len(watch.detections)
    page.get_by_role("radio", name="Compare").check()
    expect(page.locator("#compare-summary")).to_contain_text("the same boxes in the same order")
    assert len(watch.detections) == asked + 1
    assert "iou_weight=0" in watch.detections[-1]
    tile(page, "tiles.jpg").click()
    expect(page.locator("#compare-summary")).to_contain_text("The best 2 boxes")
    tile(page, "board.jpg").click()
    expect(page.locator("#compare-summary")).to_contain_text("The best 9 boxes")
    assert len(watch.detections) == asked + 2
    set_slider(page, "iou-weight", 0)
    expect(page.locator("#compare-summary")).to_contain_text("Both sides rank by class score")


def test_a_busy_server_is_waited_for_in_compare_mode_too(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    busy = {"title": "The queue is full", "status": 503, "detail": "Full."}
    headers = {"retry-after": "2", "content-type": "application/problem+json"}
    page.route(
        "**/detect*", lambda route: route.fulfill(status=503, headers=headers, body=json.dumps(busy)), times=1
    )
    page.get_by_role("radio", name="Compare").check()
    expect(page.get_by_role("alert")).to_contain_text("The queue is full")
    expect(page.locator("#compare-summary")).to_contain_text("The best 9 boxes")


def test_iou_of_two_boxes(page: Page) -> None:
    code = """async (boxes) => (await import(new URL("page/compare.js", document.baseURI))).iouOf(...boxes)"""
    assert page.evaluate(code, [[0, 0, 10, 10], [5, 0, 15, 10]]) == 1 / 3
    assert page.evaluate(code, [[0, 0, 10, 10], [10, 0, 15, 10]]) == 0
    assert page.evaluate(code, [[0, 0, 10, 10], [0, 0, 10, 10]]) == 1
