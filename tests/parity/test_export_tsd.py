"""TSD exported: its two poolings become RoI-Align nodes of one level each, its sibling stays behind."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch

from export.onnx_ops import DOMAIN, roi_align_name
from export.parity import Tolerance
from export.parity_report import run_eager
from export.to_onnx import Exported
from hindsight.runtime import open_runtime
from model.detector import TwoStageDetector
from model.heads.tsd import TsdHead
from model.zoo import config_of
from tests.parity.exporting import assert_same, export_toy, feeds_of, lively, toy_of


@pytest.fixture(scope="module")
def detector() -> TwoStageDetector:
    config = config_of("tsd_dir", 2)
    assert config.localization is not None
    toy = toy_of(
        config,
        head=replace(config.head, width=32, offset_width=16),
        localization=replace(config.localization, width=32, boxes_at_inference=24),
    )
    assert isinstance(toy.head, TsdHead)
    with torch.no_grad():  # fresh offsets are next to nothing, and a graph without them would pass
        for layer in (toy.head.offsets.bins, toy.head.offsets.shift):
            layer.bias.normal_(std=2)
            layer.weight.mul_(300)
    return lively(toy)


@pytest.fixture(scope="module")
def exported(detector: TwoStageDetector, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_toy(detector, tmp_path_factory.mktemp("tsd"))


def test_both_graphs_answer_as_torch_does(exported: Exported) -> None:
    assert exported.parity.passed


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 96), (3, 96, 64)])
def test_exported_detections_are_torchs(
    exported: Exported, detector: TwoStageDetector, batch: int, height: int, width: int
) -> None:
    feeds = feeds_of(batch, height, width)
    found = open_runtime("onnxruntime", exported.artifact).detect(feeds)
    assert assert_same(run_eager(detector, feeds), found, feeds, Tolerance()) > 0


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
