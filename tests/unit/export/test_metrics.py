"""--metrics: what an evaluation report becomes in a manifest and on the card."""

import json
from pathlib import Path

import pytest

from export.card import _metrics as card_table
from export.cli import _metrics as read_metrics
from export.errors import ExportError


def test_a_report_becomes_its_headline_figures(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    figures = {"ap": 0.6, "ap50": 0.9, "ap75": 0.7, "ap90": 0.1, "images": 72, "per_class": []}
    path.write_text(json.dumps({"metrics": figures, "data": {"name": "cells", "split": "test"}}))
    metrics = read_metrics(path)
    assert metrics == {
        "AP": 0.6,
        "AP50": 0.9,
        "AP75": 0.7,
        "AP90": 0.1,
        "measured_on": "cells test, 72 images",
    }
    table = card_table(metrics)
    assert "| AP | AP50 | AP75 | AP90 |" in table
    assert table.endswith("On cells test, 72 images.")


def test_a_coco_file_has_no_split_to_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    figures = {"ap": 0.6, "ap50": 0.9, "ap75": 0.7, "ap90": 0.1, "images": 500}
    path.write_text(json.dumps({"metrics": figures, "data": {"name": "test.json", "split": None}}))
    assert read_metrics(path)["measured_on"] == "test.json, 500 images"


def test_other_objects_are_kept_and_other_values_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"AP": 0.5}')
    assert read_metrics(path) == {"AP": 0.5}
    path.write_text("[1]")
    with pytest.raises(ExportError, match="must hold a JSON object"):
        read_metrics(path)
