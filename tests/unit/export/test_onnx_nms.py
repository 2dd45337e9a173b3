"""The ONNX bodies of soft and IoU-guided NMS, run by stock ONNX Runtime, against the torch operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export import onnx_nms, onnx_ops
from model.ops import iou_guided_nms, soft_nms

FloatArray = NDArray[np.float32]
ABSENT = -np.inf
METHODS = ["linear", "gaussian"]
SHAPES = [(2, 3, 30), (1, 4, 9), (3, 1, 1), (2, 2, 0), (0, 2, 3)]
GRID: list[list[float]] = [  # ties, copies, IoUs of exactly 1/2 and 4/5, boxes without area
    [0, 0, 10, 10],
    [0, 0, 10, 8],
    [0, 0, 10, 5],
    [0, 0, 10, 10],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [0, 2, 10, 2],
    [50, 50, 60, 60],
]


def session_of(
    name: str, inputs: dict[str, list[str]], outputs: dict[str, int], **attributes: Any
) -> onnxruntime.InferenceSession:
    node = helper.make_node(
        name, list(inputs), list(outputs), domain=onnx_ops.DOMAIN, **attributes, **onnx_ops.PLUGIN_ATTRIBUTES
    )
    graph = helper.make_graph(
        [node],
        "one_operator",
        [helper.make_tensor_value_info(label, TensorProto.FLOAT, dims) for label, dims in inputs.items()],
        [helper.make_tensor_value_info(label, kind, ["G", "K", "N"]) for label, kind in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnx_ops.OPSET)], ir_version=10)
    onnx_ops.register_schemas()
    onnx_ops.attach_functions(model)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def soft_session(method: str, *, sigma: float = 0.5, min_score: float = 0.001, steps: int = 12) -> Any:
    inputs = {"boxes": ["G", "N", "4"], "scores": ["G", "K", "N"], "threshold": ["1"]}
    options = {"method": method, "sigma": sigma, "min_score": min_score, "steps": steps}
    return session_of(onnx_nms.SOFT_NMS_NAME, inputs, {"decayed": TensorProto.FLOAT}, **options)


@pytest.fixture(scope="module")
def guided_session() -> Any:
    inputs = {
        "boxes": ["G", "N", "4"],
        "class_scores": ["G", "K", "N"],
        "ious": ["G", "N"],
        "threshold": ["1"],
    }
    outputs = {"keep": TensorProto.BOOL, "taken": TensorProto.FLOAT}
    return session_of(onnx_nms.IOU_GUIDED_NMS_NAME, inputs, outputs)


def crowd(shape: tuple[int, int, int], seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    groups, _, count = shape
    corner = rng.uniform(0, 40, (groups, count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 30, corner.shape)], axis=-1)
    scores = rng.uniform(0, 1, shape)
    scores[rng.random(shape) < 0.3] = ABSENT
    return (
        boxes.astype(np.float32),
        scores.astype(np.float32),
        rng.uniform(0, 1, (groups, count)).astype(np.float32),
    )


def check_soft(
    session: Any,
    boxes: FloatArray,
    scores: FloatArray,
    threshold: float,
    method: str,
    *,
    sigma: float = 0.5,
    min_score: float = 0.001,
    steps: int = 12,
) -> FloatArray:
    limit = np.array([threshold], np.float32)
    (found,) = session.run(None, {"boxes": boxes, "scores": scores, "threshold": limit})
    tensors = [torch.from_numpy(value) for value in (boxes, scores, limit)]
    expected = soft_nms(*tensors, method, sigma, min_score, steps).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    return np.asarray(found)


def check_guided(
    session: Any, boxes: FloatArray, scores: FloatArray, ious: FloatArray, threshold: float
) -> FloatArray:
    limit = np.array([threshold], np.float32)
    feeds = {"boxes": boxes, "class_scores": scores, "ious": ious, "threshold": limit}
    keep, taken = session.run(None, feeds)
    expected = iou_guided_nms(*(torch.from_numpy(value) for value in feeds.values()))
    np.testing.assert_array_equal(keep, expected[0].numpy())
    np.testing.assert_array_equal(taken, expected[1].numpy())
    return np.asarray(taken)


@pytest.mark.parametrize("method", METHODS)
def test_soft_body_equals_the_operator(method: str) -> None:
    session = soft_session(method)
    for shape in SHAPES:
        for seed in range(3):
            boxes, scores, _ = crowd(shape, seed)
            for threshold in (0.0, 0.3, 0.5, 1.0):
                check_soft(session, boxes, scores, threshold, method)


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_of_soft_reaches_the_body(method: str) -> None:
    boxes, scores, _ = crowd((1, 2, 20), 7)
    results = []
    for options in ({}, {"sigma": 0.1}, {"min_score": 0.2}, {"steps": 3}, {"steps": 0}):
        session = soft_session(method, **options)  # type: ignore[arg-type]
        results.append(check_soft(session, boxes, scores, 0.3, method, **options))  # type: ignore[arg-type]
    usual, other_sigma, high_bar, few, none = results
    assert np.array_equal(usual, other_sigma) == (method == "linear")
    assert (high_bar[high_bar > ABSENT] >= 0.2).all() and (usual > ABSENT).sum() > (high_bar > ABSENT).sum()
    assert (few > ABSENT).sum() == 6
    assert (none == ABSENT).all()


@pytest.mark.parametrize("method", METHODS)
def test_soft_degenerate_cases(method: str) -> None:
    session = soft_session(method)
    boxes = np.array([GRID], np.float32)
    for row in (
        [0.5] * 8,
        [ABSENT] * 8,
        [ABSENT] * 7 + [0.5],
        [0.9, 0.9, 0.6, 0.6, 0.5, 0.5, 0.5, 0.0],
        [1.0, 0.0005, 0.0, 1.0, ABSENT, 0.3, 0.3, 0.3],
    ):
        for threshold in (0.0, 0.5, 0.8, 1.0):
            check_soft(session, boxes, np.array([[row]], np.float32), threshold, method)


@pytest.mark.parametrize("shape", SHAPES)
def test_iou_guided_body_equals_the_operator(guided_session: Any, shape: tuple[int, int, int]) -> None:
    for seed in range(3):
        boxes, scores, ious = crowd(shape, seed)
        for threshold in (0.01, 0.3, 0.5, 1.0):
            check_guided(guided_session, boxes, scores, ious, threshold)


def test_iou_guided_degenerate_cases(guided_session: Any) -> None:
    boxes = np.array([GRID], np.float32)
    for ious in ([0.5] * 8, [0.0] * 8, [0.1, 0.9, 0.9, 0.3, 0.3, 0.2, 1.0, 0.5]):
        for row in ([0.5] * 8, [ABSENT] * 8, [0.25, ABSENT, 0.75, 0.5, 0.5, 0.0, 1.0, ABSENT]):
            scores = np.array([[row, row[::-1]]], np.float32)
            for threshold in (0.4, 0.5, 0.8, 1.0):
                check_guided(guided_session, boxes, scores, np.array([ious], np.float32), threshold)


def test_iou_guided_hands_the_best_score_to_the_best_located(guided_session: Any) -> None:
    boxes, ious = np.array([GRID[:2]], np.float32), np.array([[0.6, 0.9]], np.float32)
    taken = check_guided(guided_session, boxes, np.array([[[0.75, 0.5]]], np.float32), ious, 0.5)
    assert taken.tolist() == [[[ABSENT, 0.75]]]
