"""Our baseline with torchvision's weights gives torchvision's detections, on real photos."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.detector_facts import differences, load_photos, reference_and_ours, run_ours, run_reference
from model.detector import TwoStageDetector

Pair = tuple[torch.nn.Module, TwoStageDetector]


@pytest.fixture(scope="module")
def detectors() -> Pair:
    """The same random weights in both."""
    return reference_and_ours()


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_same_detections_as_torchvision(detectors: Pair, data_dir: Path, batch: int) -> None:
    theirs, ours = detectors
    images = load_photos(data_dir / "coco_mini" / "val2017", batch)
    expected, got = run_reference(theirs, images), run_ours(ours, images)
    for row, detections in enumerate(expected):
        assert len(detections["boxes"]) >= 20, "too few detections to prove anything"
        assert differences(detections, got, row)[2] == []
