"""The page with the shipped default model, exactly as `make serve` starts it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.browsing import REPOSITORY, OpenPage, running_server

CELLS = REPOSITORY / "hindsight" / "models" / "cells"


@pytest.fixture(scope="module")
def cells_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not CELLS.is_dir():
        pytest.fail("the default model hindsight/models/cells is not in the checkout", pytrace=False)
    with running_server(tmp_path_factory.mktemp("cells") / "server.log") as address:
        yield address


def test_a_blood_smear_is_detected_on_opening(open_page: OpenPage, cells_server: str) -> None:
    page, _ = open_page(cells_server)
    catalogue = httpx.get(f"{cells_server}models").json()
    assert catalogue["default"] == "cells"
    expect(page.locator("#model")).to_have_value("cells")
    names = {row.inner_text().strip() for row in page.locator("#table tbody th").all()}
    assert "RBC" in names
    assert names <= {"RBC", "WBC", "Platelets"}
    assert page.locator("#boxes g").count() >= 5
    numbers = [float(cell.inner_text()) for cell in page.locator("#detail .bar b").all()]
    assert len(numbers) == 4
    assert all(0 < number <= 1 for number in numbers)
    (REPOSITORY / "tests" / ".output").mkdir(exist_ok=True)
    page.screenshot(path=REPOSITORY / "tests" / ".output" / "page-cells.png", full_page=True)


def test_every_shipped_sample_has_boxes(open_page: OpenPage, cells_server: str) -> None:
    page, _ = open_page(cells_server)
    buttons = page.locator("#samples button")
    assert buttons.count() >= 2
    for button in buttons.all():
        button.click()
        expect(page.locator("#photo")).to_have_attribute("alt", f"Photo {button.get_attribute('data-file')}")
        expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
        expect(page.locator("#problem")).to_be_hidden()
        assert page.locator("#boxes g").count() > 0
