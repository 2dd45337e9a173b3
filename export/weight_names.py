"""Which tensor of a graph is which weight of the detector, so that torch can take them back (rebuild.py).

The exporter names a weight as the traced module's state dict does. It also keeps one of several equal tensors
and drops the names of the others (fresh biases are all zero, for one): those names are written into the
graph's metadata, as JSON, from a weight's name to the tensor that holds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor

PREFIX = "detector."  # the detector's place in the modules that export/graphs.py traces
HALF = ".half"  # weights.py's mark of a tensor that is stored as float16
_KEY = "hindsight.weights"
_READERS_OF_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})


def write_names(model: onnx.ModelProto, state: Mapping[str, Tensor]) -> None:
    """Note in `model`, its weights still inside, where each weight of `state` is that lost its name."""
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    by_value = {_digest(numpy_helper.to_array(tensor)): tensor.name for tensor in reversed(tensors)}
    named = {tensor.name for tensor in tensors}
    elsewhere = {
        name: by_value[digest]
        for name, values in state.items()
        if PREFIX + name not in named
        and values.is_floating_point()
        and (digest := _digest(values.detach().cpu().float().numpy())) in by_value
    }
    model.metadata_props.add(key=_KEY, value=json.dumps(elsewhere))


def named_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """(weight's name, its tensor) of every weight in the graph; one tensor may come under two names."""
    tensors = {tensor.name.removesuffix(HALF): tensor for tensor in model.graph.initializer}
    for name, tensor in tensors.items():
        if name.startswith(PREFIX):
            yield name.removeprefix(PREFIX), tensor
    for name, other in (_elsewhere(model) or {}).items():
        yield name, tensors[other]


def tells_every_name(model: onnx.ModelProto) -> bool:
    """Whether a weight that `named_tensors` does not give is one that the graph does not read.

    False for graphs older than `write_names`: there it may have been dropped for an equal one.
    """
    return _elsewhere(model) is not None


def nameless_weight(model: onnx.ModelProto) -> str | None:
    """A weight that an optimiser has merged or turned, and so renamed: nobody can tell whose it is."""
    graph = model.graph
    known = set((_elsewhere(model) or {}).values())
    names = {tensor.name.removesuffix(HALF) for tensor in graph.initializer}
    nameless = {name for name in names - known if not name.startswith(PREFIX)}
    for node in graph.node:
        if node.op_type in _READERS_OF_WEIGHTS and (found := nameless.intersection(node.input[1:])):
            return f"{min(found)} of {node.op_type} {node.name}"
    return None


def _elsewhere(model: onnx.ModelProto) -> dict[str, str] | None:
    for entry in model.metadata_props:
        if entry.key == _KEY:
            names = json.loads(entry.value)
            return {str(name): str(other) for name, other in names.items()}
    return None


def _digest(values: NDArray[np.generic]) -> tuple[tuple[int, ...], bytes]:
    return values.shape, hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()
