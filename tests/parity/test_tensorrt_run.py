"""Engines of a shipped model on this machine's GPU, against ONNX Runtime on its CPU.

python -m pytest -m tensorrt tests/parity/test_tensorrt_run.py
"""

from __future__ import annotations

import logging
import shutil
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.parity import Comparison, Filters, Tolerance, compare_detections, detections_of, merge
from export.parity_inputs import ParityInput, parity_inputs
from export.tensorrt_command import target_of
from export.tensorrt_shapes import default_sizes
from export.to_tensorrt import build_engine, installed_flavour
from hindsight.artifact import Artifact, find_artifact, load_artifact
from hindsight.engines import FLAVOURS
from hindsight.errors import RuntimeFailure
from hindsight.preprocess import decode_image
from hindsight.runtime import Runtime, open_runtime
from hindsight.runtime.cuda import Gpu

TOLERANCES = {
    "fp32": (Tolerance(pixels=0.05, score=1e-3), 0.01),
    "fp16": (Tolerance(pixels=1.0, score=0.02, iou=0.02), 0.05),
    "bf16": (Tolerance(pixels=4.0, score=0.1, iou=0.1), 0.2),
}
_MEGABYTE = 2**20


def lacking() -> str | None:
    """Why no engine can run here."""
    if not any(find_spec(flavour) for flavour in FLAVOURS):
        return "needs TensorRT: the extra tensorrt"
    try:
        Gpu().close()
    except RuntimeFailure as error:
        return f"needs an NVIDIA GPU: {error}"
    return None


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.tensorrt,
    # TensorRT times every kernel of every profile while it builds: 36 profiles, all in the first test's time
    pytest.mark.timeout(7200),
    pytest.mark.skipif(lacking() is not None, reason=str(lacking())),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The shipped model `cells`, with its engines."""
    folder = tmp_path_factory.mktemp("models") / "cells"
    shutil.copytree(find_artifact("cells").path, folder, ignore=shutil.ignore_patterns("engines"))
    copied = load_artifact(folder)
    target = target_of(installed_flavour(), None)
    sizes = default_sizes(copied.manifest.resize)
    for precision in TOLERANCES:
        build_engine(copied, target, precision=precision, batches=[1, 4], sizes=sizes)
    return copied


@pytest.fixture(scope="module")
def inputs(artifact: Artifact) -> list[ParityInput]:
    photos = [decode_image(path.read_bytes()) for path in artifact.samples[:3]]
    return parity_inputs(artifact.manifest.resize, artifact.manifest.defaults, photos)


def filters_of(feeds: dict[str, NDArray[Any]], image: int) -> Filters:
    names = ("class_threshold", "score_threshold", "nms_threshold")
    return Filters(*(float(feeds[name][image % len(feeds[name])]) for name in names))


def compared(
    expected: Runtime, found: Runtime, item: ParityInput, limit: int, tolerance: Tolerance
) -> Comparison:
    feeds = item.detect_feeds()
    wanted, given = expected.detect(feeds), found.detect(feeds)
    assert set(wanted) == set(given)
    parts = []
    for image in range(item.batch):
        filters = filters_of(feeds, image)
        own, other = detections_of(wanted, image), detections_of(given, image)
        parts.append(compare_detections(own, other, filters, limit, tolerance, featureless=item.featureless))
    return merge(parts)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_an_engine_answers_as_onnx_runtime(
    artifact: Artifact, inputs: list[ParityInput], precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    tolerance, allowed = TOLERANCES[precision]
    reference = open_runtime("onnxruntime", artifact)
    with caplog.at_level(logging.WARNING):
        runtime = open_runtime(f"tensorrt:{precision}", artifact, device="cuda")
    assert "no CUDA graph" not in caplog.text
    try:
        limit = artifact.manifest.max_detections
        result = merge([compared(reference, runtime, item, limit, tolerance) for item in inputs])
        assert result.matched > 60
        assert result.outliers(tolerance) <= allowed * result.matched, result
        for item in inputs[:4]:
            feeds = item.rescore_feeds()
            wanted, given = reference.rescore(feeds), runtime.rescore(feeds)
            assert set(wanted) == set(given)
            for name, values in wanted.items():
                difference = np.abs(values - given[name])
                assert (difference > tolerance.score).mean() <= allowed, name
    finally:
        runtime.close()


def test_a_batch_answers_as_its_images_alone(artifact: Artifact, inputs: list[ParityInput]) -> None:
    runtime = open_runtime("tensorrt:fp32", artifact, device="cuda")
    item = next(item for item in inputs if item.batch == 3)
    feeds = item.detect_feeds()
    tolerance, allowed = TOLERANCES["fp32"]  # another batch has other kernels
    parts = []
    try:
        whole = runtime.detect(feeds)
        for image in range(item.batch):
            one = {
                name: value if name == "nms_threshold" else value[image : image + 1]
                for name, value in feeds.items()
            }
            alone = runtime.detect(one)
            parts.append(
                compare_detections(
                    detections_of(whole, image),
                    detections_of(alone, 0),
                    filters_of(feeds, image),
                    artifact.manifest.max_detections,
                    tolerance,
                    featureless=item.featureless,
                )
            )
        result = merge(parts)
        assert result.matched > 10 and result.outliers(tolerance) <= max(1, allowed * result.matched)
    finally:
        runtime.close()


def test_loading_and_unloading_leaves_the_memory_flat(artifact: Artifact, inputs: list[ParityInput]) -> None:
    from cuda.bindings import driver

    free: list[int] = []
    watching = Gpu()
    for _ in range(20):
        runtime = open_runtime("tensorrt:fp16", artifact, device="cuda")
        runtime.detect(inputs[0].detect_feeds())
        runtime.close()
        with watching.current():
            status, left, _total = driver.cuMemGetInfo()
        assert int(status) == 0
        free.append(int(left))
    watching.close()
    # the first runs load kernels, which the process keeps
    assert free[2] - free[-1] < 16 * _MEGABYTE, [amount // _MEGABYTE for amount in free]
