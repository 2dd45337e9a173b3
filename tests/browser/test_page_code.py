"""The code that the page offers is run as it stands, and answers what the page shows."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.browsing import REPOSITORY, Watch, answer_for, pick, sample, wait_for_count
from tests.browser.workbench import choose, drag, own_boxes, own_mode, wait_for_opinions
from tests.factories import encode, tiles_image

WAYS = ("curl", "client", "plain")


def code(page: Page, way: str) -> str:
    page.locator(f'input[name="snippet-way"][value="{way}"]').check()
    return page.locator("#snippet").inner_text()


def run(text: str, way: str, folder: Path, **environment: str) -> list[Any]:
    """Run the code in `folder`; what it prints as records: detections, or [box, opinion] pairs."""
    command = ["bash", "-c", text] if way == "curl" else [sys.executable, "-W", "error", "-c", text]
    environment = {
        name: value for name, value in os.environ.items() if "proxy" not in name.lower()
    } | environment
    environment["PYTHONPATH"] = str(REPOSITORY)
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    if way == "curl":
        answer = json.loads(ran.stdout)
        return answer.get("detections", answer.get("results"))
    return [
        ast.literal_eval(line if line.startswith("{") else f"[{line.replace('] {', '], {', 1)}]")
        for line in ran.stdout.splitlines()
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_samples_request_answers_what_the_page_shows(
    page: Page, server: str, tmp_path: Path, way: str
) -> None:
    records = answer_for(server, sample(server))
    least = round(sorted(record["score"] for record in records)[4], 2)
    page.locator("#min-score").fill(str(least))
    page.get_by_role("checkbox", name="green").uncheck()
    shown = page.locator("#table tbody tr").count()
    assert 0 < shown < 9
    answered = run(code(page, way), way, tmp_path)
    assert len(answered) == shown
    assert {record["label"] for record in answered} <= {"red", "blue"}
    assert all(record["score"] >= least for record in answered)


@pytest.mark.parametrize("way", ["client", "plain"])
def test_the_pages_own_filters_are_in_the_python(page: Page, server: str, tmp_path: Path, way: str) -> None:
    records = answer_for(server, sample(server))
    least = round(sorted(record["iou"] for record in records)[4], 2)
    page.locator("#min-iou").fill(str(least))
    answered = run(code(page, way), way, tmp_path)
    assert len(answered) == sum(record["iou"] >= least for record in records)
    assert "filters of this page" not in page.locator("#snippet-note").inner_text()
    code(page, "curl")
    expect(page.locator("#snippet-note")).to_contain_text(
        "The least IoU, purity and integrity are filters of this page"
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name", ["it's <b>50%<b> $(touch x) `ls`.png", 'a "quoted"; \\ b,c.png', "-", "größe 日本.png"]
)
def test_any_file_name_is_quoted(page: Page, tmp_path: Path, way: str, name: str) -> None:
    content = encode(tiles_image())
    pick(page, name, content)
    (tmp_path / name).write_bytes(content)
    wait_for_count(page, 2, 2)
    answered = run(code(page, way), way, tmp_path)
    assert [record["label"] for record in answered] == ["red", "green"]
    own_mode(page)
    drag(page, (34, 2), (62, 30))
    wait_for_opinions(page, 1)
    answered = run(code(page, way), way, tmp_path)
    opinion = answered[0] if way == "curl" else answered[0][1]
    assert opinion["label"] == "red"
    assert [path.name for path in tmp_path.iterdir()] == [name]  # and nothing else was run


@pytest.mark.parametrize("way", WAYS)
def test_own_boxes_of_a_sample(page: Page, tmp_path: Path, way: str) -> None:
    choose(page, "tiles.jpg")
    own_mode(page)
    expect(page.locator("#snippet-note")).to_have_text("Draw a box, and its request is here.")
    drag(page, (34, 2), (62, 30))
    drag(page, (98, 66), (126, 94))
    wait_for_opinions(page, 2)
    answered = run(code(page, way), way, tmp_path)
    opinions = answered if way == "curl" else [opinion for _, opinion in answered]
    assert [opinion["label"] for opinion in opinions] == ["red", "green"]
    if way != "curl":
        np.testing.assert_allclose([box for box, _ in answered], own_boxes(page), atol=1e-6)


def test_the_code_can_be_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for way in WAYS:
        text = code(page, way)
        page.locator("#snippet-copy").click()
        expect(page.locator("#snippet-copy")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == text
        expect(page.locator("#snippet-copy")).to_have_text("Copy")


def test_a_key_is_named_and_never_shown(browser: Browser, keyed: tuple[str, str], tmp_path: Path) -> None:
    address, key = keyed
    page = browser.new_context().new_page()
    watch = Watch(address)
    watch.allow_failed_requests()
    watch.attach(page)
    page.goto(address)
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()
    wait_for_count(page, 2, 2)
    for mode in ("detections", "own boxes"):
        if mode == "own boxes":
            own_mode(page)
            drag(page, (34, 2), (62, 30))
            wait_for_opinions(page, 1)
        for way in WAYS:
            text = code(page, way)
            assert "HINDSIGHT_API_KEY" in text
            assert key not in page.content()
            assert run(text, way, tmp_path, HINDSIGHT_API_KEY=key)
    expect(page.locator("#snippet-note")).to_contain_text("Your key is read from HINDSIGHT_API_KEY.")
    watch.check(page)
    page.context.close()
