"""The figures of docs/audit.md are those of the committed result."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RESULT = json.loads((ROOT / "benchmarks" / "results" / "audit-bccd.json").read_text())
PAGE = (ROOT / "docs" / "audit.md").read_text()


def short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def test_the_table_is_the_results() -> None:
    for name, ranking in RESULT["rankings"].items():
        found = ranking["found"]
        cells = [
            name,
            f"{short(found['mean'])} ({short(found['lowest'])}-{short(found['highest'])})",
            *(short(band["mean"]) for band in ranking["by_iou"].values()),
        ]
        assert f"| {' | '.join(cells)} |" in PAGE
    assert list(RESULT["rankings"]) == re.findall(r"^\| ([a-zI ]+U|audit|class score) \|", PAGE, re.MULTILINE)


def test_what_was_measured_is_said() -> None:
    assert RESULT["data"] == {"name": "bccd", "split": "test", "images": 72, "annotations": 945}
    assert RESULT["planted"]["iou_with_the_original"]["range"] == [0.3, 0.8]
    unplanted = RESULT["unplanted_among_the_first"]
    draws = len(RESULT["rankings"]["audit"]["found"]["draws"])
    assert (
        f"{sum(each['draws'] for each in unplanted) / draws:.0f} of the first 50 (mean of the draws)" in PAGE
    )
    assert f"{len(unplanted)} different boxes in all" in PAGE


def test_the_audit_beats_every_other_ranking_in_every_draw() -> None:
    audit = RESULT["rankings"]["audit"]["found"]["draws"]
    for name, ranking in RESULT["rankings"].items():
        if name != "audit":
            assert all(own > other for own, other in zip(audit, ranking["found"]["draws"], strict=True)), name
