"""The page with the shipped default model, exactly as `make serve` starts it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser.access import OUTPUT
from tests.browser.browsing import (
    REPOSITORY,
    OpenPage,
    answer_for,
    running_server,
    sample,
    shown_boxes,
    wait_for_all,
)

CELLS = REPOSITORY / "hindsight" / "models" / "cells"


@pytest.fixture(scope="module")
def cells_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not CELLS.is_dir():
        pytest.fail("the default model hindsight/models/cells is not in the checkout", pytrace=False)
    OUTPUT.mkdir(exist_ok=True)
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
    assert len(shown_boxes(page)) >= 5
    numbers = [float(cell.inner_text()) for cell in page.locator("#detail .bar b").all()]
    assert len(numbers) == 4
    assert all(0 < number <= 1 for number in numbers)
    page.screenshot(path=OUTPUT / "page-cells.png", full_page=True)


def test_every_shipped_sample_has_boxes_without_a_click(open_page: OpenPage, cells_server: str) -> None:
    page, _ = open_page(cells_server)
    wait_for_all(page)
    badges = page.locator("#film .badge").all_inner_texts()
    assert len(badges) >= 2
    assert all(int(badge) > 0 for badge in badges)


def test_compare_mode_shows_how_hindsight_changes_the_real_ranking(
    open_page: OpenPage, cells_server: str
) -> None:
    page, _ = open_page(cells_server)
    wait_for_all(page)
    name = page.locator('#film .tile[aria-pressed="true"]').get_attribute("data-file") or ""
    image = sample(cells_server, name, "cells")
    best = answer_for(cells_server, image)  # the default threshold: what the page shows at first
    by_class = answer_for(cells_server, image, iou_weight=0, score_threshold=0.05)[: len(best)]
    page.get_by_role("radio", name="Compare").check()
    expect(page.locator("#compare-summary")).to_contain_text(f"The best {len(best)} boxes by hindsight")
    for stage, records in (("boxes", best), ("rival-boxes", by_class)):
        shown = sorted(shown_boxes(page, stage).values())
        np.testing.assert_allclose(shown, sorted(record["box"] for record in records), atol=1e-2)
    changes = set(
        page.locator("#compare-table tbody tr").evaluate_all(
            "(rows) => rows.map((row) => row.dataset.change)"
        )
    )
    assert changes & {"enters", "leaves", "refits", "rises", "falls"}
    page.screenshot(path=OUTPUT / "page-cells-compare.png", full_page=True)
