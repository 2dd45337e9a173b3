"""TSD exported: its two poolings become RoI-Align nodes of one level each, its sibling stays behind."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch

from export.onnx_ops import DOMAIN, roi_align_name
from export.parity import Filters, Tolerance, compare_detections, detections_of
from export.parity_report import run_eager
from export.to_onnx import Description, Exported, export_artifact
from hindsight.artifact import Defaults
from hindsight.runtime import open_runtime
from model.checkpoint import save_checkpoint
from model.config import BackboneConfig, RpnConfig
from model.detector import TwoStageDetector
from model.heads.tsd import TsdHead
from model.zoo import config_of
from tests.parity.test_export import EXTRA, feeds_of, lively


@pytest.fixture(scope="module")
def detector() -> TwoStageDetector:
    torch.manual_seed(0)
    config = config_of("tsd_dir", 2)
    assert config.localization is not None
    toy = TwoStageDetector(
        replace(
            config,
            backbone=BackboneConfig("test_efficientnet", min_level=3, fpn_channels=16, frozen_levels=0),
            rpn=RpnConfig(anchor_sizes=(16, 32, 64, 128), pre_nms_test=60, post_nms_test=40),
            head=replace(config.head, width=32, offset_width=16),
            localization=replace(config.localization, width=32, boxes_at_inference=24),
            max_detections=20,
        )
    ).eval()
    assert isinstance(toy.head, TsdHead)
    with torch.no_grad():  # fresh offsets are next to nothing, and a graph without them would pass
        for layer in (toy.head.offsets.bins, toy.head.offsets.shift):
            layer.bias.normal_(std=2)
            layer.weight.mul_(300)
    return lively(toy)


@pytest.fixture(scope="module")
def exported(detector: TwoStageDetector, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("tsd")
    save_checkpoint(folder / "toy.safetensors", detector, EXTRA)
    about = Description("toy", defaults=Defaults(0.2, 0.2, 0.5, 0.5))
    return export_artifact(folder / "toy.safetensors", folder / "toy", about)


def test_both_graphs_answer_as_torch_does(exported: Exported) -> None:
    assert exported.parity.passed


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 96), (3, 96, 64)])
def test_exported_detections_are_torchs(
    exported: Exported, detector: TwoStageDetector, batch: int, height: int, width: int
) -> None:
    feeds = feeds_of(batch, height, width)
    expected = run_eager(detector, feeds)
    found = open_runtime("onnxruntime", exported.artifact).detect(feeds)
    compared = 0
    for image in range(batch):
        filters = Filters(float(feeds["class_threshold"][image]), float(feeds["score_threshold"][image]), 0.6)
        own, other = detections_of(expected, image), detections_of(found, image)
        result = compare_detections(own, other, filters, 20, Tolerance(), featureless=False)
        assert result.outliers(Tolerance()) == 0
        compared += result.matched
    assert compared > 0


def test_the_graphs_pool_bins_level_by_level_and_leave_the_sibling_out(
    exported: Exported, detector: TwoStageDetector
) -> None:
    poolings = {"model.onnx": 2, "rescore.onnx": 1}  # for the classifier, and for the regressor
    for name, count in poolings.items():
        graph = onnx.load(exported.artifact.path / name, load_external_data=False).graph
        nodes = [node.op_type for node in graph.node if node.domain == DOMAIN]
        assert nodes.count(roi_align_name(1)) == count * len(detector.strides)
        assert sorted({node for node in nodes if "Roi" in node}) == [roi_align_name(1), roi_align_name(3)]
        weights = {tensor.name for tensor in graph.initializer}
        assert any("head.classifier.trunk" in weight for weight in weights)
        assert not any("sibling" in weight for weight in weights)
