"""The page in front of a server that wants API keys."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.browsing import Watch, wait_for_count


@pytest.fixture
def page(browser: Browser, keyed: tuple[str, str]) -> Iterator[Page]:
    opened = browser.new_context().new_page()
    opened.set_default_timeout(60_000)
    watch = Watch(keyed[0])
    watch.allow_failed_requests()
    watch.attach(opened)
    opened.goto(keyed[0])
    yield opened
    watch.check(opened)
    opened.context.close()


def enter(page: Page, key: str) -> None:
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()


def test_the_page_asks_for_a_key_and_works_with_it(page: Page, keyed: tuple[str, str]) -> None:
    dialog = page.get_by_role("dialog", name="This server asks for a key")
    expect(dialog).to_contain_text("Whoever runs this server can give you one.")
    expect(dialog).to_contain_text("kept in this tab until you close it")
    expect(dialog).not_to_contain_text("Authorization")
    enter(page, "hsk_wrong")
    expect(dialog).to_contain_text("does not know the API key")
    enter(page, keyed[1])
    expect(dialog).to_be_hidden()
    wait_for_count(page, 2, 2)
    # The thumbnails come with the key, too; an <img> alone would send none.
    shown = "[...document.querySelectorAll('#film img')].every((image) => image.naturalWidth > 0)"
    page.wait_for_function(shown)
    page.reload()  # the tab still knows it
    wait_for_count(page, 2, 2)
    assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]


def test_without_a_key_the_page_says_what_is_missing(page: Page) -> None:
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
    expect(page.get_by_role("alert")).to_contain_text("Whoever runs this server can give you one.")
    expect(page.get_by_role("alert")).not_to_contain_text("Authorization")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("An API key is needed")


def test_no_zoom_is_told_of_an_image_that_is_not_there(page: Page, keyed: tuple[str, str]) -> None:
    level = page.locator("#zoom-level")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.set_viewport_size({"width": 1100, "height": 700})  # the stage is drawn anew
    page.wait_for_timeout(300)
    expect(level).to_have_text("")
    enter(page, keyed[1])
    wait_for_count(page, 2, 2)
    expect(level).to_have_text(re.compile(r"^\d{2,4} %$"))


def test_keys_are_kept_from_other_tabs(page: Page, keyed: tuple[str, str]) -> None:
    enter(page, keyed[1])
    wait_for_count(page, 2, 2)
    other = page.context.new_page()
    other.goto(keyed[0])
    expect(other.get_by_role("dialog")).to_be_visible()
