"""Writes an evaluation down: metrics.json, and the pictures beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hindsight.whole_files import whole_file
from training.evaluation.localization import KEPT
from training.evaluation.plots import draw_reliability, draw_score_vs_iou
from training.evaluation.run import Evaluation


def write_report(folder: Path, evaluation: Evaluation, about: dict[str, Any]) -> list[Path]:
    """Writes into `folder` (made if missing) and returns the files.

    metrics.json: `about` (model, data: names, never paths of this machine) and every number, null where there
    were too few boxes. reliability.png and score_vs_iou.png: only for a detector with a localization head.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "metrics.json"]
    text = json.dumps({**about, **evaluation.to_json()}, indent=2, allow_nan=False) + "\n"
    with whole_file(written[0]) as draft:
        draft.write_text(text, encoding="utf-8")
    if evaluation.rows is not None and evaluation.kept is not None:
        name = str(about.get("model", "model"))
        written += [folder / "reliability.png", folder / "score_vs_iou.png"]
        draw_reliability(written[1], evaluation.kept, f"{name}: predicted IoU of kept detections")
        stage = "kept detections" if evaluation.population == KEPT else "boxes before NMS"
        draw_score_vs_iou(written[2], evaluation.rows, f"{name}: {stage}")
    return written
