"""Files of every kind: what can be read is read as the server reads it, what cannot is refused in words."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.browsing import (
    OpenPage,
    answer_for,
    box,
    drop,
    pick,
    pick_all,
    running_server,
    shown_boxes,
    states,
    tile,
    wait_for_all,
    wait_for_count,
)
from tests.browser.workbench import drag, own_boxes, own_mode, screen, wait_for_opinions
from tests.factories import encode, make_tiny_artifact, tiles_image


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def readable() -> dict[str, bytes]:
    """Name -> file, of kinds that the server answers for."""
    rgb = Image.fromarray(tiles_image())
    grey = np.zeros((96, 160), np.uint16)
    grey[0:32, 32:64] = 65_535
    transparent = rgb.convert("RGBA")
    transparent.putalpha(Image.fromarray(np.where(tiles_image().any(axis=2), 255, 0).astype(np.uint8)))
    return {
        "grey16.png": saved(Image.fromarray(grey), "PNG"),
        "grey.png": saved(rgb.convert("L"), "PNG"),
        "palette.png": saved(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        "transparent.png": saved(transparent, "PNG"),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG", quality=95),
        "progressive.jpg": saved(rgb, "JPEG", quality=95, progressive=True),
        "still.gif": saved(rgb, "GIF"),
        "photo.webp": saved(rgb, "WEBP"),
        "photo.bmp": saved(rgb, "BMP"),
        "photo.tiff": saved(rgb, "TIFF"),
        "wrong name.txt.jpg": saved(rgb, "PNG"),
        "no suffix": saved(rgb, "PNG"),
        "one.png": saved(Image.new("RGB", (1, 1), (255, 0, 0)), "PNG"),
    }


def refused() -> dict[str, tuple[bytes, str, str]]:
    """Name -> file, the type that a browser gives it, and part of what is said."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    animated = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    svg = (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><rect width="40" height="40"/></svg>'
    )
    jpeg = saved(Image.fromarray(tiles_image(960, 1600)), "JPEG")
    return {
        "animated.gif": (animated, "image/gif", "more than one frame"),
        "drawing.svg": (svg, "image/svg+xml", "expected one of JPEG, PNG"),
        "photo.avif": (
            saved(Image.fromarray(tiles_image()), "AVIF"),
            "image/avif",
            "expected one of JPEG, PNG",
        ),
        "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "", "expected one of JPEG, PNG"),
        "notes.jpg": (b"only text", "image/jpeg", "expected one of JPEG, PNG"),
        "report.pdf": (b"%PDF-1.7 " + bytes(40), "application/pdf", "expected one of JPEG, PNG"),
        "clip.mp4": (b"\0\0\0\x18ftypisom" + bytes(40), "video/mp4", "expected one of JPEG, PNG"),
        "empty.png": (b"", "image/png", "empty"),
        "half.jpg": (jpeg[: len(jpeg) * 3 // 4], "image/jpeg", "cut short"),
    }


def test_every_kind_of_image_is_answered_as_the_server_does(page: Page, server: str) -> None:
    files = readable()
    pick_all(page, [(name, content, "") for name, content in files.items()])
    wait_for_all(page)
    for name, content in files.items():
        tile(page, name).click()
        expect(page.locator("#photo")).to_have_attribute("aria-label", f"Photo {name}")
        expected = [record["box"] for record in answer_for(server, content, score_threshold=0.05)]
        assert expected, name
        expect(page.locator("#boxes .detections g")).to_have_count(len(expected))
        drawn = shown_boxes(page)
        for index, xyxy in drawn.items():
            np.testing.assert_allclose(xyxy, expected[index], atol=1e-3)
        said = f"{name}: no preview" if name == "photo.tiff" else ""
        expect(page.locator("#placeholder")).to_have_text(said)


def test_what_cannot_be_read_is_refused_in_words(open_page: OpenPage) -> None:
    page, watch = open_page()
    wait_for_all(page)
    watch.allow_failed_requests()
    files = refused()
    pick_all(page, [(name, content, kind) for name, (content, kind, _) in files.items()])
    page.wait_for_function(
        "(count) => document.querySelectorAll('#film li[data-state=failed]').length === count", arg=len(files)
    )
    for name, (_, _, words) in files.items():
        tile(page, name).click()
        expect(page.locator("#problem-detail")).to_contain_text(words)
        expect(page.locator("#problem-status")).to_have_text(
            "HTTP 422" if words in ("empty", "cut short") else "HTTP 415"
        )
        expect(page.locator("#retry")).to_be_hidden()  # the same file would be refused again
    tile(page, "photo.avif").click()
    expect(page.locator("#problem-detail")).to_contain_text("Save it as JPEG or PNG")
    expect(page.locator("#film-count")).to_have_text(f"{len(files) + 2}, {len(files)} refused")


def drop_paths(page: Page, *paths: Path) -> None:
    """As the mouse does, folders included."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 300, "data": data})


def test_a_dropped_folder_without_pictures_says_so(page: Page, tmp_path: Path) -> None:
    wait_for_all(page)
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "notes.docx").write_bytes(b"text")
    drop_paths(page, folder)
    expect(page.locator("#status")).to_have_text("No image in papers")
    assert list(states(page)) == ["board.jpg", "tiles.jpg"]
    drop(page, "drop", ("photo.png", encode(tiles_image()), "image/png"))
    wait_for_count(page, 2, 2)
    expect(page.locator("#status")).to_contain_text("2 boxes in")


def test_pictures_of_a_folder_are_told_by_type_or_name(page: Page, tmp_path: Path) -> None:
    """A browser knows no type for some names that the server reads or refuses in words."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("a.tif", "b.JFIF", "c.bmp"):
        (folder / name).write_bytes(saved(Image.fromarray(tiles_image()), "PNG"))
    (folder / "readme.md").write_bytes(b"text")
    drop_paths(page, folder)
    wait_for_all(page)
    assert list(states(page)) == ["a.tif", "b.JFIF", "c.bmp", "board.jpg", "tiles.jpg"]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that takes 3 MB and 2 million pixels."""
    folder = tmp_path_factory.mktemp("strict")
    tiny = make_tiny_artifact(folder / "tiny")
    settings = {"HINDSIGHT_MAX_BODY_BYTES": "3000000", "HINDSIGHT_MAX_PIXELS": "2000000"}
    with running_server(folder / "server.log", HINDSIGHT_MODEL=str(tiny.path), **settings) as address:
        yield address


def test_an_image_over_the_servers_limits_is_told_the_limit(open_page: OpenPage, strict: str) -> None:
    page, watch = open_page(strict)
    watch.allow_failed_requests()
    many_pixels = encode(np.zeros((2000, 3000, 3), np.uint8))
    heavy = saved(Image.fromarray(tiles_image()), "PNG") + bytes(40_000_000)
    files = [("pixels.png", many_pixels, "image/png"), ("heavy.png", heavy, "image/png")]
    pick_all(page, [*files, ("fine.png", encode(tiles_image()), "image/png")])
    page.wait_for_function("() => document.querySelectorAll('#film li[data-state=failed]').length === 2")
    tile(page, "pixels.png").click()
    expect(page.locator("#problem-detail")).to_contain_text("3000 x 2000 pixels; at most 2000000")
    tile(page, "heavy.png").click()
    expect(page.locator("#problem-status")).to_have_text("HTTP 413")
    expect(page.locator("#problem-detail")).to_contain_text("at most 3000000")
    tile(page, "fine.png").click()
    wait_for_count(page, 2, 2)


LARGE = [(4000, 6000), (200, 20_000), (20_000, 200)]


@pytest.mark.parametrize("size", LARGE)
def test_a_large_image_freezes_nothing(page: Page, server: str, size: tuple[int, int]) -> None:
    height, width = size
    wait_for_all(page)
    content = encode(tiles_image(height, width), "JPEG", quality=60)
    page.evaluate(
        """() => {
            window.longest = 0;
            let last = performance.now();
            const tick = () => {
                const now = performance.now();
                window.longest = Math.max(window.longest, now - last);
                last = now;
                setTimeout(tick, 20);
            };
            tick();
        }"""
    )
    pick(page, "large.jpg", content, "image/jpeg")
    expect(page.locator("#timings")).to_contain_text(f"{width} \N{MULTIPLICATION SIGN} {height}")
    expected = answer_for(server, content, score_threshold=0.05)
    drawn = shown_boxes(page)
    for index, record in enumerate(expected):
        if index in drawn:
            np.testing.assert_allclose(drawn[index], record["box"], atol=0.1)
    for _ in range(12):
        page.locator("#zoom-in").click()
    page.locator("#zoom-fit").click()
    assert page.evaluate("window.longest") < 5000, "the page stood still"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_wide_image_can_be_zoomed_into_and_drawn_on(page: Page) -> None:
    pick(page, "wide.png", encode(tiles_image(200, 20_000)), "image/png")
    wait_for_all(page)
    expect(page.locator("#photo")).to_have_attribute("aria-label", "Photo wide.png")
    own_mode(page)
    drag(page, (4000, 0), (8000, 66))
    [drawn] = own_boxes(page)
    np.testing.assert_allclose(drawn, [4000, 0, 8000, 66], atol=30)  # about 20 image pixels a screen pixel
    wait_for_opinions(page, 1)


def test_one_pixel_can_be_looked_at_and_boxed(page: Page) -> None:
    pick(page, "one.png", encode(np.full((1, 1, 3), 255, np.uint8)), "image/png")
    wait_for_all(page)
    expect(page.locator("#timings")).to_contain_text("1 \N{MULTIPLICATION SIGN} 1")
    own_mode(page)
    page.get_by_role("button", name="Add a box").click()
    wait_for_opinions(page, 1)
    [[x1, y1, x2, y2]] = own_boxes(page)
    assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
    for key in ("ArrowRight", "Control+ArrowRight", "Shift+ArrowDown", "Control+ArrowLeft"):
        page.keyboard.press(key)
    [[x1, y1, x2, y2]] = own_boxes(page)
    assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


@pytest.mark.parametrize("density", [2, 3])
def test_a_dense_screen_has_sharp_boxes_and_exact_hits(open_page: OpenPage, density: int) -> None:
    page, _ = open_page(density=density)
    pick(page, "photo.png", encode(tiles_image()))
    wait_for_count(page, 2, 2)
    page.locator("h1").hover()
    page.locator("#labels").uncheck()
    edge = box(page, 1).locator(".edge")
    rectangle = edge.evaluate("(edge) => edge.getBoundingClientRect().toJSON()")
    clip = {"x": round(rectangle["left"]) - 12, "y": round(rectangle["top"]) + 60, "width": 24, "height": 1}
    shot = page.screenshot(clip=clip)
    row = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))[0].astype(int)
    assert len(row) == 24 * density, "drawn in the screen's own pixels"
    # Black outside, the tile's green inside; between them the light halo and the edge, each a sharp step.
    steps = np.abs(np.diff(row, axis=0)).max(axis=1)
    blurred = ((steps > 20) & (steps < 60)).sum()
    assert blurred <= 4, row.tolist()
    page.mouse.move(*screen(page, 97, 65))
    expect(page.locator("#boxes .detections g.active")).to_have_attribute("data-index", "1")
    own_mode(page)
    drag(page, (10, 40), (30, 60))
    np.testing.assert_allclose(own_boxes(page), [[10, 40, 30, 60]], atol=0.5)
