"""MultilevelRoiAlign1 to 6: one launch of model/kernels/roi_align.cu.

Shapes: L levels, B images, N boxes an image, C channels, s output size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from export.plugins.python.attributes import Kinds
from export.plugins.python.operator import (
    FLOAT,
    LINEAR,
    Sizes,
    Tensor,
    Value,
    Work,
    check_addresses,
    check_count,
    check_rank,
    check_same,
    check_size,
)
from model.kernels.params import SIDE_PER_STRIDE, RoiAlignLaunch, RoiAlignParams, roi_align_launch

MAX_LEVELS = 6  # as many as there are ONNX operators; the kernel takes more
MAX_ELEMENTS = 2**31 - 1  # of a map, an image: the kernel counts in 32 bits
# By the type of the maps: the kernel's name for it, its bytes, its channels-last format, and the channels
# that format pads to.
_SHORT = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16"}
_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2}
CHANNELS_LAST = {"FLOAT": "HWC", "HALF": "HWC8", "BF16": "HWC8"}
_PADDED_TO = {"HWC": 1, "HWC8": 8}


def roi_align_name(levels: int) -> str:
    """Name of the operator over `levels` maps."""
    return f"MultilevelRoiAlign{levels}"


class RoiAlign:
    """rois float32 [B, N, 4], L maps [B, C, h, w] -> [B * N, C, s, s] of the maps' type."""

    source: ClassVar[str] = "roi_align"
    kinds: ClassVar[Kinds] = {"strides": tuple, "output_size": int, "sampling_ratio": int, "aligned": int}

    def __init__(self, levels: int, values: Mapping[str, Value]) -> None:
        self.name = roi_align_name(levels)
        self.inputs = ("rois", *(f"feature_{level}" for level in range(levels)))
        self.outputs = ("pooled",)
        self.strides = _integers(values["strides"])
        self.output_size = _integer(values["output_size"])
        self.sampling_ratio = _integer(values["sampling_ratio"])
        self.aligned = _integer(values["aligned"])
        if len(self.strides) != levels or any(stride < 1 for stride in self.strides):
            raise ValueError(f"{self.name}: expected {levels} positive strides, got {list(self.strides)}")
        if any(after != 2 * before for before, after in zip(self.strides, self.strides[1:], strict=False)):
            raise ValueError(f"{self.name}: expected strides that double, got {list(self.strides)}")
        if self.output_size < 1:
            raise ValueError(f"{self.name}: expected output_size of 1 or more, got {self.output_size}")
        if self.sampling_ratio < 0:
            raise ValueError(f"{self.name}: expected sampling_ratio of 0 or more, got {self.sampling_ratio}")
        if self.aligned not in (0, 1):
            raise ValueError(f"{self.name}: expected aligned to be 0 or 1, got {self.aligned}")

    def attributes(self) -> Mapping[str, Value]:
        return {
            "strides": self.strides,
            "output_size": self.output_size,
            "sampling_ratio": self.sampling_ratio,
            "aligned": self.aligned,
        }

    def output_types(self, types: Sequence[str]) -> list[str]:
        check_count(self.name, self.inputs, types)
        rois, *features = types
        if rois != FLOAT:
            raise ValueError(f"{self.name}: expected rois of type FLOAT, got {rois}")
        if features[0] not in _SHORT or any(feature != features[0] for feature in features):
            raise ValueError(
                f"{self.name}: expected maps of one type, FLOAT, HALF or BF16, got {', '.join(features)}"
            )
        return [features[0]]

    def output_shapes(self, shapes: Sequence[Sequence[Any]], sizes: Sizes) -> list[list[Any]]:
        rois, *features = shapes
        check_rank(self.name, "rois", rois, 3, "[B, N, 4]")
        check_size(self.name, sizes, "the last size of rois", rois[2], 4)
        for level, feature in enumerate(features):
            check_rank(self.name, f"feature_{level}", feature, 4, "[B, C, h, w]")
            check_same(self.name, sizes, f"images of rois and feature_{level}", rois[0], feature[0])
            check_same(
                self.name, sizes, f"channels of feature_0 and feature_{level}", features[0][1], feature[1]
            )
        side = sizes.constant(self.output_size)
        return [[sizes.product(rois[0], rois[1]), features[0][1], side, side]]

    def supports(self, position: int, tensors: Sequence[Tensor]) -> bool:
        tensor = tensors[position]
        if position == 0:
            return (tensor.dtype, tensor.format) == (FLOAT, LINEAR)
        if position == 1:
            return tensor.dtype in _SHORT and tensor.format in self._formats(tensor)
        if position == len(self.inputs):
            return (tensor.dtype, tensor.format) == (tensors[1].dtype, LINEAR)
        return (tensor.dtype, tensor.format) == (tensors[1].dtype, tensors[1].format)

    def _formats(self, feature: Tensor) -> tuple[str, ...]:
        """Formats to offer. Of 16-bit maps that the fast kernel takes only its own: builders that measure
        nothing (TensorRT-RTX without a GPU) would take the other, and turning a map over costs less than
        pooling it slowly. Both in float32: not every layer of an engine writes it channels-last.
        """
        both = (LINEAR, CHANNELS_LAST[feature.dtype])
        known = len(feature.shape) == 4 and feature.shape[1] > 0
        if feature.dtype == FLOAT or not known or self._vector((1, 1, feature.shape[1]), feature) is None:
            return both
        return both[1:]

    def workspace_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        return 0

    def plan(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Work | None:
        rois, *features = inputs
        (output,) = outputs
        if output.volume == 0:
            return None
        images, boxes = rois.shape[:2]
        channels = features[0].shape[1]
        params = RoiAlignParams(
            levels=len(features),
            rois_per_image=boxes,
            channels=channels,
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            if feature.shape[:2] != (images, channels) or feature.volume == 0:
                expected = f"[{images}, {channels}, h, w]"
                raise ValueError(
                    f"{self.name}: expected feature_{level} {expected}, got {list(feature.shape)}"
                )
            _describe_level(params, level, feature, stride)
        layout, chosen = self._layout(features[0], (images, boxes, channels))
        params.channels_per_block = chosen.channels_per_block
        short = _SHORT[features[0].dtype]
        return Work(f"roi_align_{layout}_{short}_{short}", params, chosen)

    def bind(
        self, params: RoiAlignParams, inputs: Sequence[int], outputs: Sequence[int], workspace: int
    ) -> None:
        check_addresses(self.name, (*self.inputs, *self.outputs), (*inputs, *outputs))
        params.rois = inputs[0]
        for level, address in enumerate(inputs[1:]):
            params.features[level] = address
        params.output = outputs[0]

    def _layout(self, feature: Tensor, sizes: tuple[int, int, int]) -> tuple[str, RoiAlignLaunch]:
        """The kernel for channels-last maps where they are and it takes them."""
        width = _BYTES[feature.dtype]
        if feature.format != LINEAR and (vector := self._vector(sizes, feature)) is not None:
            return "vector", vector
        strided = roi_align_launch(*sizes, self.output_size, width, width, vector=False)
        assert strided is not None  # the strided kernel takes everything
        return "strided", strided

    def _vector(self, sizes: tuple[int, int, int], feature: Tensor) -> RoiAlignLaunch | None:
        """`sizes`: images, boxes, channels."""
        width = _BYTES[feature.dtype]
        return roi_align_launch(*sizes, self.output_size, width, width, vector=True)


def _describe_level(params: RoiAlignParams, level: int, feature: Tensor, stride: int) -> None:
    _, channels, height, width = feature.shape
    if feature.format == LINEAR:
        elements = channels * height * width
        steps = (height * width, width, 1)
    else:
        pad = _PADDED_TO[feature.format]
        padded = -(-channels // pad) * pad
        elements = padded * height * width
        steps = (1, width * padded, padded)
    if elements > MAX_ELEMENTS:
        raise ValueError(f"feature_{level} has more elements an image than the kernel can count: {elements}")
    params.image_strides[level] = elements
    params.channel_strides[level], params.row_strides[level], params.column_strides[level] = steps
    params.heights[level], params.widths[level] = height, width
    params.scales[level] = 1.0 / stride
    params.least_sides[level] = SIDE_PER_STRIDE * stride


def _integer(value: Value) -> int:
    assert isinstance(value, int)  # attributes.read has checked
    return value


def _integers(value: Value) -> tuple[int, ...]:
    assert isinstance(value, tuple)
    return value
