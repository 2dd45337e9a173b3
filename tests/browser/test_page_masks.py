"""Masks on the page: COCO's run-length codes drawn under the boxes, and in exported pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from hindsight.masks import encode_bitmap
from tests.browser.browsing import OpenPage, box, pick, running_server, set_slider, shown_boxes, wait_for_all
from tests.browser.modules import Modules, open_modules
from tests.factories import encode, make_tiny_artifact, tiles_image

# The alpha of every pixel of an outline that is filled on a canvas: 255 where the mask is.
FILLED = """value.map((code) => {
    const [height, width] = code.size;
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.fill(new Path2D(module.outlineOf(code)), "evenodd");
    return [...context.getImageData(0, 0, width, height).data].filter((_, at) => at % 4 === 3);
})"""


@pytest.fixture(scope="module")
def masked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serves `masked`, whose masks are the left halves of its boxes, and `bare`, which makes none."""
    root = tmp_path_factory.mktemp("masks")
    paths = [
        make_tiny_artifact(root / name, name=name, masks=masks).path
        for name, masks in (("masked", True), ("bare", False))
    ]
    with running_server(root / "server.log", HINDSIGHT_MODEL=",".join(map(str, paths))) as address:
        yield address


@pytest.fixture
def masked(open_page: OpenPage, masked_server: str) -> Page:
    page, _ = open_page(masked_server)
    wait_for_all(page)
    expect(page.locator("#boxes .mask").first).to_be_attached()
    return page


@pytest.fixture(scope="module")
def modules(browser: Browser, masked_server: str) -> Iterator[Modules]:
    with open_modules(browser, masked_server) as opened:
        yield opened


def uncompressed(bitmap: NDArray[np.bool_]) -> dict[str, Any]:
    flat = bitmap.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": list(bitmap.shape), "counts": [0, *counts] if flat[0] else counts}


def bitmaps() -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    empty = np.zeros((9, 7), np.bool_)
    ring, corners = empty.copy(), empty.copy()
    ring[1:8, 1:6], ring[3:6, 3:5] = True, False
    corners[2:4, 2:4] = corners[4:6, 4:6] = corners[4:6, 0:2] = True  # they touch at their corners
    rows, columns = np.ogrid[:60, :80]
    disc = (rows - 30.0) ** 2 + (columns - 70.0) ** 2 < 25**2  # cut by the image's edge
    noise = [rng.random(shape) < share for shape, share in (((13, 11), 0.5), ((40, 3), 0.8), ((1, 20), 0.3))]
    return [empty, ~empty, ring, corners, disc, *noise]


@pytest.mark.parametrize("compressed", [True, False])
def test_an_outline_encloses_just_the_masks_pixels(modules: Modules, compressed: bool) -> None:
    masks = bitmaps()
    codes = [
        encode_bitmap(mask, 0, 0, (mask.shape[0], mask.shape[1])) if compressed else uncompressed(mask)
        for mask in masks
    ]
    for mask, filled in zip(masks, modules.call("masks", FILLED, codes), strict=True):
        np.testing.assert_array_equal(np.array(filled).reshape(mask.shape), 255 * mask)


def test_runs_of_no_pixels_change_nothing(modules: Modules) -> None:
    plain = {"size": [4, 2], "counts": [1, 6, 1]}
    split = {"size": [4, 2], "counts": [1, 2, 0, 1, 0, 3, 1]}
    outlines = modules.call("masks", "value.map((code) => module.outlineOf(code))", [plain, split])
    assert outlines[0] == outlines[1] != ""


@pytest.mark.parametrize(
    "code",
    [
        {"size": [4, 4], "counts": "0"},
        {"size": [4, 4], "counts": "P"},
        {"size": [4, 4], "counts": "\x01"},
        {"size": [4, 4], "counts": [5, 5]},
        {"size": [4, 4], "counts": [-1, 17]},
        {"size": [4, 4], "counts": [15.5, 0.5]},
        {"size": [4, 4]},
        {"counts": [16]},
        [[0, 0, 4, 0, 4, 4]],
    ],
)
def test_what_is_no_code_is_refused(modules: Modules, code: object) -> None:
    refused = "(() => { try { return module.outlineOf(value); } catch (error) { return error.message; } })()"
    assert modules.call("masks", refused, code).startswith("no run-length code: ")


def test_masks_are_drawn_a_few_at_a_time_and_for_the_last_answer_only(modules: Modules) -> None:
    """With a clock on which every mask takes too long: one for each turn of the event loop."""
    seen = """(async () => {
        const target = document.createElementNS("http://www.w3.org/2000/svg", "g");
        const layer = new module.MaskLayer(target);
        const turn = () => new Promise((resolve) => { setTimeout(resolve); });
        const items = (from) => [0, 1, 2].map((at) => ({
            key: from + at, colour: "#123456",
            detection: { score: 1 - at / 4, segmentation: { size: [2, 2], counts: [1, 2, 1] } },
        }));
        const { now } = performance;
        let time = 0;
        performance.now = () => (time += 1000);
        try {
            const counts = [];
            const keys = () => [...target.children].map((node) => Number(node.dataset.mask));
            const first = layer.load(items(0));
            counts.push(keys());
            await turn();
            counts.push(keys());
            const second = layer.load(items(10));
            await Promise.all([first, second]);
            counts.push(keys());
            return counts;
        } finally { performance.now = now; }
    })()"""
    assert modules.call("masks", seen) == [[], [2], [12, 11, 10]]  # the strongest last: on top


def test_every_shown_box_has_its_mask_below_it(masked: Page) -> None:
    boxes = shown_boxes(masked)
    assert len(boxes) == 2
    masks = masked.evaluate(
        """Object.fromEntries([...document.querySelectorAll("#boxes .mask:not(.off)")].map((mask) => {
            const { x, y, width, height } = mask.getBBox();
            return [mask.dataset.mask, [x, y, x + width, y + height]];
        }))"""
    )
    assert masks == {str(key): [x1, y1, (x1 + x2) / 2, y2] for key, (x1, y1, x2, y2) in boxes.items()}
    order = "[...document.getElementById('boxes').children].map((node) => node.classList[0])"
    layers = masked.evaluate(order)
    assert layers.index("photo-image") < layers.index("masks") < layers.index("detections")
    colours = "[...document.querySelectorAll('#boxes .mask')].map((mask) => getComputedStyle(mask).fill)"
    assert len(set(masked.evaluate(colours))) == 2  # its class's


def test_filters_hide_masks_with_their_boxes_and_pointing_at_a_box_marks_its_mask(masked: Page) -> None:
    best = "#boxes .mask:not(.off)"
    box(masked, 1).hover()
    expect(masked.locator("#boxes .mask.active")).to_have_attribute("data-mask", "1")
    scores = [float(row.inner_text()) for row in masked.locator("#table tbody td:nth-child(3)").all()]
    set_slider(masked, "min-score", (scores[0] + scores[1]) / 2)
    expect(masked.locator(best)).to_have_count(1)
    expect(masked.locator(best)).to_have_attribute("data-mask", "0")


def test_masks_are_switched_off_by_box_and_by_key(masked: Page) -> None:
    mask = masked.locator("#boxes .mask").first
    expect(mask).to_be_visible()
    masked.get_by_role("checkbox", name="Masks").uncheck()
    expect(mask).to_be_hidden()
    masked.keyboard.press("m")
    expect(mask).to_be_visible()
    expect(masked.get_by_role("checkbox", name="Masks")).to_be_checked()


def test_compare_mode_has_masks_on_both_sides(masked: Page) -> None:
    masked.get_by_role("radio", name="Compare").check()
    for stage in ("boxes", "rival-boxes"):
        expect(masked.locator(f"#{stage} .mask:not(.off)")).to_have_count(2)


def test_a_model_without_masks_has_none_and_no_switch(masked: Page) -> None:
    masked.locator("#model").select_option("bare")
    wait_for_all(masked)
    expect(masked.locator("#boxes .mask")).to_have_count(0)
    expect(masked.locator("#masks-toggle")).to_be_hidden()
    masked.locator("#model").select_option("masked")
    wait_for_all(masked)
    expect(masked.locator("#boxes .mask")).to_have_count(2)


def test_the_annotated_picture_has_the_masks_that_are_on_screen(masked: Page, masked_server: str) -> None:
    """Where no box or text is drawn, to the pixel what the server's annotate=true draws."""
    photo = tiles_image(192, 320).copy()
    photo[photo.sum(axis=2) == 0] = 60
    pick(masked, "photo.png", encode(photo))
    wait_for_all(masked)
    least = {"score_threshold": "0.3"}
    reply = httpx.post(
        f"{masked_server}detect",
        params={"model": "masked", "annotate": "true", **least},
        content=encode(photo),
        headers={"content-type": "image/png", "accept": "image/png"},
    )
    served = np.asarray(Image.open(io.BytesIO(reply.raise_for_status().content)).convert("RGB")).astype(int)
    inside = [(0 + 32, 64 + 16), (128 + 32, 192 + 16)]  # row, column: in the middle of the masks
    outside = [(32, 64 + 48), (160, 192 + 48), (96, 20)]  # in the boxes' other halves, and beside them
    drawn = exported(masked)
    for at in inside + outside:
        assert drawn[at] == pytest.approx(served[at], abs=2)
    for at in inside:
        assert np.abs(drawn[at] - photo[at].astype(int)).max() > 10
    for at in outside:
        assert drawn[at] == pytest.approx(photo[at])
    masked.get_by_role("checkbox", name="Masks").uncheck()
    plain = exported(masked)
    for at in inside:
        assert plain[at] == pytest.approx(photo[at])


def exported(page: Page) -> NDArray[np.int_]:
    with page.expect_download() as download:
        page.locator("#export").get_by_role("button", name="Annotated PNG").click()
    content = Path(download.value.path()).read_bytes()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_a_mask_that_cannot_be_read_is_said_and_the_others_are_drawn(
    open_page: OpenPage, masked_server: str
) -> None:
    page, _ = open_page(masked_server)
    wait_for_all(page)

    def spoil(route: Route) -> None:
        reply = route.fetch()
        document = reply.json()
        document["detections"][0]["segmentation"]["counts"] = "no code at all"
        route.fulfill(response=reply, body=json.dumps(document))

    page.route("**/detect?*", spoil)
    pick(page, "photo.png", encode(tiles_image()))
    wait_for_all(page)
    expect(page.locator("#masks-note")).to_have_text("(1 could not be read)")
    expect(page.locator("#boxes .mask")).to_have_count(1)
    page.locator("#export").get_by_role("button", name="Annotated PNG").click()
    expect(page.locator("#export-said")).to_contain_text("Nothing saved: a mask cannot be read")
    page.locator("#film .tile").nth(1).click()
    expect(page.locator("#masks-note")).to_be_empty()
