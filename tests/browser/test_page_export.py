"""Exports by click path: the files are what the server would have written for what is on screen."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.browsing import OpenPage, answer_for, pick, sample, wait_for_all
from tests.browser.workbench import choose, drag, own_boxes, own_mode, wait_for_opinions
from tests.factories import COLOURS, encode, tiles_image


def saved(page: Page, button: str) -> tuple[str, bytes]:
    """Name and content of what a button of the export section saves."""
    with page.expect_download() as download:
        page.locator("#export").get_by_role("button", name=button, exact=True).click()
    path = download.value.path()
    name = download.value.suggested_filename
    expect(page.locator("#export-said")).to_have_text(f"Saved {name}")
    return name, Path(path).read_bytes()


def all_images(page: Page) -> None:
    page.locator('input[name="export-scope"][value="all"]').check()


def limit_scores(page: Page, least: float) -> None:
    slider = page.locator("#min-score")
    slider.fill(str(least))
    slider.dispatch_event("input")


def served(server: str, image: bytes, **query: object) -> Any:
    """What POST /detect answers to the query that the page's least score stands for."""
    headers = {"content-type": "image/jpeg"}
    response = httpx.post(f"{server}detect", params={"model": "tiny"} | query, content=image, headers=headers)
    return response.raise_for_status()


@pytest.fixture
def board(page: Page, server: str) -> tuple[Page, float, bytes]:
    """The page with five of the nine boxes of board.jpg on screen; the least score; the image."""
    image = sample(server)
    scores = sorted(record["score"] for record in answer_for(server, image))
    least = round((scores[3] + scores[4]) / 2, 2)
    limit_scores(page, least)
    expect(page.locator("#export-facts")).to_have_text("5 boxes on 1 image")
    return page, least, image


def test_coco_of_what_is_on_screen(board: tuple[Page, float, bytes], server: str) -> None:
    page, least, image = board
    name, content = saved(page, "COCO JSON")
    assert name == "board.coco.json"
    document = json.loads(content)
    assert document["images"][0].pop("file_name") == "board.jpg"
    assert document == served(server, image, score_threshold=least, format="coco").json()
    assert len(document["annotations"]) == 5


def test_coco_of_all_images_respects_the_filters_too(board: tuple[Page, float, bytes], server: str) -> None:
    page, least, _ = board
    page.get_by_role("checkbox", name="green").uncheck()
    wait_for_all(page)
    all_images(page)
    expect(page.locator("#export-facts")).to_contain_text("on 2 images")
    name, content = saved(page, "COCO JSON")
    assert name == "hindsight.coco.json"
    document = json.loads(content)
    assert [entry["file_name"] for entry in document["images"]] == ["board.jpg", "tiles.jpg"]
    for image_id, entry in enumerate(document["images"]):
        query = {"score_threshold": least, "classes": "red,blue", "format": "coco"}
        expected = served(server, sample(server, entry["file_name"]), **query).json()["annotations"]
        ours = [row for row in document["annotations"] if row["image_id"] == image_id]
        drop = {"id", "image_id"}
        assert [{k: v for k, v in row.items() if k not in drop} for row in ours] == [
            {k: v for k, v in row.items() if k not in drop} for row in expected
        ]


def test_yolo_is_a_zip_with_classes(board: tuple[Page, float, bytes], server: str) -> None:
    page, least, image = board
    name, content = saved(page, "YOLO")
    assert name == "board.yolo.zip"
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.testzip() is None
    assert archive.namelist() == ["board.txt", "classes.txt"]
    assert (
        archive.read("board.txt").decode() == served(server, image, score_threshold=least, format="yolo").text
    )
    assert archive.read("classes.txt") == b"red\ngreen\nblue\n"


def test_label_studio_tasks(board: tuple[Page, float, bytes], server: str) -> None:
    page, least, image = board
    page.get_by_text("Where Label Studio finds the images").click()
    page.get_by_label("Before each file's name").fill("/data/upload/3/")
    [task] = json.loads(saved(page, "Label Studio")[1])
    assert task["data"] == {"image": "/data/upload/3/board.jpg"}
    expected = served(server, image, score_threshold=least, format="labelstudio").json()
    assert task["predictions"][0].pop("score") == pytest.approx(expected.pop("score"), abs=1e-6)
    assert task["predictions"] == [expected]


def colour_at(picture: Image.Image, x: float, y: float) -> tuple[int, ...]:
    return picture.convert("RGB").getpixel((x, y))  # type: ignore[return-value]


def test_the_annotated_picture_has_the_images_size_and_its_boxes(page: Page) -> None:
    image = np.full((1200, 2000, 3), 20, np.uint8)
    image[400:800, 400:800, 0] = 255  # one red tile
    pick(page, "large.png", encode(image))
    expect(page.locator("#export-facts")).to_have_text("1 box on 1 image")
    name, content = saved(page, "Annotated PNG")
    assert name == "large.annotated.png"
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == ("PNG", (2000, 1200))
    assert colour_at(picture, 600, 600) == (255, 20, 20)
    assert colour_at(picture, 1500, 1000) == (20, 20, 20)
    red = tuple(bytes.fromhex(COLOURS[0][1:]))
    edge = [colour_at(picture, 402, y) for y in range(450, 750)]
    assert red in edge
    assert edge.count(red) < len(edge)  # a cut box has a dashed edge
    label = [colour_at(picture, x, y) for y in range(340, 400) for x in range(400, 700)]
    assert label.count(red) > 3000  # the text's ground above the box


def test_pictures_of_all_images_come_in_one_archive(page: Page) -> None:
    wait_for_all(page)
    all_images(page)
    expect(page.locator("#export-facts")).to_contain_text("on 2 images")
    with page.expect_download() as download:
        page.get_by_role("button", name="Annotated PNG").click()
    archive = zipfile.ZipFile(download.value.path())
    assert archive.namelist() == ["board.png", "tiles.png"]
    for member in archive.namelist():
        assert Image.open(io.BytesIO(archive.read(member))).size == (160, 96)


def test_a_failed_image_carries_its_problem(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    pick(page, "notes.jpg", b"no image at all", "image/jpeg")
    expect(page.get_by_role("alert").first).to_be_visible()
    expect(page.locator("#export-facts")).to_have_text("0 boxes on 0 images; 1 failed")
    expect(page.get_by_role("button", name="COCO JSON")).to_be_disabled()
    all_images(page)
    document = json.loads(saved(page, "COCO JSON")[1])
    failed = next(entry for entry in document["images"] if entry["file_name"] == "notes.jpg")
    assert failed["problem"]["status"] in (415, 422)
    assert "width" not in failed


def test_own_boxes_are_exported_as_labels(page: Page) -> None:
    choose(page, "tiles.jpg")
    own_mode(page)
    drag(page, (34, 2), (62, 30))
    page.locator("#own-label").select_option("")
    drag(page, (98, 66), (126, 94))
    page.locator("#own-label").select_option("green")
    page.get_by_role("button", name="Add a box").click()
    page.locator("#own-label").select_option("")
    wait_for_opinions(page, 3)
    expect(page.locator("#export-facts")).to_have_text("1 own box on 1 image; 2 without a class left out")
    document = json.loads(saved(page, "COCO JSON")[1])
    [row] = document["annotations"]
    x1, y1, x2, y2 = own_boxes(page)[1]
    np.testing.assert_allclose(row["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=0.011)
    assert (row["category_id"], "score" in row) == (2, False)
    assert row["class_score"] > 0.9
    assert row["iou"] == pytest.approx(0.76, abs=0.02)  # purity .94, integrity .8
    archive = zipfile.ZipFile(io.BytesIO(saved(page, "YOLO")[1]))
    [line] = archive.read("tiles.txt").decode().splitlines()
    assert len(line.split()) == 5 and line.startswith("1 ")
    [task] = json.loads(saved(page, "Label Studio")[1])
    assert len(task["annotations"][0]["result"]) == 1


def test_what_was_exported_can_be_read_again(page: Page) -> None:
    """COCO and YOLO there and back."""
    choose(page, "tiles.jpg")
    coco = saved(page, "COCO JSON")[1]
    archive = zipfile.ZipFile(io.BytesIO(saved(page, "YOLO")[1]))
    own_mode(page)
    file = page.locator("#own-file")
    file.set_input_files({"name": "a.json", "mimeType": "application/json", "buffer": coco})
    wait_for_opinions(page, 2)
    once = own_boxes(page)
    members = [
        {"name": name, "mimeType": "text/plain", "buffer": archive.read(name)} for name in archive.namelist()
    ]
    file.set_input_files(members)
    expect(page.locator("#own-said")).to_contain_text("2 were there already")
    assert own_boxes(page) == once
    assert page.evaluate("document.querySelectorAll('#own-layer [data-own]').length") == 2


def test_a_picture_that_the_browser_cannot_show_is_said(open_page: OpenPage) -> None:
    page, watch = open_page()
    watch.allow_failed_requests()
    stream = io.BytesIO()
    Image.fromarray(tiles_image()).save(stream, "TIFF")  # the server reads it, Chromium does not
    pick(page, "scan.tif", stream.getvalue(), "image/tiff")
    expect(page.locator("#export-facts")).to_have_text("2 boxes on 1 image")
    page.get_by_role("button", name="Annotated PNG").click()
    expect(page.locator("#export-said")).to_have_text("Nothing saved: this browser cannot decode the image")
