"""POST /rescore of a running server: boxes good and bad."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from service.schemas import RescoreResponse
from tests.server_process import GREEN_BOX, RED_BOX, TILES, assert_problem

pytestmark = pytest.mark.usefixtures("healthy_afterwards")


def test_rescore_judges_given_boxes_in_order(client: httpx.Client) -> None:
    boxes = [GREEN_BOX, RED_BOX, [0, 32, 32, 64]]
    by_form = client.post("/rescore", files={"image": ("a", TILES)}, data={"boxes": json.dumps(boxes)})
    by_json = client.post("/rescore", json={"image": base64.b64encode(TILES).decode(), "boxes": boxes})
    for answer in (by_form, by_json):
        opinions = RescoreResponse.model_validate(answer.json()).results
        assert [each.label for each in opinions] == ["green", "red", "red"]
        assert [each.purity for each in opinions] == pytest.approx([240 / 255, 1, 0], abs=1e-4)
        assert opinions[1].iou == pytest.approx(0.8, abs=1e-4)
    none = client.post("/rescore", files={"image": ("a", TILES)}, data={"boxes": "[]"})
    assert none.status_code == 200 and none.json()["results"] == []


@pytest.mark.parametrize(
    ("boxes", "status", "slug", "words"),
    [
        pytest.param(json.dumps([[0, 0, 9, 9]] * 10_000), 422, "bad-boxes", "at most 100", id="10000 boxes"),
        pytest.param(
            json.dumps([[0, 0, 9, 9]] * 100_000), 422, "bad-boxes", "at most 100", id="100000 boxes"
        ),
        ("[[500, 500, 600, 600]]", 422, "bad-boxes", "outside"),
        ("[[30, 30, 10, 10]]", 422, "bad-boxes", "inverted"),
        ("[[0, 0, 1]]", 422, "bad-boxes", "[n, 4]"),
        ("[[0, 0, 1, 1e999]]", 422, "bad-boxes", "finite"),
        ("[[0, 0, 1, NaN]]", 400, "bad-body", "NaN"),
        ('[["a", 0, 1, 1]]', 422, "bad-boxes", "numbers"),
        ('[["0", "0", "9", "9"]]', 422, "bad-boxes", "numbers"),
        ("[[false, false, true, true]]", 422, "bad-boxes", "numbers"),
        ("[[null, 0, 9, 9]]", 422, "bad-boxes", "numbers"),
        ("7", 400, "bad-body", "list"),
        ("[", 400, "bad-body", "JSON"),
    ],
)
def test_bad_boxes_are_named(client: httpx.Client, boxes: str, status: int, slug: str, words: str) -> None:
    answer = client.post("/rescore", files={"image": ("a", TILES)}, data={"boxes": boxes})
    detail = assert_problem(answer, status, slug)["detail"]
    if slug != "bad-boxes" or words != "outside":
        assert words in detail
    else:
        assert "image" in detail


def test_rescore_needs_a_localization_head_and_both_fields(client: httpx.Client) -> None:
    form: dict[str, Any] = {"files": {"image": ("a", TILES)}, "data": {"boxes": "[]"}}
    assert_problem(client.post("/rescore", params={"model": "plain"}, **form), 422, "bad-option")
    assert_problem(client.post("/rescore", files={"image": ("a", TILES)}), 400, "bad-body")
    assert_problem(client.post("/rescore", content=TILES), 415, "unsupported-body")
