"""The figures on docs/bench.md: every measurement has its place, made or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.serving import overhead_of
from benchmarks.serving_page import blocks

ABOUT: dict[str, Any] = {
    "hardware": {"cpu": "some CPU", "cores": 2},
    "versions": {"onnxruntime": "1.2", "fastapi": "3.4", "uvicorn": "5.6"},
    "litserve_versions": {"litserve": "7.8"},
    "commit": "0123456789ab",
    "date": "2026-01-02T03:04:05Z",
    "note": "The machine was idle before the run.",
}


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    assert blocks(tmp_path).count("Not measured yet.") == 4


def test_overhead_is_compared_within_its_round() -> None:
    # The second round met a machine half as fast: requests and model alike.
    rounds = [
        {"model_ms": 70.0, "pipeline_ms": 74.0, "single_ms": 76.0, "requests_per_second": 13.0},
        {"model_ms": 140.0, "pipeline_ms": 148.0, "single_ms": 150.0, "requests_per_second": 6.5},
    ]
    found = overhead_of(rounds)
    assert found["overhead_share"] == 0.09 and found["single_overhead_ms"] == 2.0


def test_overhead_and_overload_have_a_row_a_server(tmp_path: Path) -> None:
    row = {"model_ms": 70.0, "pipeline_ms": 74.0, "single_ms": 76.04, "single_overhead_ms": 2.04}
    row |= {"requests_per_second": 13.0, "overhead_share": 0.09, "p99_ms": 800.0}
    overhead = {"model": "cells", "rounds": 5, "clients": 8, "systems": {"Hindsight": row, "Other": row}}
    crowd = {"capacity_per_second": 9.8, "next_median_ms": 150.0, "next_worst_ms": None}
    crowd |= {f"{manners}_goodput_of_capacity": 0.7 for manners in ("rude", "polite")}
    crowd |= {f"{manners}_late_goodput_of_capacity": 0.65 for manners in ("rude", "polite")}
    overload = {"what": "a crowd", "seconds": 20.0, "systems": {"Hindsight": crowd}}
    for name, result in {"serving-overhead": overhead, "serving-overload": overload}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**result, **ABOUT}))
    text = blocks(tmp_path)
    assert "| Other | 76.0 | +2.0 | 13.00 | 9.0% | 800 |" in text
    assert "| Hindsight | 9.8 | 70% (65%) | 70% (65%) | 150 (never) |" in text
    assert "litserve 7.8; commit 0123456789ab, 2026-01-02." in text
    assert text.count("Not measured yet.") == 2


def test_a_broken_promise_stands_out(tmp_path: Path) -> None:
    soak = {
        "minutes": 30.0,
        "rate": 8.0,
        "capacity_per_second": 10.0,
        "kinds": {"sizes": {"sent": 20}, "text": {"sent": 3}},
        "promises": {
            "no unexpected error": {"measured": {"sizes: 500": 2}, "kept": False},
            "p50 drift under 10%": {"measured": 0.012, "kept": True},
            "memory drift under 50 MB": {"measured": 0.4, "kept": True},
        },
    }
    (tmp_path / "serving-soak.json").write_text(json.dumps({**soak, **ABOUT}))
    text = blocks(tmp_path)
    assert "| no unexpected error | 2 x sizes: 500 | **no** |" in text
    assert "| p50 drift under 10% | +1.2% | yes |" in text
    assert "| memory drift under 50 MB | +0.4 MB | yes |" in text
    assert "23 requests of 2 kinds" in text
