"""A real server and a real Chromium. A page's console error, CSP violation or foreign request fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect

from hindsight.artifact import write_artifact_manifest
from service.keys import create_key
from tests.browser.browsing import OpenPage, Watch, running_server
from tests.browser.chromium import launched_chromium
from tests.factories import encode, make_tiny_artifact

EXPECT_MS = 20_000  # the tests share two cores with whatever else runs


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Without one the tests fail: nothing else sees the page. Closed with its module, so that asyncio.run
    works in the next one's.
    """
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(launched_chromium())
        except FileNotFoundError as error:
            pytest.fail(str(error), pytrace=False)
        expect.set_options(timeout=EXPECT_MS)
        yield opened


def board_image() -> NDArray[np.uint8]:
    """Tiles of falling brightness, uint8 [96, 160, 3]: nine boxes of three classes, from tight to loose."""
    image = np.zeros((3, 5, 3), np.uint8)
    for rank, tile in enumerate([(0, 0), (0, 2), (0, 4), (1, 1), (1, 3), (2, 0), (2, 2), (2, 4), (1, 4)]):
        image[(*tile, rank % 3)] = 255 - 17 * rank
    return np.kron(image, np.ones((32, 32, 1), np.uint8))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serves `tiny` (samples: board.jpg, tiles.jpg) and `plain`, which does not judge its boxes."""
    root = tmp_path_factory.mktemp("page")
    tiny = make_tiny_artifact(root / "tiny")
    (tiny.path / "samples" / "board.jpg").write_bytes(encode(board_image(), "JPEG", quality=95))
    write_artifact_manifest(tiny.path, replace(tiny.manifest, files={}))
    plain = make_tiny_artifact(root / "plain", name="plain", localization=False)
    with running_server(root / "server.log", HINDSIGHT_MODEL=f"{tiny.path},{plain.path}") as address:
        yield address


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and key of a server that wants one."""
    folder = tmp_path_factory.mktemp("keyed")
    tiny, file = make_tiny_artifact(folder / "tiny"), folder / "keys.jsonl"
    key = create_key(file, "person", "user")
    settings = {"HINDSIGHT_MODEL": str(tiny.path), "HINDSIGHT_KEYS_FILE": str(file)}
    with running_server(folder / "server.log", **settings) as address:
        yield address, key


@pytest.fixture
def open_page(browser: Browser, server: str) -> Iterator[OpenPage]:
    """Opens the page in a fresh profile, waits for the first detection; checks its conduct after the test."""
    opened: list[tuple[Page, Watch]] = []

    def open_one(
        address: str = server,
        *,
        width: int = 1280,
        height: int = 860,
        scheme: str = "light",
        density: float = 1,
    ) -> tuple[Page, Watch]:
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=density)
        page = context.new_page()
        page.set_default_timeout(3 * EXPECT_MS)
        watch = Watch(address)
        watch.attach(page)
        opened.append((page, watch))
        page.goto(address)
        page.locator("#boxes .detections g").first.wait_for()
        return page, watch

    yield open_one
    for page, watch in opened:
        watch.check(page)
        page.context.close()


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page()[0]
