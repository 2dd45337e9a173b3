"""The dense part of a graph in float16 or bfloat16; boxes, scores and every decision stay in float32.

TensorRT takes each tensor's type from the graph, so this is where precision is chosen. Convolutions, matrix
products and RoI-Align become narrow, and so does what lies between them: a node that passes numbers on
(activation, pooling, addition, reshaping), takes only what narrow nodes made, and feeds one. All else keeps
float32: image normalisation before the first convolution, and after the last product of a branch the
decoding of boxes, softmax and sigmoid of what is reported, top-k, suppression. RoI-Align's boxes are float32
whatever its features are. So casts stand at the borders only.

A value `x` lives under its own name in float32 and as `x.narrow` in the narrow type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.onnx_domain import DOMAIN

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

# Which inputs of an operator have the type of its output; None: all of them.
_PRODUCTS: dict[str, tuple[int, ...] | None] = {
    "Conv": None,
    "ConvTranspose": None,
    "Gemm": None,
    "MatMul": None,
}
_BETWEEN: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Concat", "Clip", "PRelu")),
    **dict.fromkeys(
        ("Relu", "LeakyRelu", "Elu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"), (0,)
    ),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "Resize"), (0,)),
    **dict.fromkeys(("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Identity"), (0,)),
    **dict.fromkeys(("Slice", "Gather", "GatherElements", "GatherND", "Split"), (0,)),
    "Pad": (0, 2),
}
_ROI_ALIGN = "MultilevelRoiAlign"
_BFLOAT16_OPSET = 22
_ANY_TYPE = frozenset({"Shape", "Size"})  # they read no numbers, so narrow ones need no cast for them


@dataclass(frozen=True)
class Lowered:
    """What `lower_precision` did: nodes that are narrow now, and casts between them and float32."""

    narrow_nodes: int
    casts: int


def lower_precision(model: onnx.ModelProto, precision: str) -> Lowered:
    """Make the dense part of `model` fp16 or bf16, in place. Its weights must be loaded.

    A bf16 graph is said to be of opset 22, the first whose Conv knows that type. Raises ExportError where a
    weight does not fit into float16, or the graph has no dense part; ValueError for another precision.
    """
    if precision not in TYPES:
        raise ValueError(f"precision must be one of {', '.join(TYPES)}, got {precision!r}")
    graph = model.graph
    _split_batch_norms(graph)
    constants = _constants(graph)
    narrow = _narrow_nodes(graph, constants)
    if not narrow:
        raise ExportError("the graph has no convolution and no matrix product to make narrow")
    rewriter = _Rewriter(graph, constants, narrow, precision)
    nodes = list(rewriter.nodes())
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(rewriter.new_constants)
    _drop_unused(graph)
    if precision == "bf16":
        _raise_opset(model, _BFLOAT16_OPSET)
    return Lowered(len(narrow), rewriter.casts)


def narrow_inputs(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node that may be narrow which have the type of its output; empty for other nodes."""
    if node.domain == DOMAIN and node.op_type.startswith(_ROI_ALIGN):
        return list(node.input)[1:]  # the first are the boxes
    kinds = _PRODUCTS | _BETWEEN
    if node.domain != "" or node.op_type not in kinds:
        return []
    places = kinds[node.op_type]
    return [name for place, name in enumerate(node.input) if name and (places is None or place in places)]


def _is_product(node: onnx.NodeProto) -> bool:
    return (node.domain == "" and node.op_type in _PRODUCTS) or (
        node.domain == DOMAIN and node.op_type.startswith(_ROI_ALIGN)
    )


def _narrow_nodes(graph: onnx.GraphProto, constants: dict[str, NDArray[np.float32]]) -> set[int]:
    """Places in graph.node of the nodes to make narrow: products, and what leads from one to another."""
    made_narrow: set[str] = set()  # values that come of products alone
    candidates: set[int] = set()
    for place, node in enumerate(graph.node):
        inputs = [name for name in narrow_inputs(node) if name not in constants]
        if _is_product(node) or (inputs and made_narrow.issuperset(inputs)):
            candidates.add(place)
            made_narrow.update(node.output)
    narrow: set[int] = set()
    wanted: set[str] = set()  # values that a narrow node reads
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if place in candidates and (_is_product(node) or not wanted.isdisjoint(node.output)):
            narrow.add(place)
            wanted.update(narrow_inputs(node))
    return narrow


class _Rewriter:
    """Gives the nodes again, narrow ones on `.narrow` values, with a cast wherever a value changes sides."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        constants: dict[str, NDArray[np.float32]],
        narrow: set[int],
        precision: str,
    ) -> None:
        self._graph, self._constants, self._narrow = graph, constants, narrow
        self._precision = precision
        self._available: set[str] = set()  # values that exist as `.narrow`
        self._needed_wide = _read_in_float32(graph, narrow)
        self.new_constants: list[TensorProto] = []
        self.casts = 0

    def nodes(self) -> Iterator[onnx.NodeProto]:
        for place, node in enumerate(self._graph.node):
            if place in self._narrow:
                yield from self._narrow_node(node)
            else:
                if node.op_type in _ANY_TYPE and node.input[0] in self._available - self._needed_wide:
                    node.input[0] = _narrow_name(node.input[0])
                yield node

    def _narrow_node(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        taken = set(narrow_inputs(node))
        for name in taken - self._available:
            self._available.add(name)
            if name in self._constants:
                self.new_constants.append(self._narrow_constant(name))
            else:
                yield self._cast(name, _narrow_name(name), TYPES[self._precision])
        # RoI-Align's boxes never share a name with its features, so renaming by name is safe.
        inputs = [_narrow_name(name) if name in taken else name for name in node.input]
        outputs = list(node.output)
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(_narrow_name(name) for name in outputs)
        yield node
        for name in outputs:
            self._available.add(name)
            if name in self._needed_wide:
                yield self._cast(_narrow_name(name), name, TensorProto.FLOAT)

    def _cast(self, source: str, target: str, kind: int) -> onnx.NodeProto:
        self.casts += 1
        return helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=kind)

    def _narrow_constant(self, name: str) -> TensorProto:
        values = self._constants[name]
        if self._precision == "bf16":
            narrow = _bfloat16_bits(values).tobytes()
        else:
            with np.errstate(over="ignore"):
                halves = values.astype("<f2")
            if np.isinf(halves).any():
                raise ExportError(f"{name} does not fit into float16: build with bf16 or fp32")
            narrow = halves.tobytes()
        return helper.make_tensor(_narrow_name(name), TYPES[self._precision], values.shape, narrow, raw=True)


def _read_in_float32(graph: onnx.GraphProto, narrow: set[int]) -> set[str]:
    """Values that something reads in float32: other nodes, the bodies of other nodes, the graph's outputs."""
    read = {output.name for output in graph.output}
    for place, node in enumerate(graph.node):
        if place in narrow:
            kept = set(narrow_inputs(node))
            read.update(name for name in node.input if name not in kept)
        elif node.op_type not in _ANY_TYPE:
            read.update(node.input)
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                read.update(_names_read_in(body))
    return read


def _names_read_in(body: onnx.GraphProto) -> set[str]:
    names = {output.name for output in body.output}
    for node in body.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                names |= _names_read_in(inner)
    return names


def _raise_opset(model: onnx.ModelProto, version: int) -> None:
    """Nothing but admissible types was added from our opset to this one for the operators we use."""
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, version)


def _narrow_name(name: str) -> str:
    return f"{name}.narrow"


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.float32]]:
    """Every float32 constant by name: initializers, and what is cast from one (weights stored as float16)."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found = {
        name: numpy_helper.to_array(tensor)
        for name, tensor in stored.items()
        if tensor.data_type == TensorProto.FLOAT
    }
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored and _target(node) == TensorProto.FLOAT:
            found[node.output[0]] = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
    return found


def _target(cast: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in cast.attribute if attribute.name == "to")


def _split_batch_norms(graph: onnx.GraphProto) -> None:
    """A batch norm with constant statistics as a product and a sum: its variance would suffer as float16."""
    constants = _constants(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        statistics = [constants.get(name) for name in node.input[1:]]
        if node.op_type != "BatchNormalization" or any(value is None for value in statistics):
            nodes.append(node)
            continue
        weight, bias, mean, variance = (np.asarray(value, np.float64) for value in statistics)
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        factor = weight / np.sqrt(variance + epsilon)
        output = node.output[0]
        product, scale, shift = (f"{output}/{part}" for part in ("scaled", "scale", "shift"))
        for name, values in ((scale, factor), (shift, bias - mean * factor)):
            by_channel = values.astype(np.float32).reshape(-1, 1, 1)
            graph.initializer.append(numpy_helper.from_array(by_channel, name))
        nodes.append(helper.make_node("Mul", [node.input[0], scale], [product], name=product))
        nodes.append(helper.make_node("Add", [product, shift], [output], name=output))
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove weights, and casts of weights, that only narrow nodes used to read."""
    read = _read_in_float32(graph, set()) | {name for node in graph.node for name in node.input}
    stored = {tensor.name for tensor in graph.initializer}
    nodes = [
        node
        for node in graph.node
        if not (node.op_type == "Cast" and node.input[0] in stored and node.output[0] not in read)
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    read = _read_in_float32(graph, set()) | {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to the nearest, ties to even; finite values only, as weights are."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
