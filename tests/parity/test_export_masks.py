"""Detectors with masks, exported: one more output, held to the same parity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

import hindsight
from export import graphs
from export.onnx_ops import DOMAIN
from export.parity import Filters, Tolerance, compare_detections, detections_of
from export.parity_report import run_eager
from export.prepare import prepared_copy
from export.to_onnx import Exported
from hindsight.runtime import open_runtime
from model.config import MaskConfig
from model.detector import TwoStageDetector
from model.zoo import config_of
from tests.parity.exporting import assert_same, export_toy, feeds_of, lively, toy_of

SIDE = 28


def toy(name: str) -> TwoStageDetector:
    config = config_of(name, 2)
    head = replace(config.head, width=32)
    return lively(toy_of(config, head=head, mask=MaskConfig(convs=1, channels=8)))


@pytest.fixture(scope="module")
def detector() -> TwoStageDetector:
    return toy("mask_rcnn")


@pytest.fixture(scope="module")
def exported(detector: TwoStageDetector, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_toy(detector, tmp_path_factory.mktemp("masks"))


def test_the_artifact_says_that_it_has_masks(exported: Exported) -> None:
    assert exported.parity.passed and exported.artifact.manifest.has_masks
    assert exported.artifact.manifest.to_json()["has_masks"] is True
    assert exported.artifact.model_card is not None
    assert "boxes, each with a class score, and with a mask" in exported.artifact.model_card


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 96), (3, 96, 64)])
def test_exported_masks_are_torchs(
    exported: Exported, detector: TwoStageDetector, batch: int, height: int, width: int
) -> None:
    feeds = feeds_of(batch, height, width)
    expected = run_eager(detector, feeds)
    found = open_runtime("onnxruntime", exported.artifact).detect(feeds)
    assert expected["masks"].shape == found["masks"].shape == (batch, 20, SIDE, SIDE)
    compared = 0
    for image in range(batch):
        filters = Filters(float(feeds["class_threshold"][image]), float(feeds["score_threshold"][image]), 0.6)
        own, other = detections_of(expected, image), detections_of(found, image)
        result = compare_detections(own, other, filters, 20, Tolerance(), featureless=False)
        assert result.outliers(Tolerance()) == 0
        compared += result.matched
        broken = {**other, "masks": other["masks"] + np.float32(0.01)}
        worse = compare_detections(own, broken, filters, 20, Tolerance(), featureless=False)
        assert worse.outliers(Tolerance()) == result.matched  # so masks are compared
        count = int(found["num_detections"][image])
        assert not found["masks"][image, count:].any()
    assert compared > 0
    assert expected["masks"][0, 0].std() > 0.01


def test_detections_carry_their_masks(exported: Exported) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    with hindsight.load(exported.artifact.path) as model:
        found = model.detect(photo, class_threshold=0.0, score_threshold=0.0)
    assert len(found) and found.masks is not None and found.masks.shape == (len(found), SIDE, SIDE)
    assert found.masks.min() > 0 and found.masks.max() < 1


def test_a_hybrid_task_cascade_gives_the_same_in_onnx() -> None:
    """The graph alone: semantic branch, three stages, three mask heads that read one another."""
    cascade = toy("htc")
    graph = graphs._trace_detection(prepared_copy(cascade))
    kinds = [node.op_type for node in graph.graph.node if node.domain == DOMAIN]
    # pyramid and semantic map, for each of three stages and for the masks
    assert kinds.count("MultilevelRoiAlign3") == kinds.count("MultilevelRoiAlign1") == 4
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for batch, height, width in ((1, 96, 128), (3, 64, 96)):
        feeds = feeds_of(batch, height, width)
        expected = run_eager(cascade, feeds)
        found = dict(zip(names, session.run(None, feeds), strict=True))
        assert assert_same(expected, found, feeds, Tolerance()) > 0
