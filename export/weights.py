"""One external weights file for all graphs of an artifact, each tensor once; float16 storage on request.

float16 is a storage format here: a Cast behind each stored tensor gives the graph float32 again, and
runtimes fold it while they load. Only a tensor that float16 holds exactly is stored so;
`model.checkpoint.round_to_half` makes the torch model's weights such tensors, which keeps "what is
exported" and "what parity compares with" the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from export.weight_names import HALF

WEIGHTS_FILE = "weights.bin"
HALF_MIN_ELEMENTS = (
    1024  # smaller tensors (biases, statistics, anchors) cost nothing and keep their precision
)
_EXTERNAL_MIN_BYTES = 1024  # smaller ones stay inside the graph, where shape inference can see them
_ALIGNMENT = 64


@dataclass(frozen=True)
class WeightsReport:
    """What `store_weights` wrote: size of the file, tensors in it, and bytes that sharing saved."""

    bytes_written: int
    tensors: int
    bytes_shared: int
    half_tensors: int


def store_weights(graphs: Mapping[str, onnx.ModelProto], folder: Path, *, half: bool) -> WeightsReport:
    """Write `folder/NAME` for each graph and `folder/weights.bin` for them all; changes the protos."""
    halved = sum(_halve(model) for model in graphs.values()) if half else 0
    seen: dict[bytes, tuple[int, int]] = {}
    shared = 0
    with (folder / WEIGHTS_FILE).open("wb") as stream:
        for model in graphs.values():
            for tensor in _initializers(model):
                shared += _move_outside(tensor, stream, seen)
        written = stream.tell()
    for name, model in graphs.items():
        (folder / name).write_bytes(model.SerializeToString())
    return WeightsReport(written, len(seen), shared, halved)


def _initializers(model: onnx.ModelProto) -> list[TensorProto]:
    return list(model.graph.initializer)


def _move_outside(tensor: TensorProto, stream: BinaryIO, seen: dict[bytes, tuple[int, int]]) -> int:
    """Point `tensor` into the weights file, writing its bytes if they are new; returns the bytes spared."""
    if tensor.data_type == TensorProto.STRING:
        return 0
    data = _little_endian(numpy_helper.to_array(tensor)).tobytes()
    if len(data) < _EXTERNAL_MIN_BYTES:
        return 0
    digest = hashlib.sha256(data).digest()
    spared = len(data) if digest in seen else 0
    if not spared:
        stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
        seen[digest] = (stream.tell(), len(data))
        stream.write(data)
    offset, length = seen[digest]
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
    tensor.raw_data = b""
    external_data_helper.set_external_data(tensor, WEIGHTS_FILE, offset=offset, length=length)
    tensor.ClearField("raw_data")
    return spared


def _halve(model: onnx.ModelProto) -> int:
    """Store as float16, with a Cast back, each large float32 initializer that float16 holds exactly."""
    casts = []
    for tensor in _initializers(model):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) <= HALF_MIN_ELEMENTS:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float16)
        if not np.array_equal(narrow.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(narrow, name + HALF))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
        )
    # Nodes are kept in topological order: what every other node may read comes first.
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return len(casts)


def _little_endian(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values.astype(values.dtype.newbyteorder("<"), copy=False)
