"""Models that are loaded, replaced or unloaded while the page is open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from service.keys import create_key
from tests.browser.browsing import (
    Watch,
    pick,
    running_server,
    states,
    table_rows,
    wait_for_all,
    wait_for_count,
)
from tests.factories import encode, make_tiny_artifact, tiles_image

A_WHILE_MS = 1500  # the page does not read the list again within a second


@dataclass
class Serving:
    """A server with a folder of models, and its administrator."""

    address: str
    folder: Path
    key: str

    def order(self, name: str, operation: str, **query: str) -> None:
        answer = httpx.post(
            f"{self.address}models/{name}/{operation}",
            params=query,
            headers={"x-api-key": self.key},
            timeout=120,
        )
        assert answer.status_code == httpx.codes.OK, answer.text


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("catalogue")
    folder, keys = root / "models", root / "keys.jsonl"
    make_tiny_artifact(folder / "alpha" / "1", name="alpha")
    make_tiny_artifact(folder / "beta" / "1", name="beta")
    key = create_key(keys, "boss", "admin")
    settings = {
        "HINDSIGHT_MODEL_REPOSITORY": str(folder),
        "HINDSIGHT_KEYS_FILE": str(keys),
        "HINDSIGHT_ANONYMOUS": "true",
    }
    with running_server(root / "server.log", **settings) as address:
        yield Serving(address, folder, key)


@pytest.fixture
def page(browser: Browser, serving: Serving) -> Iterator[Page]:
    for name in ("alpha", "beta"):
        serving.order(name, "load")
    opened = browser.new_context().new_page()
    opened.set_default_timeout(60_000)
    watch = Watch(serving.address)
    watch.allow_failed_requests()
    watch.attach(opened)
    opened.goto(serving.address)
    wait_for_all(opened)
    yield opened
    watch.check(opened)
    opened.context.close()


def names(page: Page) -> list[str]:
    return page.locator("#model option").all_text_contents()


def look_again(page: Page) -> None:
    """The user comes back to the window, as after loading a model in a terminal."""
    page.wait_for_timeout(A_WHILE_MS)
    page.evaluate("dispatchEvent(new Event('focus'))")


def test_a_model_that_is_unloaded_and_loaded_shows_when_the_user_comes_back(
    page: Page, serving: Serving
) -> None:
    assert names(page) == ["alpha", "beta"]
    pick(page, "mine.png", encode(tiles_image()))
    wait_for_all(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    serving.order("beta", "unload")
    look_again(page)
    expect(page.locator("#model option")).to_have_text(["alpha"])
    serving.order("beta", "load")
    look_again(page)
    expect(page.locator("#model option")).to_have_text(["alpha", "beta"])
    expect(page.locator("#model")).to_be_enabled()
    assert not [url for url in asked if "/detect" in url], "nothing that is done is asked again"
    assert states(page)["mine.png"] == "done"
    page.locator("#model").select_option("beta")
    expect(page.locator("#timings")).to_contain_text("beta 1")


def test_opening_the_list_shows_what_is_there_now(page: Page, serving: Serving) -> None:
    serving.order("beta", "unload")
    page.wait_for_timeout(A_WHILE_MS)
    page.locator("#model").focus()
    expect(page.locator("#model option")).to_have_text(["alpha"])


def test_the_model_in_use_is_unloaded(page: Page, serving: Serving) -> None:
    page.locator("#model").select_option("beta")
    wait_for_all(page)
    pick(page, "before.png", encode(tiles_image()))
    wait_for_all(page)
    serving.order("beta", "unload")
    pick(page, "after.png", encode(tiles_image()))
    expect(page.locator("#status")).to_contain_text("beta is no longer loaded; alpha is in use")
    expect(page.locator("#model")).to_have_value("alpha")
    wait_for_all(page)
    expect(page.locator("#problem")).to_be_hidden()
    assert list(states(page)) == ["after.png", "before.png", "tiles.jpg"] or list(states(page)) == [
        "before.png",
        "after.png",
        "tiles.jpg",
    ]
    wait_for_count(page, 2, 2)
    expect(page.locator("#timings")).to_contain_text("alpha 1")


def test_a_new_version_of_the_model_in_use_is_taken_up(page: Page, serving: Serving) -> None:
    pick(page, "before.png", encode(tiles_image()))
    wait_for_all(page)
    make_tiny_artifact(
        serving.folder / "alpha" / "2", name="alpha", version="2", class_names=("rot", "gruen", "blau")
    )
    serving.order("alpha", "load", version="2")
    pick(page, "after.png", encode(tiles_image()))  # its answer tells
    expect(page.locator("#status")).to_contain_text("alpha is version 2 now")
    wait_for_all(page)
    expect(page.locator("#timings")).to_contain_text("alpha 2")
    for name in ("after.png", "before.png"):
        page.locator(f'#film .tile[data-file="{name}"]').click()
        wait_for_count(page, 2, 2)
        assert [row[0] for row in table_rows(page)] == ["rot", "gruen"]
    serving.order("alpha", "unload", version="2")


def test_a_key_is_not_asked_for_by_looking(page: Page) -> None:
    page.route("**/models", lambda route: route.fulfill(status=401, json={"detail": "a key"}), times=1)
    with page.expect_response("**/models"):
        look_again(page)
    expect(page.get_by_role("dialog")).to_have_count(0)
    wait_for_all(page)
