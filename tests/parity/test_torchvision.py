"""Our baseline with torchvision's weights gives torchvision's detections, on real photos."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.detector_facts import differences, load_photos, reference_and_ours, run_ours, run_reference
from model.checkpoint import CheckpointError
from model.convert import Conventions, convert
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


@pytest.fixture(scope="module")
def second_version() -> Pair:
    """Norms in the pyramid, a deeper RPN, convolutions in the head. Few proposals: each costs much there.

    Its fresh convolutions let little through, which larger output weights make up for.
    """
    return reference_and_ours("fasterrcnn_resnet50_fpn_v2", proposals=60, spread=20, least_norm=0.5)


@pytest.mark.parametrize("batch", [1, 2])
def test_same_detections_as_torchvisions_second_version(
    second_version: Pair, data_dir: Path, batch: int
) -> None:
    theirs, ours = second_version
    images = [image[:192, :256] for image in load_photos(data_dir / "coco_mini" / "val2017", batch)]
    expected, got = run_reference(theirs, images), run_ours(ours, images)
    for row, detections in enumerate(expected):
        assert len(detections["boxes"]) >= 20, "too few detections to prove anything"
        assert differences(detections, got, row)[2] == []


def test_boxes_of_a_mask_r_cnn_are_those_of_its_faster_part(second_version: Pair) -> None:
    """The mask head is left out on request only; without it the keys are Faster R-CNN's."""
    theirs, ours = second_version
    state = dict(theirs.state_dict())
    masked = state | {
        "roi_heads.mask_head.0.0.weight": torch.zeros(256, 256, 3, 3),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": torch.zeros(91),
    }
    with pytest.raises(CheckpointError, match=r"a mask head \(2 weights, .* --boxes-only leaves it out"):
        convert(masked)
    converted = convert(masked, Conventions(boxes_only=True))
    assert converted.layout == "torchvision v2"
    for key, value in converted.detector.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key
