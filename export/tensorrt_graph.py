"""A graph of an artifact as TensorRT takes it: no function bodies, its precision, bytes cast on arrival."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export.errors import ExportError
from export.onnx_ops import strip_functions
from export.onnx_precision import lower_precision
from hindsight.engines import Bucket

Shape = tuple[int, ...]
_PER_IMAGE = ("class_threshold", "score_threshold", "iou_weight", "num_boxes")


@dataclass(frozen=True)
class TensorRtGraph:
    """model: weights inside. plugin_layers: nodes that need a plugin. weight_files: where its weights lay."""

    model: onnx.ModelProto
    plugin_layers: int
    weight_files: tuple[str, ...]

    def profile(self, bucket: Bucket, least_side: int) -> dict[str, tuple[Shape, ...]]:
        """The least and the largest shape, the usual one, of every input with an open dimension."""
        least = self._input_shapes(replace(bucket, height=least_side, width=least_side))
        largest = self._input_shapes(bucket)
        return {name: (least[name], largest[name]) for name in largest}

    def _input_shapes(self, bucket: Bucket) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {
            "images": (bucket.batch, bucket.height, bucket.width, 3),
            "image_sizes": (bucket.batch, 2),
            **{name: (bucket.batch,) for name in _PER_IMAGE},
        }
        if bucket.boxes is not None:
            shapes["boxes"] = (bucket.batch, bucket.boxes, 4)
        return {name: shapes[name] for name in self._open_inputs()}

    def _open_inputs(self) -> list[str]:
        return [
            item.name
            for item in self.model.graph.input
            if not all(side.HasField("dim_value") for side in item.type.tensor_type.shape.dim)
        ]


def tensorrt_graph(path: Path, precision: str) -> TensorRtGraph:
    """Load `path` and make it ready for TensorRT in memory; precision: fp32, fp16 or bf16.

    Raises ExportError where it cannot be read or does not fit the precision.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        weight_files = _weight_files(model)
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # protobuf's and onnx's own errors have no common base but Exception
        raise ExportError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    plugin_layers = strip_functions(model)
    if precision != "fp32":
        lower_precision(model, precision)
    _cast_byte_inputs(model.graph)
    return TensorRtGraph(model, plugin_layers, weight_files)


def _weight_files(model: onnx.ModelProto) -> tuple[str, ...]:
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    return tuple(sorted({entry.value for entry in entries if entry.key == "location"}))


def _cast_byte_inputs(graph: onnx.GraphProto) -> None:
    """TensorRT does nothing with uint8 but cast it: the first node turns the bytes into float32."""
    for item in graph.input:
        if item.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        wide = f"{item.name}.float"
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == item.name:
                    node.input[place] = wide
        cast = helper.make_node("Cast", [item.name], [wide], name=f"{wide}/cast", to=TensorProto.FLOAT)
        graph.node.insert(0, cast)
