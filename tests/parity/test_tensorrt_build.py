"""The flagship and the baseline, whole, built by TensorRT for RTX on the CPU, our operators as plugins.

Running an engine needs a GPU: tests/parity/test_tensorrt_run.py.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest
import torch

from export.graphs import trace_graphs
from export.prepare import prepared_copy
from export.to_onnx import Description, manifest_of
from export.to_tensorrt import Target, build_engine
from export.weights import store_weights
from hindsight.artifact import Artifact, find_artifact, load_artifact, write_artifact_manifest
from hindsight.engines import Bucket, Engine, find_engine
from model.zoo import build
from tests.parity.exporting import EXTRA

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs the package tensorrt-rtx-cu13"),
]
TARGET = Target("tensorrt_rtx", "any", ("8.9",), "sm89")


@pytest.fixture(scope="module")
def flagship(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The shipped model `cells`, where an engine may be written."""
    folder = tmp_path_factory.mktemp("flagship") / "cells"
    shutil.copytree(find_artifact("cells").path, folder, ignore=shutil.ignore_patterns("engines"))
    return load_artifact(folder)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Faster R-CNN with ResNet-50 and FPN at its real width, untrained."""
    folder = tmp_path_factory.mktemp("baseline") / "baseline"
    folder.mkdir()
    torch.manual_seed(0)
    detector = build("faster_rcnn", 2).eval()
    store_weights(trace_graphs(prepared_copy(detector)), folder, half=False)
    write_artifact_manifest(folder, manifest_of(detector, EXTRA, Description("baseline"), folder))
    return load_artifact(folder)


def built(artifact: Artifact, precision: str) -> Engine:
    """The engine, once it is found where its capability is there, and refused where another is."""
    engine = build_engine(artifact, TARGET, precision=precision, batches=[2], sizes=[(96, 160)])
    here = ("tensorrt_rtx", engine.record.version, "any GPU", precision)
    assert find_engine(artifact, *here, capability="8.9") == engine
    with pytest.raises(RuntimeFailure, match=r"for compute capability 8\.9, not 9\.0"):
        find_engine(artifact, *here, capability="9.0")
    return engine


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_flagship_builds_with_every_operator_a_plugin(flagship: Artifact, precision: str) -> None:
    record = built(flagship, precision).record
    # suppression of proposals and of detections, pooling for the classifier, two regressors, the DIR head
    assert {plan.graph: plan.plugin_layers for plan in record.plans} == {"model.onnx": 6, "rescore.onnx": 1}
    rescoring = record.plan_of("rescore.onnx")
    assert rescoring is not None and Bucket(2, 96, 160, boxes=1000) in rescoring.buckets


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_baseline_builds_with_every_operator_a_plugin(baseline: Artifact, precision: str) -> None:
    engine = built(baseline, precision)
    assert {plan.graph: plan.plugin_layers for plan in engine.record.plans} == {"model.onnx": 3}
    size = (engine.folder / "model.engine").stat().st_size
    parameters = baseline.manifest.architecture["parameters"]
    width = {"fp32": 4, "fp16": 2}[precision]
    assert size == pytest.approx(parameters * width, rel=0.2)  # the weights are in the precision asked for
