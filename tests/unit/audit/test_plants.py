"""The wrong boxes that the benchmark plants are as wrong as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.audit_plants import KINDS, LEAST, MOST, plant
from hindsight.overlap import pairwise_iou
from tests.unit.audit.sets import opened
from tests.unit.training.data_sets import write_yolo


def test_planted_boxes_have_the_overlap_they_claim_and_come_evenly(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lines = [
        [
            f"0 {x:.4f} {y:.4f} {w:.4f} {h:.4f}"
            for x, y, w, h in rng.uniform((0.3, 0.3, 0.1, 0.1), (0.7, 0.7, 0.5, 0.5), (9, 4))
        ]
        for _ in range(10)
    ]
    dataset = opened(
        write_yolo(tmp_path / "set", {str(i): own for i, own in enumerate(lines)}, size_wh=(320, 240))
    )
    planted = plant(dataset.images, 80, seed=1)
    assert [each.kind for each in planted[:4]] == list(KINDS)
    assert len({(each.image, each.row) for each in planted}) == 80
    for each in planted:
        original = dataset.images[each.image].boxes[each.row]
        iou = float(pairwise_iou(each.box[None], original[None])[0, 0])
        assert LEAST <= iou < MOST and abs(iou - each.iou) < 1e-6
        x1, y1, x2, y2 = each.box
        assert 0 <= x1 < x2 <= 320 and 0 <= y1 < y2 <= 240
        sides, were = np.array([x2 - x1, y2 - y1]), original[2:] - original[:2]
        if each.kind == "shrunk":
            assert (sides < were).all()
        if each.kind == "resized":
            assert (np.abs(each.box - original) > 1e-3).sum() == 1
    assert 0.45 < np.mean([each.iou for each in planted]) < 0.65
    again = plant(dataset.images, 80, seed=1)
    assert all((a.box == b.box).all() and a.row == b.row for a, b in zip(planted, again, strict=True))
    assert any(
        (a.image, a.row) != (b.image, b.row)
        for a, b in zip(planted, plant(dataset.images, 80, seed=2), strict=True)
    )
