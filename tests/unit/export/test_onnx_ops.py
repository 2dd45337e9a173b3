"""The ONNX bodies of our operators, run by stock ONNX Runtime, against slow numpy references written here."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export import onnx_nms, onnx_ops

FloatArray = NDArray[np.float32]


def session_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[str]], output: onnx.ValueInfoProto
) -> onnxruntime.InferenceSession:
    graph = helper.make_graph(
        nodes,
        "one_operator",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()],
        [output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnx_ops.OPSET)], ir_version=10)
    onnx_ops.attach_functions(model)
    onnx_ops.register_schemas()
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def roi_align_session(strides: Sequence[int], output_size: int, sampling_ratio: int, aligned: bool) -> Any:
    features = [f"feature_{level}" for level in range(len(strides))]
    node = helper.make_node(
        onnx_ops.roi_align_name(len(strides)),
        ["rois", *features],
        ["pooled"],
        domain=onnx_ops.DOMAIN,
        strides=list(strides),
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=int(aligned),
        **onnx_ops.PLUGIN_ATTRIBUTES,
    )
    inputs = {"rois": ["B", "N", "4"]}
    inputs |= {name: ["B", "C", f"h{level}", f"w{level}"] for level, name in enumerate(features)}
    return session_of(
        [node], inputs, helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["M", "C", "s", "s"])
    )


def bilinear(plane: FloatArray, y: float, x: float) -> float:
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    y, x = (top if top == height - 1 else y), (left if left == width - 1 else x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = plane[top, left] * (1 - across) + plane[top, right] * across
    lower = plane[bottom, left] * (1 - across) + plane[bottom, right] * across
    return float(upper * (1 - down) + lower * down)


def slow_roi_align(
    features: list[FloatArray], rois: FloatArray, strides: Sequence[int], size: int, ratio: int, aligned: bool
) -> FloatArray:
    pooled = []
    first, last = int(math.log2(strides[0])), int(math.log2(strides[-1]))
    for image, boxes in enumerate(rois):
        for x1, y1, x2, y2 in boxes.tolist():
            area = max((x2 - x1) * (y2 - y1), 0.0)
            wanted = math.floor(4 + math.log2(math.sqrt(area) / 224) + 1e-6) if area > 0 else first
            level = min(max(wanted, first), last) - first
            stride, shift = strides[level], 0.5 if aligned else 0.0
            left, top = x1 / stride - shift, y1 / stride - shift
            width, height = (x2 - x1) / stride, (y2 - y1) / stride
            if not aligned:
                width, height = max(width, 1.0), max(height, 1.0)
            across = ratio if ratio > 0 else math.ceil(width / size)
            down = ratio if ratio > 0 else math.ceil(height / size)
            box = np.zeros((features[level].shape[1], size, size), np.float32)
            for channel, plane in enumerate(features[level][image]):
                for row in range(size):
                    for column in range(size):
                        total = 0.0
                        for i in range(down):
                            for j in range(across):
                                y = top + height / size * (row + (i + 0.5) / down)
                                x = left + width / size * (column + (j + 0.5) / across)
                                total += bilinear(plane, y, x)
                        box[channel, row, column] = total / max(down * across, 1)
            pooled.append(box)
    return np.stack(pooled) if pooled else np.zeros((0, features[0].shape[1], size, size), np.float32)


def feature_maps(
    rng: np.random.Generator, strides: Sequence[int], batch: int, hw: tuple[int, int]
) -> list[FloatArray]:
    shapes = [(batch, 2, hw[0] // stride, hw[1] // stride) for stride in strides]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def random_boxes(
    rng: np.random.Generator, batch: int, count: int, hw: tuple[int, int], largest: float
) -> FloatArray:
    corner = rng.uniform(-20, 1, (batch, count, 2)) + rng.uniform(0, 1, (batch, count, 2)) * (hw[1], hw[0])
    sides = np.exp(rng.uniform(np.log(2), np.log(largest), (batch, count, 2)))
    return np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("strides", [(16,), (8, 16, 32), (4, 8, 16, 32)])
def test_roi_align_body_equals_the_reference(
    strides: tuple[int, ...], sampling_ratio: int, aligned: bool
) -> None:
    session = roi_align_session(strides, 3, sampling_ratio, aligned)
    for seed, (batch, hw, largest) in enumerate(
        [(2, (128, 192), 300.0), (1, (64, 64), 60.0), (3, (96, 32), 1500.0)]
    ):
        rng = np.random.default_rng(seed)
        features = feature_maps(rng, strides, batch, hw)
        rois = random_boxes(rng, batch, 7, hw, largest)
        feeds = {f"feature_{level}": feature for level, feature in enumerate(features)}
        (found,) = session.run(None, {"rois": rois, **feeds})
        expected = slow_roi_align(features, rois, strides, 3, sampling_ratio, aligned)
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_roi_align_accepts_empty_levels_degenerate_boxes_and_no_boxes() -> None:
    strides = (8, 16, 32)
    session = roi_align_session(strides, 2, 2, False)
    features = feature_maps(np.random.default_rng(0), strides, 2, (64, 64))
    feeds = {f"feature_{level}": feature for level, feature in enumerate(features)}
    point, whole = [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 64.0, 64.0]
    line, outside = [0.0, 3.0, 64.0, 3.0], [500.0, 500.0, 600.0, 600.0]
    for rows in ([point, point], [whole, outside], [line, point]):
        rois = np.array([rows, rows[::-1]], np.float32)
        (found,) = session.run(None, {"rois": rois, **feeds})
        np.testing.assert_allclose(found, slow_roi_align(features, rois, strides, 2, 2, False), atol=1e-5)
    (found,) = session.run(None, {"rois": np.zeros((2, 0, 4), np.float32), **feeds})
    assert found.shape == (0, 2, 2, 2)


def test_level_changes_exactly_at_powers_of_two() -> None:
    strides = (8, 16, 32, 64)
    session = roi_align_session(strides, 1, 1, False)
    features = [
        np.full((1, 1, 1024 // stride, 1024 // stride), level, np.float32)
        for level, stride in enumerate(strides)
    ]
    feeds = {f"feature_{level}": feature for level, feature in enumerate(features)}
    sides = [111.99, 112, 223.99, 224, 447.99, 448, 895.99, 896]
    rois = np.array([[[1, 1, 1 + side, 1 + side] for side in sides]], np.float32)
    (found,) = session.run(None, {"rois": rois, **feeds})
    assert found.ravel().tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def nms_session() -> Any:
    node = helper.make_node(
        onnx_nms.NMS_NAME,
        ["boxes", "scores", "threshold"],
        ["keep"],
        domain=onnx_ops.DOMAIN,
        **onnx_ops.PLUGIN_ATTRIBUTES,
    )
    inputs = {"boxes": ["G", "N", "4"], "scores": ["G", "K", "N"], "threshold": ["1"]}
    return session_of(
        [node], inputs, helper.make_tensor_value_info("keep", TensorProto.BOOL, ["G", "K", "N"])
    )


def slow_nms(boxes: FloatArray, scores: FloatArray, threshold: float) -> NDArray[np.bool_]:
    keep = np.zeros(scores.shape, bool)
    for group, klass in np.ndindex(*scores.shape[:2]):
        kept: list[int] = []
        for candidate in np.argsort(-scores[group, klass], kind="stable").tolist():
            if scores[group, klass, candidate] == -np.inf:
                continue
            if all(pair_iou(boxes[group, candidate], boxes[group, other]) <= threshold for other in kept):
                kept.append(candidate)
        keep[group, klass, kept] = True
    return keep


def pair_iou(first: FloatArray, second: FloatArray) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    overlap = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - overlap
    return overlap / union if union > 0 else 0.0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.85])
@pytest.mark.parametrize("shape", [(3, 1, 60), (1, 4, 40), (2, 3, 1)])
def test_nms_body_equals_the_reference_on_logits(shape: tuple[int, int, int], threshold: float) -> None:
    session = nms_session()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, shape[0], shape[2], (60, 60), 40.0)
        scores = rng.normal(-8, 3, shape).astype(np.float32)
        scores[rng.random(shape) < 0.2] = -np.inf
        (keep,) = session.run(
            None, {"boxes": boxes, "scores": scores, "threshold": np.array([threshold], np.float32)}
        )
        np.testing.assert_array_equal(keep, slow_nms(boxes, scores, threshold))


def test_nms_degenerate_cases() -> None:
    session = nms_session()

    def keep_of(boxes: Any, scores: Any, threshold: float = 0.5) -> list[Any]:
        feeds = {"boxes": np.asarray([boxes], np.float32), "scores": np.asarray([[scores]], np.float32)}
        (keep,) = session.run(None, feeds | {"threshold": np.array([threshold], np.float32)})
        return list(keep[0, 0])

    box, point = [0, 0, 10, 10], [3, 3, 3, 3]
    assert keep_of([box], [-50.0]) == [True]
    assert keep_of([box], [-np.inf]) == [False]
    assert keep_of([box, box, box], [0.0, 0.0, 0.0]) == [True, False, False]
    assert keep_of([box, box, box], [1.0, 3.0, 2.0]) == [False, True, False]
    assert keep_of([box, box], [1.0, 2.0], threshold=1.0) == [True, True]
    assert keep_of([point, point, box], [1.0, 2.0, 3.0]) == [True, True, True]
    assert keep_of(np.zeros((0, 4)), np.zeros(0)) == []


def test_bodies_can_be_stripped_for_engines_with_plugins() -> None:
    node = helper.make_node(onnx_nms.NMS_NAME, ["b", "s", "t"], ["keep"], domain=onnx_ops.DOMAIN)
    model = helper.make_model(helper.make_graph([node], "graph", [], []))
    onnx_ops.attach_functions(model)
    onnx_ops.attach_functions(model)
    assert [function.name for function in model.functions] == [onnx_nms.NMS_NAME]
    assert onnx_ops.strip_functions(model) == 1
    assert not model.functions


def test_roi_align_over_too_many_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 6 feature levels, got 7"):
        onnx_ops.roi_align_name(7)
