"""The README's figures are means over seeds of what `hindsight evaluate` wrote, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.readme import LATENCY, VARIANTS, MissingResult, blocks, rewrite, spread

MARKED = "top\n<!-- begin: accuracy -->\nold\n<!-- end: accuracy -->\nbottom\n"


def report(ap: float, *, weights: tuple[str, ...]) -> dict[str, Any]:
    metrics = {"ap": ap, "ap50": 0.9, "ap75": 0.7, "ap90": 0.1, "images": 72, "objects": 967}
    pearson = {
        "class_score_vs_true_iou": 0.1,
        "predicted_iou_vs_true_iou": 0.8,
        "fused_score_vs_true_iou": 0.5,
    }
    localization = {
        "population": "rows",
        "n": 1000,
        "pearson": pearson,
        "mean_absolute_error": {"iou": 0.05},
        "calibration": {"expected_calibration_error": 0.02},
    }
    return {
        "metrics": metrics,
        "by_iou_weight": {weight: metrics for weight in weights},
        "localization": localization,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for variant, seed, ap, weights in [
        ("baseline", 0, 0.594, ("0",)),
        ("flagship", 0, 0.630, ("0.5", "0")),
        ("flagship", 1, 0.640, ("0.5", "0")),
        ("pcb", 0, 0.720, ("0.5", "0")),
    ]:
        folder = tmp_path / "accuracy" / variant / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(report(ap, weights=weights)))
    stages = ("decode", "letterbox", "model", "nms_inside_model", "encode")
    milliseconds = {stage: {"mean": 2.0} for stage in stages}
    times = {**milliseconds, "total": {"p50": 9.4, "p95": 12.0, "mean": 10.0}}
    measured = {
        "milliseconds": times,
        "hardware": {"cores": 2, "cpu": "Some CPU"},
        "photos": {"sent": 200, "sizes": {"640x480": 200}},
    }
    for model in ("cells", "pcb"):
        (tmp_path / LATENCY.format(model=model)).write_text(json.dumps(measured))
    return tmp_path


def test_latency_adds_up_to_the_whole_request(results: Path) -> None:
    text = blocks(results)["latency"]
    assert "640x480" in text and "**p50 9 ms**" in text
    assert "| HTTP, queue, transfer | 2.0 |" in text  # 10 - 4 stages of 2, NMS being inside the model


def test_a_figure_is_the_mean_and_the_range_over_seeds(results: Path) -> None:
    text = blocks(results)["accuracy"]
    assert f"| {VARIANTS['baseline']} | - | .594 |" in text
    shipped = VARIANTS["flagship"]
    assert f"| {shipped} | 0.5 | .635 (.630-.640) |" in text
    assert text.index(f"| {shipped} | 0 |") < text.index(f"| {shipped} | 0.5 |")
    assert "72 test images, 967 objects" in text


def test_the_second_model_has_all_its_figures_in_one_block(results: Path) -> None:
    text = blocks(results)["pcb"]
    assert "| **pcb** | 0.5 | .720 |" in text and "| predicted IoU | .800 |" in text
    assert "One image of 640x480 over HTTP: p50 9 ms" in text


def test_a_missing_report_or_number_is_an_error(results: Path) -> None:
    with pytest.raises(MissingResult, match="null"):
        spread([0.5, None])
    (results / "accuracy" / "baseline" / "seed0" / "metrics.json").unlink()
    assert "Faster R-CNN" not in blocks(results)["accuracy"]
    pcb = results / "accuracy" / "pcb" / "seed0" / "metrics.json"
    text = pcb.read_text()
    pcb.unlink()
    with pytest.raises(MissingResult, match="accuracy/pcb"):
        blocks(results)
    pcb.write_text(text)
    for seed in (0, 1):
        (results / "accuracy" / "flagship" / f"seed{seed}" / "metrics.json").unlink()
    with pytest.raises(MissingResult, match="flagship"):
        blocks(results)


def test_only_the_marked_block_changes() -> None:
    assert rewrite(MARKED, {"accuracy": "new"}) == MARKED.replace("old", "new")
    with pytest.raises(MissingResult, match="trust"):
        rewrite(MARKED, {"trust": "new"})
