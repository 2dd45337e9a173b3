"""The results on docs/experiments.md: every claim has its section, every data set its columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiments_page import all_results, section
from benchmarks.readme import MissingResult
from training.experiments.claims import find_claim

RANKING = find_claim("ranking")


def result(*rows: tuple[str, str, float, str]) -> dict[str, Any]:
    """(comparison, metric, difference, verdict) a row."""
    return {
        "images": {"training": 20, "test": 10},
        "seeds": [0, 1],
        "detector": {"model": "faster_rcnn", "backbone": "resnet18"},
        "epochs": 2,
        "hardware": "some CPU",
        "commit": "0123456789abcdef",
        "comparisons": [
            {
                "comparison": comparison,
                "metric": metric,
                "better": "hindsight IoU",
                "worse": "class score",
                "difference": difference,
                "low": difference - 0.01,
                "high": difference + 0.01,
                "expected": None,
                "verdict": verdict,
            }
            for comparison, metric, difference, verdict in rows
        ],
    }


def test_ap_is_in_points_and_correlations_are_not() -> None:
    text = section(
        RANKING, {"set": result(("2a", "AP", 0.02, "supported"), ("2b", "Pearson", 0.2, "dropped"))}
    )
    assert (
        "| 2a hindsight IoU > class score | AP | - | +2.00 (+1.00 to +3.00) | **supported** |" in text
        and "| 2b hindsight IoU > class score | Pearson | - | +0.200 (+0.190 to +0.210) | dropped |" in text
    )
    assert "10 test images, seeds 0, 1" in text


def test_every_data_set_has_its_columns() -> None:
    one, two = result(("2a", "AP", 0.02, "supported")), result(("2a", "AP", -0.05, "contradicted"))
    text = section(RANKING, {"one": one, "two": two})
    assert "| **supported** | -5.00 (-6.00 to -4.00) | **contradicted** |" in text


def test_data_sets_that_were_asked_other_things_do_not_share_a_table() -> None:
    with pytest.raises(MissingResult, match="one and two"):
        section(
            RANKING,
            {"one": result(("2a", "AP", 0.0, "dropped")), "two": result(("2b", "AP", 0.0, "dropped"))},
        )


def test_claims_that_were_not_run_say_so(tmp_path: Path) -> None:
    (tmp_path / "ranking").mkdir()
    (tmp_path / "ranking" / "set.json").write_text(json.dumps(result(("2a", "AP", 0.0, "inconclusive"))))
    text = all_results(tmp_path)
    assert text.count("Not run") == 6 and text.count("Not run (needs a GPU)") == 2
