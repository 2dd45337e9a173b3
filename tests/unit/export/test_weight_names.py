"""Which tensor of a graph is which weight: names kept, names lost to an equal tensor, names lost for good."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from export.weight_names import named_tensors, nameless_weight, tells_every_name, write_names

WEIGHT = np.arange(4, dtype=np.float32).reshape(2, 2)


def graph_of(**initializers: np.ndarray) -> onnx.ModelProto:
    """x times each of the initializers; dots in their names are written as two underscores."""
    tensors = [numpy_helper.from_array(v, name.replace("__", ".")) for name, v in initializers.items()]
    nodes = [helper.make_node("MatMul", ["x", tensor.name], [f"y{i}"]) for i, tensor in enumerate(tensors)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [2, 2]) for i in range(len(nodes))]
    return helper.make_model(helper.make_graph(nodes, "g", [x], outputs, initializer=tensors))


def test_an_equal_weight_that_lost_its_name_is_found() -> None:
    model = graph_of(detector__a__weight=WEIGHT, other=WEIGHT + 1)
    assert not tells_every_name(model) and nameless_weight(model) == "other of MatMul "
    state = {"a.weight": WEIGHT, "b.weight": WEIGHT, "c.weight": WEIGHT + 1, "unread": WEIGHT - 1}
    write_names(model, {name: torch.from_numpy(values) for name, values in state.items()})
    assert tells_every_name(model) and nameless_weight(model) is None
    found = {name: numpy_helper.to_array(tensor) for name, tensor in named_tensors(model)}
    assert found.keys() == {"a.weight", "b.weight", "c.weight"}
    for name, values in found.items():
        assert np.array_equal(values, state[name])


def test_equal_numbers_of_another_shape_are_no_twin() -> None:
    model = graph_of(detector__a__weight=WEIGHT)
    write_names(model, {"b.weight": torch.from_numpy(WEIGHT.reshape(4, 1))})
    assert dict(named_tensors(model)).keys() == {"a.weight"}


def test_a_half_stored_tensor_keeps_its_name() -> None:
    model = graph_of(detector__a__weight__half=WEIGHT.astype(np.float16))
    assert dict(named_tensors(model)).keys() == {"a.weight"}


def test_names_survive_writing_and_reading() -> None:
    model = graph_of(detector__a__weight=WEIGHT)
    write_names(model, {"b.weight": torch.from_numpy(WEIGHT)})
    again = onnx.load_from_string(model.SerializeToString())
    assert dict(named_tensors(again)).keys() == {"a.weight", "b.weight"}
