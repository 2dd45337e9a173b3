"""The figures of opening the page are those that were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.page_load import FIGURES, PAGE, STEPS, block, blocks
from benchmarks.readme import keep_page


def test_the_page_shows_the_committed_result() -> None:
    assert keep_page(PAGE, blocks, "", ["--check"]) == 0


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    assert list(blocks(tmp_path / "none.json").values()) == ["Not measured yet."]


def test_medians_worst_cases_and_bytes_are_said() -> None:
    names = list(dict.fromkeys([*STEPS, *FIGURES]))
    result: dict[str, Any] = {
        "model": "cells",
        "chromium": "1.2",
        "runs": 15,
        "milliseconds": {name: {"median_ms": at + 100.4, "worst_ms": 900.0} for at, name in enumerate(names)},
        "bytes": {"images": 5, "besides_images": 136_400, "requests": 40},
        "hardware": {"cpu": "some CPU", "cores": 2},
        "versions": {"onnxruntime": "1.2", "fastapi": "3.4", "uvicorn": "5.6"},
        "commit": "0123456789ab",
        "date": "2026-01-02T03:04:05Z",
        "note": "The machine was idle before the run.",
    }
    text = block(result)
    assert f"| first boxes | {100 + names.index('first_boxes')} | 900 |" in text
    assert "136 kB besides images, in 40 requests" in text
    assert f"the HTML is here at {100 + names.index('html')}" in text
