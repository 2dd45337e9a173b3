"""IO binding as the CUDA provider gets it, run on the CPU provider. How that provider is opened:
test_onnxruntime_cuda.py; its answers on a GPU: tests/parity/test_backends.py.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.errors import DeviceLost, OutOfMemory, RuntimeFailure
from hindsight.runtime import onnxruntime as backend
from hindsight.runtime import open_runtime
from hindsight.runtime.onnxruntime import OnnxRuntime
from hindsight.runtime.onnxruntime_binding import BoundSession, host_allocator

Arrays = dict[str, NDArray[Any]]


class Memory:
    """Host memory that is counted."""

    held = 0

    def __init__(self, size: int) -> None:
        Memory.held += 1
        self.bytes = np.full(size, 255, np.uint8)

    def free(self) -> None:
        Memory.held -= 1


class Allocator:
    """Makes such memory, and knows when it is closed."""

    closed = False

    def __call__(self, size: int) -> Memory:
        return Memory(size)

    def close(self) -> None:
        assert Memory.held == 0, "buffers first"
        Allocator.closed = True


def feeds(batch: int, height: int = 64, width: int = 96) -> Arrays:
    rng = np.random.default_rng(batch)
    return {
        "images": rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8),
        "image_sizes": np.array([[height, width - index] for index in range(batch)], np.int64),
        "class_threshold": np.full(batch, 0.05, np.float32),
        "score_threshold": np.zeros(batch, np.float32),
        "iou_weight": np.linspace(0, 1, batch, dtype=np.float32),
        "nms_threshold": np.array([0.5], np.float32),
    }


@pytest.fixture
def bound(tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnnxRuntime]:
    """The runtime as it is on CUDA, but for the provider."""
    Memory.held, Allocator.closed = 0, False
    monkeypatch.setattr(backend, "_providers", lambda device, tf32: ["CPUExecutionProvider"])
    monkeypatch.setattr(backend, "host_allocator", lambda number: Allocator())
    yield OnnxRuntime(tiny_artifact, device="cuda")


def assert_equal(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_bound_sessions_answer_as_plain_ones(bound: OnnxRuntime, tiny_artifact: Artifact) -> None:
    plain = open_runtime("onnxruntime", tiny_artifact)
    for batch, height in ((1, 64), (4, 128), (2, 32), (4, 128)):
        given = feeds(batch, height)
        assert_equal(bound.detect(given), plain.detect(given))
        boxes = np.array([[[0, 0, 20, 20], [5, 5, 60, 30]]] * batch, np.float32)
        asked = {"images": given["images"], "image_sizes": given["image_sizes"], "boxes": boxes}
        asked["num_boxes"] = np.full(batch, 2)
        assert_equal(bound.rescore(asked), plain.rescore(asked))


def test_an_answer_stays_when_the_next_batch_comes(bound: OnnxRuntime) -> None:
    first = bound.detect(feeds(2))
    before = {name: values.copy() for name, values in first.items()}
    bound.detect(feeds(3))
    assert_equal(first, before)


def test_threads_take_turns(bound: OnnxRuntime) -> None:
    expected = {batch: bound.detect(feeds(batch)) for batch in (1, 2, 3)}
    wrong = []

    def work(batch: int) -> None:
        for _ in range(20):
            try:
                assert_equal(bound.detect(feeds(batch)), expected[batch])
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(batch,)) for batch in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_buffers_are_reused_and_given_back(bound: OnnxRuntime) -> None:
    bound.detect(feeds(1))
    held = Memory.held
    for batch in (3, 1, 2, 3):
        bound.detect(feeds(batch))
    assert Memory.held == held > 0
    bound.close()
    assert Memory.held == 0 and Allocator.closed
    with pytest.raises(RuntimeFailure, match="closed"):
        bound.detect(feeds(1))


def test_what_onnxruntime_refuses_is_a_runtime_failure(bound: OnnxRuntime) -> None:
    given = feeds(2)
    with pytest.raises(RuntimeFailure, match="ONNX Runtime failed"):
        bound.detect({name: values for name, values in given.items() if name != "images"})
    assert bound.detect(given)


def test_outputs_of_a_shape_that_inputs_do_not_tell(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("NonZero", ["x"], ["rows"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("rows", TensorProto.INT64, [1, "found"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = BoundSession(session, Memory).run({"x": np.array([0, 1, 0, 2], np.float32)})
    assert found["rows"].tolist() == [[1, 3]]


def test_without_cuda_memory_is_pageable_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    memory = host_allocator(0)(10)
    assert memory.bytes.shape == (10,) and "pageable memory" in caplog.text
    memory.free()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLost),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemory),
        (
            "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9",
            OutOfMemory,
        ),
        ("Available memory of 5 is smaller than requested bytes of 9", OutOfMemory),
        ("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0", OutOfMemory),
        ("Non-zero status code returned while running Conv node. std::bad_alloc", OutOfMemory),
        ("Invalid input name: x", RuntimeFailure),
    ],
)
def test_a_lost_device_and_a_full_one_are_told_from_other_failures(
    bound: OnnxRuntime, monkeypatch: pytest.MonkeyPatch, message: str, kind: type[Exception]
) -> None:
    def fail(self: BoundSession, inputs: Arrays) -> Arrays:
        raise RuntimeError(message)

    monkeypatch.setattr(BoundSession, "run", fail)
    with pytest.raises(RuntimeFailure, match="ONNX Runtime failed") as caught:
        bound.detect(feeds(1))
    assert type(caught.value) is kind
