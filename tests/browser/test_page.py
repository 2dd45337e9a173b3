"""The page as a user has it: real server, real Chromium, the tiny model whose answers are known."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.browsing import (
    OpenPage,
    answer_for,
    box,
    drop,
    pick,
    sample,
    set_slider,
    shown_boxes,
    states,
    table_rows,
    tile,
    wait_for_all,
    wait_for_count,
)
from tests.factories import encode, tiles_image

ABSENT = "\N{EN DASH}"
NUMBERS = ("class_score", "iou", "purity", "integrity")
JUDGED_CUT = "cut: 20 % of the object is outside"  # the tiny model's integrity is always .8


def shown_numbers(page: Page) -> list[str]:
    return [page.locator(f'#detail [data-key="{key}"] b').inner_text() for key in NUMBERS]


def test_first_sample_is_detected_on_opening(page: Page, server: str) -> None:
    expected = answer_for(server, sample(server))
    assert len(expected) == 9
    expect(page.locator('#film .tile[aria-pressed="true"]')).to_have_attribute("data-file", "board.jpg")
    wait_for_all(page)
    assert states(page) == {"board.jpg": "done", "tiles.jpg": "done"}
    expect(tile(page, "tiles.jpg").locator(".badge")).to_have_text("2")
    drawn = shown_boxes(page)
    assert sorted(drawn) == list(range(9))
    for index, record in enumerate(expected):
        np.testing.assert_allclose(drawn[index], record["box"], atol=1e-3)
    rows = table_rows(page)
    assert [row[0] for row in rows] == [record["label"] for record in expected]
    for row, record in zip(rows, expected, strict=True):
        assert row[2:7] == [f"{record[key]:.2f}" for key in ("score", *NUMBERS)]
    assert page.locator("#timings").inner_text().count(" ms") >= 2
    expect(page.locator("#status")).to_contain_text("9 boxes in")
    labels = page.locator("#boxes .label:not(.off) text")
    expect(labels).to_have_count(9)
    assert sorted(labels.all_text_contents()) == sorted(
        f"{record['label']} {record['score']:.2f}" for record in expected
    )


def test_boxes_lie_on_the_photo_at_any_shape(page: Page) -> None:
    """A portrait photo is shown smaller than the stage is wide: its boxes must move with it."""
    tall = encode(np.ascontiguousarray(tiles_image().transpose(1, 0, 2)), "PNG")
    pick(page, "tall.png", tall)
    wait_for_count(page, 2, 2)
    stage = page.locator("#boxes").bounding_box()
    assert stage is not None
    photo = page.locator("#photo").evaluate("(image) => image.getBoundingClientRect().toJSON()")
    scale = min((stage["width"] - 8) / 96, (stage["height"] - 8) / 160)  # 4 px are left free around it
    left = stage["x"] + (stage["width"] - 96 * scale) / 2
    top = stage["y"] + (stage["height"] - 160 * scale) / 2
    # The red tile of tiles_image lies at [32, 0, 64, 32]; transposed at [0, 32, 32, 64].
    assert [photo["left"], photo["top"]] == pytest.approx([left, top], abs=1)
    tint = box(page, 0).locator(".tint")
    seen = tint.evaluate("(rectangle) => rectangle.getBoundingClientRect().toJSON()")
    drawn = [seen["left"], seen["top"], seen["right"], seen["bottom"]]
    np.testing.assert_allclose(drawn, [left, top + 32 * scale, left + 32 * scale, top + 64 * scale], atol=1)


def test_hovering_a_box_shows_its_four_numbers_and_their_meaning(page: Page, server: str) -> None:
    records = answer_for(server, sample(server))
    for index in (4, 8, 0):
        record = records[index]
        box(page, index).hover()
        expect(page.locator("#table tr.active")).to_have_attribute("data-index", str(index))
        assert shown_numbers(page) == [f"{record[key]:.2f}" for key in NUMBERS]
        expect(page.locator(".label.active text")).to_have_text(f"{record['label']} {record['score']:.2f}")
        share = page.evaluate(
            """(() => { const fill = document.querySelector('#detail [data-key="purity"] .fill');
                return fill.offsetWidth / fill.parentElement.offsetWidth; })()"""
        )
        assert share == pytest.approx(record["purity"], abs=0.02)
    expect(page.locator(".meaning")).to_have_text(JUDGED_CUT)
    page.locator("#boxes").hover(position={"x": 5, "y": 300})
    loosest = min(records, key=lambda record: record["purity"])
    box(page, records.index(loosest)).hover()
    background = round(100 * (1 - loosest["purity"]))
    expect(page.locator(".meaning")).to_have_text(
        f"loose and cut: {background} % of this box is background, 20 % of the object is outside"
    )


def test_pointing_at_a_row_marks_its_box(page: Page) -> None:
    page.locator('#table tr[data-index="5"]').hover()
    expect(page.locator("#boxes .detections g.active")).to_have_attribute("data-index", "5")
    page.locator('#table tr[data-index="2"]').click()
    page.locator("h1").hover()
    expect(page.locator("#boxes .detections g.active")).to_have_attribute("data-index", "2")
    expect(page.locator('#boxes g[aria-selected="true"]')).to_have_attribute("data-index", "2")


def test_a_picked_dropped_or_pasted_photo_is_detected(page: Page) -> None:
    board = tile(page, "board.jpg")
    for way, format_name in (("pick", "PNG"), ("drop", "WEBP"), ("paste", "JPEG")):
        board.click()
        wait_for_count(page, 9, 9)
        name, kind = f"photo.{format_name.lower()}", f"image/{format_name.lower()}"
        content = encode(tiles_image(), format_name)
        if way == "pick":
            pick(page, name, content, kind)
        else:
            drop(page, way, (name, content, kind))
        wait_for_count(page, 2, 2)
        expect(page.locator("#photo")).to_have_attribute("aria-label", f"Photo {name}")
        expect(board).to_have_attribute("aria-pressed", "false")
        assert [row[0] for row in table_rows(page)] == ["red", "green"]


def test_dragging_a_file_in_announces_the_drop(page: Page) -> None:
    drop(page, "dragover", ("photo.png", b"", "image/png"))
    expect(page.locator("#drop")).to_be_visible()
    drop(page, "drop", ("photo.png", encode(tiles_image()), "image/png"))
    expect(page.locator("#drop")).to_be_hidden()


def test_filters_are_live_and_ask_nothing_of_the_server(open_page: OpenPage, server: str) -> None:
    page, watch = open_page()
    wait_for_all(page)
    records = answer_for(server, sample(server))
    asked = len(watch.detections)
    for name, key in (("min-score", "score"), ("min-iou", "iou"), ("min-purity", "purity")):
        limit = round(sorted(record[key] for record in records)[4], 2) + 0.01
        expected = [index for index, record in enumerate(records) if record[key] >= limit]
        assert 0 < len(expected) < len(records)
        set_slider(page, name, limit)
        wait_for_count(page, len(expected), 9)
        assert sorted(shown_boxes(page)) == expected
        assert len(table_rows(page)) == len(expected)
        expect(tile(page, "board.jpg").locator(".badge")).to_have_text(str(len(expected)))
        page.locator("#reset").click()
        wait_for_count(page, 9, 9)
    set_slider(page, "min-integrity", 0.81)  # the tiny model's is .8
    wait_for_count(page, 0, 9)
    set_slider(page, "min-integrity", 0.79)
    wait_for_count(page, 9, 9)
    page.get_by_role("checkbox", name="green").uncheck()
    wait_for_count(page, 6, 9)
    assert {row[0] for row in table_rows(page)} == {"red", "blue"}
    assert len(shown_boxes(page)) == 6
    page.locator("#reset").click()
    expect(page.get_by_role("checkbox", name="green")).to_be_checked()
    wait_for_count(page, 9, 9)
    set_slider(page, "min-score", 1)
    expect(page.locator("#table .empty")).to_contain_text("None of the 9 boxes passes the filters")
    page.get_by_role("button", name="Show all boxes").click()
    wait_for_count(page, 9, 9)
    page.wait_for_timeout(600)  # longer than the page waits before it asks
    assert len(watch.detections) == asked


def test_boxes_below_the_servers_threshold_are_there_for_the_slider(open_page: OpenPage) -> None:
    page, watch = open_page()
    dim = tiles_image()
    dim[32:64, 0:32, 2] = 50  # class score .2, score .19: below the model's own threshold of .3
    pick(page, "dim.png", encode(dim))
    wait_for_count(page, 2, 3)
    assert page.locator("#min-score").input_value() == "0.3"
    asked = len(watch.detections)
    set_slider(page, "min-score", 0.1)
    wait_for_count(page, 3, 3)
    assert [row[0] for row in table_rows(page)] == ["red", "green", "blue"]
    assert len(watch.detections) == asked


def test_iou_weight_asks_the_server_again(page: Page) -> None:
    def fused_and_class_scores() -> list[tuple[str, str]]:
        return [(row[2], row[3]) for row in table_rows(page)]

    wait_for_all(page)
    assert any(fused != class_score for fused, class_score in fused_and_class_scores())
    with page.expect_response("**/detect*") as asked:
        set_slider(page, "iou-weight", 0)
    assert "iou_weight=0" in asked.value.url
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
    # With w = 0 the score is the class score alone.
    assert len(table_rows(page)) == 9
    assert all(fused == class_score for fused, class_score in fused_and_class_scores())


def test_columns_sort_both_ways(page: Page, server: str) -> None:
    records = answer_for(server, sample(server))
    heading = page.locator('th[data-key="purity"]')
    for direction, descending in (("descending", True), ("ascending", False)):
        heading.get_by_role("button").click()
        expect(heading).to_have_attribute("aria-sort", direction)
        expected = sorted((f"{record['purity']:.2f}" for record in records), reverse=descending)
        assert [row[5] for row in table_rows(page)] == expected
    page.locator('th[data-key="label"] button').click()
    assert [row[0] for row in table_rows(page)] == sorted(record["label"] for record in records)
    assert page.locator("th[aria-sort]").count() == 1


def test_text_named_jpg_shows_the_servers_problem(open_page: OpenPage, server: str) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    content = b"this is no image\n" * 20
    response = httpx.post(f"{server}detect", content=content, headers={"content-type": "image/jpeg"})
    problem = response.json()
    pick(page, "notes.jpg", content, "image/jpeg")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(problem["title"])
    expect(alert).to_contain_text(problem["detail"])
    expect(alert).to_contain_text(f"HTTP {response.status_code}")
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    assert shown_boxes(page) == {}
    assert table_rows(page) == []
    expect(page.locator("#placeholder")).to_have_text("notes.jpg: no preview")
    tile(page, "tiles.jpg").click()
    wait_for_count(page, 2, 2)
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#placeholder")).to_be_hidden()


def test_a_model_without_localization_says_so(page: Page) -> None:
    page.locator("#model").select_option("plain")
    expect(page.locator(".meaning")).to_have_text(
        "This model gives a class score only; it does not judge its boxes."
    )
    assert page.locator("#detail .bar").count() == 1
    assert float(page.locator('#detail [data-key="class_score"] b').inner_text()) > 0
    expect(page.locator("#detail .strip")).to_have_count(0)
    assert table_rows(page)[0][4:7] == [ABSENT] * 3
    for control in ("min-iou", "min-purity", "min-integrity", "iou-weight"):
        expect(page.locator(f"#{control}")).to_be_disabled()
    expect(page.get_by_role("radio", name="Compare")).to_be_disabled()


MEANINGS = [
    (0.69, 0.97, "loose: 31 % of this box is background"),
    (0.97, 0.84, "cut: 16 % of the object is outside"),
    (0.5, 0.6, "loose and cut: 50 % of this box is background, 40 % of the object is outside"),
    (0.98, 0.93, "fits: 2 % of this box is background, 7 % of the object is outside"),
    (None, None, "This model predicts overlap only: IoU 70 %, without saying what is wrong."),
]


def from_fit_module(page: Page, function: str, numbers: dict[str, float | None]) -> object:
    """Call a function of fit.js in the page, as the page's own modules do."""
    code = """async ([name, numbers]) =>
        (await import(new URL("page/fit.js", document.baseURI)))[name](numbers)"""
    return page.evaluate(code, [function, numbers])


def test_meaning_in_plain_words(page: Page) -> None:
    for purity, integrity, sentence in MEANINGS:
        numbers = {"iou": 0.7, "purity": purity, "integrity": integrity}
        assert from_fit_module(page, "meaningOf", numbers) == sentence


def test_strip_shares_follow_dir_equation_5(page: Page) -> None:
    for purity, integrity in [(0.9, 0.6), (0.3, 1.0), (1.0, 1.0), (0.0, 0.5)]:
        found = from_fit_module(page, "shares", {"purity": purity, "integrity": integrity})
        inverse = 1 / max(purity, 1e-3)
        iou = 1 / (inverse + 1 / integrity - 1)
        expected = {"background": iou * (inverse - 1), "shared": iou, "outside": iou * (1 / integrity - 1)}
        assert found == pytest.approx(expected)
        assert sum(expected.values()) == pytest.approx(1)
