"""Pictures that carry an EXIF orientation: boxes, exports and thumbnails are where the objects are seen."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.browsing import (
    answer_for,
    pick_all,
    pixel_at,
    shown_boxes,
    table_rows,
    tile,
    wait_for_all,
    wait_for_count,
)
from tests.browser.workbench import PIXEL, drag, own_boxes, own_mode, read_file, rows, wait_for_opinions
from tests.factories import tiles_image

# What turns an upright picture into the stored one that the orientation turns back.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
RED, GREEN = (48, 16), (112, 80)  # the middles of the two tiles, upright


def turned(orientation: int, format_name: str = "JPEG") -> bytes:
    """tiles_image(), stored so that EXIF's `orientation` makes it upright."""
    image, turn = Image.fromarray(tiles_image()), STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    quality = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}}[format_name]
    (image if turn is None else image.transpose(turn)).save(stream, format_name, exif=exif, **quality)
    return stream.getvalue()


def colour(rgb: tuple[int, ...]) -> str:
    red, green, blue = (int(value) for value in rgb)
    if red > 120 and red > 2 * max(green, blue):
        return "red"
    return "green" if green > 120 and green > 2 * max(red, blue) else f"neither: {rgb}"


def assert_upright(page: Page, stage: str = "boxes") -> None:
    """The picture and its boxes are both where the upright image has them."""
    seen = {name: colour(pixel_at(page, *middle, stage)) for name, middle in (("red", RED), ("green", GREEN))}
    assert seen == {"red": "red", "green": "green"}


def open_turned(page: Page, kind: str, orientations: range) -> None:
    names = [(f"{kind}-{number}", turned(number, kind), f"image/{kind.lower()}") for number in orientations]
    pick_all(page, names)
    wait_for_all(page)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_boxes_lie_on_the_objects_however_the_picture_is_stored(page: Page, server: str, kind: str) -> None:
    open_turned(page, kind, range(1, 9))
    for number in range(1, 9):
        name = f"{kind}-{number}"
        tile(page, name).click()
        expect(page.locator("#photo")).to_have_attribute("aria-label", f"Photo {name}")
        wait_for_count(page, 2, 2)
        expected = [record["box"] for record in answer_for(server, turned(number, kind))]
        assert [row[0] for row in table_rows(page)] == ["red", "green"]
        drawn = shown_boxes(page)
        np.testing.assert_allclose([drawn[0], drawn[1]], expected, atol=1e-3)
        np.testing.assert_allclose(expected[0], [32, 0, 64, 32], atol=1e-3)
        page.wait_for_function("() => document.getElementById('placeholder').hidden")
        assert_upright(page)
        expect(page.locator("#timings")).to_contain_text("160 \N{MULTIPLICATION SIGN} 96")
        size = (
            tile(page, name).locator("img").evaluate("(image) => [image.naturalWidth, image.naturalHeight]")
        )
        assert size == [160, 96], "the thumbnail is turned as the picture is"


@pytest.mark.parametrize(("kind", "number"), [("JPEG", 6), ("JPEG", 3), ("PNG", 8), ("WEBP", 5)])
def test_own_boxes_compare_and_exports_of_a_turned_picture(
    page: Page, server: str, kind: str, number: int
) -> None:
    name = f"{kind}-{number}"
    open_turned(page, kind, range(number, number + 1))
    wait_for_count(page, 2, 2)

    page.get_by_role("radio", name="Compare").check()
    expect(page.locator("#compare-table tbody tr")).to_have_count(2)
    for stage in ("boxes", "rival-boxes"):
        assert_upright(page, stage)

    own_mode(page)
    drag(page, (34, 2), (62, 30))
    wait_for_opinions(page, 1)
    np.testing.assert_allclose(own_boxes(page), [[34, 2, 62, 30]], atol=PIXEL)
    assert "different class" not in rows(page)[0]
    read_file(page, "boxes.json", json.dumps([{"box": [96, 64, 128, 96], "label": "green"}]))
    wait_for_opinions(page, 2)
    assert not [row for row in rows(page) if "class" in row or "no object" in row]

    page.get_by_role("radio", name="Detections").check()
    with page.expect_download() as download:
        page.locator("#export").get_by_role("button", name="COCO JSON").click()
    document = json.loads(Path(download.value.path()).read_bytes())
    assert [(entry["width"], entry["height"]) for entry in document["images"]] == [(160, 96)]
    assert document["annotations"][0]["bbox"] == pytest.approx([32, 0, 32, 32], abs=1e-3)
    with page.expect_download() as download:
        page.locator("#export").get_by_role("button", name="Annotated PNG").click()
    with Image.open(download.value.path()) as picture:
        assert picture.size == (160, 96)
        assert colour(picture.convert("RGB").getpixel(RED)) == "red"
        assert colour(picture.convert("RGB").getpixel((112, 90))) == "green"
    assert tile(page, name).count() == 1


def test_yolo_shares_are_of_the_upright_picture(page: Page) -> None:
    open_turned(page, "JPEG", range(6, 7))
    wait_for_count(page, 2, 2)
    with page.expect_download() as download:
        page.locator("#export").get_by_role("button", name="YOLO").click()
    archive = zipfile.ZipFile(Path(download.value.path()))
    [first, *_] = archive.read(archive.namelist()[0]).decode().splitlines()
    assert [float(value) for value in first.split()[1:5]] == pytest.approx(
        [48 / 160, 16 / 96, 0.2, 1 / 3], abs=1e-3
    )
