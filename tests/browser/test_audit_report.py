"""The report of `hindsight audit` in a real Chromium, opened as a file: no server, no network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.audit_sets import ANNOTATIONS, SUSPICIOUS, call_audit, write_tiles_voc
from tests.browser.browsing import Watch
from tests.factories import make_tiny_artifact

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audit")
    write_tiles_voc(root / "tiles")
    model = make_tiny_artifact(root / "tiny", integrity=1.0)
    assert call_audit(str(root / "tiles"), "--model", str(model.path), "--out", str(root / "out")) == 0
    return root / "out" / "report.html"


@pytest.fixture
def open_report(browser: Browser, report: Path) -> Iterator[Open]:
    """Opens the report and, after the test, checks what it asked for and complained of."""
    context: BrowserContext = browser.new_context(viewport={"width": 1280, "height": 900})
    watches: list[tuple[Page, Watch]] = []

    def open_one(**options: Any) -> Page:
        page = context.new_page()
        page.set_default_timeout(60_000)
        watch = Watch("file://")
        watch.attach(page)
        watches.append((page, watch))
        page.goto(report.as_uri())
        page.locator(".card").first.wait_for()
        return page

    yield open_one
    for page, watch in watches:
        if not page.is_closed():
            watch.check(page)
    context.close()


def shown(page: Page) -> list[str]:
    return page.locator(".card .verdict").all_text_contents()


def show_all(page: Page) -> None:
    page.locator("#verdicts button[data-verdict='']").click()


def test_the_worst_come_first_with_their_pictures(open_report: Open) -> None:
    page = open_report()
    expect(page.locator("h1")).to_have_text("Label audit: tiles")
    verdicts = shown(page)
    assert set(verdicts[:-1]) == {"loose", "wrong class", "no object", "duplicate"}
    assert len(verdicts) == SUSPICIOUS + 1 and verdicts[-1] == "missing"
    chip = page.locator("#verdicts button[aria-pressed='true']")
    expect(chip).to_have_text(f"suspicious or missing{SUSPICIOUS + 1}")
    expect(page.locator("#tiles")).to_contain_text(
        re.compile(rf"{SUSPICIOUS}suspicious \(.*1perhaps missing")
    )
    show_all(page)
    assert shown(page) == [*verdicts[:-1], *["fine"] * (ANNOTATIONS - SUSPICIOUS), "missing"]
    for image in page.locator(".card img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("complete", True)
    assert all(
        page.evaluate("[...document.querySelectorAll('.card img')].map((image) => image.naturalWidth > 0)")
    )


def test_boxes_lie_on_the_picture_where_they_were_annotated(open_report: Open) -> None:
    page = open_report()
    card = page.locator(".card", has_text="loose").first
    given = card.locator("rect.given")
    values = [float(given.get_attribute(name) or "nan") for name in ("x", "y", "width", "height")]
    assert values == [16, 0, 64, 48]
    own = [float(card.locator("rect.own").get_attribute(name) or "nan") for name in ("x", "width")]
    assert own == pytest.approx([32, 32], abs=0.5)
    expect(card.locator(".reason")).to_have_text("Too large: about 67 % of this box is background.")
    expect(card.locator(".where")).to_have_text("Annotations/loose.xml:2, object 1 (red)")


def test_filters_by_verdict_class_image_and_histogram(open_report: Open) -> None:
    page = open_report()
    page.get_by_role("button", name="wrong class", exact=False).first.click()
    assert shown(page) == ["wrong class"]
    page.locator("#reset").click()
    page.locator("#class").select_option("red")
    assert sorted(shown(page)) == ["duplicate", "loose"]
    show_all(page)
    assert len(shown(page)) == 6
    page.locator("#image").fill("LOOSE")
    assert shown(page) == ["loose"]
    page.locator("#image").fill("nowhere")
    expect(page.locator("#list")).to_have_text("No finding passes these filters.")
    page.locator("#reset").click()
    page.get_by_role("button", name="predicted IoU 0.30 to 0.35").click()
    assert shown(page) == ["loose"]
    page.get_by_role("button", name="predicted IoU 0.30 to 0.35").click()
    assert len(shown(page)) == ANNOTATIONS + 1
    page.get_by_role("button", name="blue: 1 no object").click()
    assert shown(page) == ["no object"]


def test_the_order_can_be_chosen(open_report: Open) -> None:
    page = open_report()
    show_all(page)
    page.locator("#order").select_option("iou")
    assert shown(page)[:2] == ["no object", "loose"]
    page.locator("#order").select_option("image")
    names = page.locator(".card img").evaluate_all("(all) => all.map((image) => image.alt)")
    assert names == sorted(names, key=lambda name: name.split(" in ")[1])


def test_the_keyboard_marks_and_moves_on(open_report: Open) -> None:
    page = open_report()
    page.keyboard.press("j")
    cards = page.locator(".card")
    expect(cards.nth(0)).to_be_focused()
    page.keyboard.press("w")
    expect(cards.nth(0)).to_have_attribute("data-mark", "wrong")
    expect(cards.nth(1)).to_be_focused()
    page.keyboard.press("f")
    expect(cards.nth(1)).to_have_attribute("data-mark", "fine")
    page.keyboard.press("k")
    page.keyboard.press("u")
    assert cards.nth(1).get_attribute("data-mark") is None
    expect(page.locator("#count")).to_contain_text("1 marked wrong, 0 fine")
    expect(page.locator(".picture svg").first).to_be_visible()
    page.keyboard.press("b")
    expect(page.locator(".picture svg").first).to_be_hidden()
    page.locator("#image").focus()
    page.keyboard.type("wf")
    expect(page.locator("#image")).to_have_value("wf")


def test_marks_outlive_the_page(open_report: Open) -> None:
    page = open_report()
    page.locator(".card").nth(0).get_by_role("button", name="Wrong").click()
    page.locator(".card").nth(2).get_by_role("button", name="Fine").click()
    page.reload()
    expect(page.locator(".card").nth(0)).to_have_attribute("data-mark", "wrong")
    expect(page.locator(".card").nth(2)).to_have_attribute("data-mark", "fine")
    other = open_report()
    expect(other.locator("#count")).to_contain_text("1 marked wrong, 1 fine")
    other.locator("#marked").select_option("none")
    assert len(shown(other)) == SUSPICIOUS - 1


def exported(page: Page, button: str) -> dict[str, Any]:
    with page.expect_download() as download:
        page.locator(button).click()
    return json.loads(Path(download.value.path()).read_text())


def test_marks_are_exported_as_a_list_and_as_coco(open_report: Open, report: Path) -> None:
    page = open_report()
    expect(page.locator("#export-json")).to_be_disabled()
    for verdict in ("loose", "missing", "duplicate"):
        page.locator(".card", has=page.locator(f".verdict:text-is('{verdict}')")).get_by_role(
            "button", name="Wrong"
        ).click()
    show_all(page)
    page.locator(".card", has=page.locator(".verdict:text-is('fine')")).first.get_by_role(
        "button", name="Fine"
    ).click()
    listed = exported(page, "#export-json")
    assert listed["model"] == "tiny 1" and listed["data"] == "tiles"
    by_verdict = {entry["verdict"]: entry for entry in listed["marks"]}
    assert {verdict: entry["mark"] for verdict, entry in by_verdict.items()} == {
        "loose": "wrong", "missing": "wrong", "duplicate": "wrong", "fine": "fine",
    }  # fmt: skip
    assert by_verdict["loose"]["bbox"] == [16, 0, 64, 48]
    assert by_verdict["missing"]["annotation_id"] is None
    coco = exported(page, "#export-coco")
    original = {
        entry["id"]: entry for entry in json.loads((report.parent / "audit.json").read_text())["annotations"]
    }
    for entry in coco["annotations"]:
        if entry["mark"] == "missing":
            assert entry["id"] not in original
        else:
            assert entry["bbox"] == original[entry["id"]]["bbox"]
            assert entry["category_id"] == original[entry["id"]]["category_id"]
    assert sorted(entry["mark"] for entry in coco["annotations"]) == ["fine", "missing", "wrong", "wrong"]
    assert {entry["image_id"] for entry in coco["annotations"]} == {entry["id"] for entry in coco["images"]}


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_the_page_fits_its_window(open_report: Open, width: int) -> None:
    page = open_report()
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
