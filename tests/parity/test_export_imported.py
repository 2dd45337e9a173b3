"""What only detectors from elsewhere have goes through export too: checked by export's own parity run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from export.graphs import trace_graphs
from export.prepare import prepared_copy
from export.to_onnx import export_artifact
from model.checkpoint import save_checkpoint
from model.config import (
    BackboneConfig,
    DetectorConfig,
    HeadConfig,
    LocalizationConfig,
    PoolingConfig,
    RpnConfig,
)
from model.detector import TwoStageDetector
from tests.parity.exporting import ABOUT, EXTRA, lively

# torchvision v2's layers under mmdetection's conventions, a box a class, and a localization head behind it
IMPORTED = DetectorConfig(
    2,
    BackboneConfig(
        "test_efficientnet", min_level=3, fpn_channels=16, frozen_levels=0, fpn_norm=True, norm_eps=1e-3
    ),
    RpnConfig(
        anchor_sizes=(16, 32, 64, 128),
        anchors_rounded=False,
        shrink_limited=True,
        conv_depth=2,
        pre_nms_test=60,
        post_nms_test=40,
    ),
    PoolingConfig(aligned=True, sampling_ratio=0),
    HeadConfig(kind="shared", stages=1, width=32, convs=2, class_specific_first=True, shrink_limited=True),
    localization=LocalizationConfig(width=32, boxes_at_inference=24),
    max_detections=20,
    min_box_side=0.0,
)


def test_an_imported_detector_with_its_new_head_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = tmp_path / "imported.safetensors"
    save_checkpoint(checkpoint, lively(TwoStageDetector(IMPORTED).eval()), EXTRA)
    exported = export_artifact(checkpoint, tmp_path / "imported", ABOUT)
    assert exported.parity.passed
    assert {case.graph for case in exported.parity.cases} == {"model", "rescore"}
    assert exported.artifact.manifest.has_localization


def test_convolutions_on_regions_leave_the_batch_open() -> None:
    """Double-Head's regressor, like the shared head above, guards against a batch of no boxes at all."""
    head = HeadConfig(kind="double", stages=1, width=32)
    detector = TwoStageDetector(replace(IMPORTED, head=head, localization=None)).eval()
    graph = trace_graphs(prepared_copy(detector))["model.onnx"].graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
    batches = {shape[0].dim_param for name, shape in shapes.items() if name != "nms_threshold"}
    assert len(shapes) == 6 and batches == {"batch"}
