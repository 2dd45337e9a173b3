"""The graphs of the tiny model that factories.py describes, node by node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

TILE = 32
INTEGRITY = 0.8
_OPSET = 20
_IR_VERSION = 10


def detection_graph(localization: bool, capacity: int, masks: bool = False) -> onnx.ModelProto:
    """model.onnx of the tiny model. P: tiles of the padded image, row by row. A mask: the box's left half."""
    lines = _Lines()
    lines.shape_parts("images", ("B", "H", "W"))
    lines.masked_channels()  # "channels" [B, 3, H, W], zero outside image_sizes
    tiles = lines.add("AveragePool", "channels", kernel_shape=[TILE, TILE], strides=[TILE, TILE])
    # An edge tile's mean is over its valid part, so that the result does not depend on how far the image was
    # padded.
    share = lines.add("AveragePool", "valid_float", kernel_shape=[TILE, TILE], strides=[TILE, TILE])
    means = lines.add(
        "Div", lines.add("Div", tiles, lines.add("Max", share, lines.floats(1e-6))), lines.floats(255.0)
    )
    flat = lines.add("Reshape", means, lines.ints(0, 3, -1))
    class_scores = lines.add("ReduceMax", flat, lines.ints(1), keepdims=0)
    labels = lines.add("ArgMax", flat, axis=1, keepdims=0)
    iou = lines.iou(class_scores)
    boxes = lines.tile_boxes()
    if localization:
        weight = lines.add("Unsqueeze", "iou_weight", lines.ints(1))
        own = lines.add("Pow", class_scores, lines.add("Sub", lines.floats(1.0), weight))
        scores = lines.add("Mul", own, lines.add("Pow", iou, weight))
    else:
        scores = class_scores
    passes = lines.add(
        "GreaterOrEqual", class_scores, lines.add("Unsqueeze", "class_threshold", lines.ints(1))
    )
    reaches = lines.add("GreaterOrEqual", scores, lines.add("Unsqueeze", "score_threshold", lines.ints(1)))
    positive = lines.add("Greater", class_scores, lines.floats(0.0))
    kept = lines.add("And", lines.add("And", passes, reaches), positive)
    ranking = lines.add("Where", kept, scores, lines.floats(-1.0))
    # Pad with `capacity` refused rows, so that TopK always finds enough.
    padding = lines.ints(0, 0, 0, capacity)
    ranking = lines.add("Pad", ranking, padding, lines.scalar(-1.0))
    values, rows = lines.add_two("TopK", ranking, lines.ints(capacity))
    alive = lines.add("Greater", values, lines.floats(-0.5))
    alive_float = lines.add("Cast", alive, to=TensorProto.FLOAT)
    lines.name(
        "num_detections",
        "ReduceSum",
        lines.add("Cast", alive, to=TensorProto.INT64),
        lines.ints(1),
        keepdims=0,
    )

    def gathered(output: str, column: str) -> None:
        picked = lines.add("GatherElements", lines.add("Pad", column, padding), rows, axis=1)
        lines.name(output, "Mul", picked, alive_float)

    picked_boxes = lines.add(
        "GatherND",
        lines.add("Pad", boxes, lines.ints(0, 0, 0, 0, capacity, 0)),
        lines.add("Unsqueeze", rows, lines.ints(2)),
        batch_dims=1,
    )
    lines.name("boxes", "Mul", picked_boxes, lines.add("Unsqueeze", alive_float, lines.ints(2)))
    padded_labels = lines.add("GatherElements", lines.add("Pad", labels, padding), rows, axis=1)
    lines.name("labels", "Mul", padded_labels, lines.add("Cast", alive, to=TensorProto.INT64))
    gathered("scores", scores)
    gathered("class_scores", class_scores)
    outputs = [
        _value("num_detections", TensorProto.INT64, ["B"]),
        _value("boxes", TensorProto.FLOAT, ["B", capacity, 4]),
        _value("labels", TensorProto.INT64, ["B", capacity]),
    ]
    names = ["scores", "class_scores"]
    if localization:
        gathered("ious", iou)
        gathered("purities", class_scores)
        gathered("integrities", lines.constant_integrity(class_scores))
        names += ["ious", "purities", "integrities"]
    outputs += [_value(name, TensorProto.FLOAT, ["B", capacity]) for name in names]
    if masks:
        half = lines.add("Reshape", lines.floats(*(1, 1, 0, 0) * 4), lines.ints(1, 1, 4, 4))
        lines.name("masks", "Mul", lines.add("Unsqueeze", alive_float, lines.ints(2, 3)), half)
        outputs.append(_value("masks", TensorProto.FLOAT, ["B", capacity, 4, 4]))
    thresholds = [
        _value(name, TensorProto.FLOAT, ["B"])
        for name in ("class_threshold", "score_threshold", "iou_weight")
    ]
    return lines.model(
        [*_IMAGE_INPUTS, *thresholds, _value("nms_threshold", TensorProto.FLOAT, [1])], outputs
    )


def rescore_graph(class_count: int) -> onnx.ModelProto:
    """rescore.onnx of the tiny model: RoiAlign to one cell is the mean of the pixels in a box."""
    lines = _Lines()
    lines.shape_parts("images", ("B", "H", "W"))
    lines.masked_channels()
    count = lines.add("Gather", lines.add("Shape", "boxes"), lines.ints(1), axis=0)
    rois = lines.add("Reshape", "boxes", lines.ints(-1, 4))
    steps = lines.add("Range", lines.int_scalar(0), lines.add("Squeeze", "B"), lines.int_scalar(1))
    spread = lines.add(
        "Expand",
        lines.add("Unsqueeze", steps, lines.ints(1)),
        lines.add("Concat", lines.ints(1), count, axis=0),
    )
    batch = lines.add("Reshape", spread, lines.ints(-1))
    pooled = lines.add("RoiAlign", "channels", rois, batch, output_height=1, output_width=1, sampling_ratio=0)
    means = lines.add(
        "Div",
        lines.add("Reshape", pooled, lines.add("Concat", "B", count, lines.ints(3), axis=0)),
        lines.floats(255.0),
    )
    order = lines.add("Range", lines.int_scalar(0), lines.add("Squeeze", count), lines.int_scalar(1))
    real = lines.add(
        "Less",
        lines.add("Unsqueeze", order, lines.ints(0)),
        lines.add("Unsqueeze", "num_boxes", lines.ints(1)),
    )
    real_float = lines.add("Cast", real, to=TensorProto.FLOAT)
    purity = lines.add("Mul", lines.add("ReduceMax", means, lines.ints(2), keepdims=0), real_float)
    lines.name("purities", "Identity", purity)
    lines.name("integrities", "Mul", lines.constant_integrity(purity), real_float)
    lines.name("ious", "Identity", lines.iou(purity))
    classes = lines.add("Slice", means, lines.ints(0), lines.ints(min(3, class_count)), lines.ints(2))
    classes = lines.add("Pad", classes, lines.ints(0, 0, 0, 0, 0, max(0, class_count - 3)))
    lines.name("class_scores", "Mul", classes, lines.add("Unsqueeze", real_float, lines.ints(2)))
    inputs = [
        *_IMAGE_INPUTS,
        _value("boxes", TensorProto.FLOAT, ["B", "N", 4]),
        _value("num_boxes", TensorProto.INT64, ["B"]),
    ]
    outputs = [_value(name, TensorProto.FLOAT, ["B", "N"]) for name in ("ious", "purities", "integrities")]
    return lines.model(inputs, [*outputs, _value("class_scores", TensorProto.FLOAT, ["B", "N", class_count])])


class _Lines:
    """The nodes of a graph under construction; every method returns the name of the value it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers = [_external_integrity()]

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        return self.name(f"v{len(self.nodes)}", kind, *inputs, **attributes)

    def name(self, output: str, kind: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def add_two(self, kind: str, *inputs: str) -> tuple[str, str]:
        names = f"v{len(self.nodes)}", f"v{len(self.nodes)}_indices"
        self.nodes.append(helper.make_node(kind, list(inputs), list(names)))
        return names

    def constant(self, array: NDArray[np.generic]) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def floats(self, *values: float) -> str:
        return self.constant(np.array(values, np.float32))

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def int_scalar(self, value: int) -> str:
        return self.constant(np.array(value, np.int64))

    def shape_parts(self, tensor: str, names: Sequence[str]) -> None:
        shape = self.add("Shape", tensor)
        for axis, name in enumerate(names):
            self.name(name, "Gather", shape, self.ints(axis), axis=0)

    def positions(self, count: str, axes: Sequence[int], step: int = 1) -> str:
        """0, step, 2 step, ... below `count` int64 [1], with `axes` of length 1 put in; int64."""
        line = self.add("Range", self.int_scalar(0), self.add("Squeeze", count), self.int_scalar(step))
        return self.add("Unsqueeze", line, self.ints(*axes))

    def side(self, index: int, axes: Sequence[int]) -> str:
        """Column `index` of image_sizes, int64 [B] with `axes` put in."""
        column = self.add("Gather", "image_sizes", self.int_scalar(index), axis=1)
        return self.add("Unsqueeze", column, self.ints(*axes))

    def masked_channels(self) -> None:
        rows = self.add("Less", self.positions("H", (0, 1, 3)), self.side(0, (1, 2, 3)))
        columns = self.add("Less", self.positions("W", (0, 1, 2)), self.side(1, (1, 2, 3)))
        self.name("valid_float", "Cast", self.add("And", rows, columns), to=TensorProto.FLOAT)
        pixels = self.add("Transpose", self.add("Cast", "images", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
        self.name("channels", "Mul", pixels, "valid_float")

    def tile_boxes(self) -> str:
        """float [B, P, 4]: each tile, cut at the image's edge."""
        shape = self.add(
            "Concat",
            "B",
            self.add("Div", "H", self.ints(TILE)),
            self.add("Div", "W", self.ints(TILE)),
            axis=0,
        )
        top, left = self.positions("H", (0, 2), TILE), self.positions("W", (0, 1), TILE)
        height, width = self.side(0, (1, 2)), self.side(1, (1, 2))
        right = self.add("Min", self.add("Add", left, self.ints(TILE)), width)
        bottom = self.add("Min", self.add("Add", top, self.ints(TILE)), height)
        corners = [
            self.add("Unsqueeze", self.add("Expand", part, shape), self.ints(3))
            for part in (left, top, right, bottom)
        ]
        boxes = self.add("Reshape", self.add("Concat", *corners, axis=3), self.ints(0, -1, 4))
        return self.add("Cast", boxes, to=TensorProto.FLOAT)

    def constant_integrity(self, like: str) -> str:
        return self.add("Expand", "integrity", self.add("Shape", like))

    def iou(self, purity: str) -> str:
        """DIR Eq. (5) without the division by a zero purity: p i / (p + i - p i)."""
        product = self.add("Mul", purity, "integrity")
        return self.add("Div", product, self.add("Sub", self.add("Add", purity, "integrity"), product))

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "tiny", inputs, outputs, self.initializers)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
        )


def _external_integrity() -> onnx.TensorProto:
    """The one weight, kept in weights.bin as a real artifact keeps its own, and shared by both graphs."""
    tensor = TensorProto(
        name="integrity", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": "weights.bin", "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _value(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


_IMAGE_INPUTS = (
    _value("images", TensorProto.UINT8, ["B", "H", "W", 3]),
    _value("image_sizes", TensorProto.INT64, ["B", 2]),
)
