"""docs/detect.md says what benchmarks/detect_job.py has measured."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
RESULT = json.loads((ROOT / "benchmarks" / "results" / "detect-job.json").read_text())
PAGE = " ".join((ROOT / "docs" / "detect.md").read_text().split())


def test_the_speed_is_the_result_s() -> None:
    loop, one, two = (f"{row['images_per_second']:.1f}" for row in RESULT["rows"])
    assert [row["workers"] for row in RESULT["rows"]] == [None, 1, 2]
    assert f"On two cores, {RESULT['images']} photos of 640 x 480 with `{RESULT['model']}`" in PAGE
    assert f"{two} images a second with two workers, {one} with one, {loop} in a loop" in PAGE
    assert RESULT["cores"] == 2
