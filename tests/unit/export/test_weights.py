"""One weights file: shared tensors once, float16 only where nothing is lost, graphs that compute the same."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.weights import HALF_MIN_ELEMENTS, WEIGHTS_FILE, store_weights


def product_graph(name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> onnx.ModelProto:
    """y = x @ weight + bias; `name` prefixes the tensors."""
    rows, columns = weight.shape
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", f"{name}.weight"], ["product"]),
            helper.make_node("Add", ["product", f"{name}.bias"], ["y"]),
        ],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [numpy_helper.from_array(weight, f"{name}.weight"), numpy_helper.from_array(bias, f"{name}.bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


@pytest.fixture
def weight() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((64, 32)).astype(np.float16).astype(np.float32)


@pytest.fixture
def bias() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(32).astype(np.float32)


@pytest.mark.parametrize("half", [False, True])
def test_graphs_compute_the_same_and_share_equal_tensors(
    tmp_path: Path, weight: NDArray[np.float32], bias: NDArray[np.float32], half: bool
) -> None:
    own = weight[::-1].copy()
    graphs = {
        "model.onnx": product_graph("first", weight, bias),
        "rescore.onnx": product_graph("second", weight, bias),
        "third.onnx": product_graph("third", own, bias),
    }
    report = store_weights(graphs, tmp_path, half=half)
    x = np.random.default_rng(2).standard_normal((3, 64)).astype(np.float32)
    for file, matrix in (("model.onnx", weight), ("rescore.onnx", weight), ("third.onnx", own)):
        np.testing.assert_allclose(run(tmp_path / file, x), x @ matrix + bias, atol=1e-5)
    size = weight.size * (2 if half else 4)
    assert report.tensors == 2
    assert report.bytes_shared == size
    assert 2 * size <= report.bytes_written == (tmp_path / WEIGHTS_FILE).stat().st_size < 2 * size + 64
    assert report.half_tensors == (3 if half else 0)


def test_a_tensor_that_float16_cannot_hold_stays_float32(tmp_path: Path, bias: NDArray[np.float32]) -> None:
    third = np.full((64, 32), 1 / 3, np.float32)
    huge = np.full((64, 32), 1e6, np.float32)
    graphs = {"a.onnx": product_graph("a", third, bias), "b.onnx": product_graph("b", huge, bias)}
    report = store_weights(graphs, tmp_path, half=True)
    assert report.half_tensors == 0
    x = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", x), x @ third + bias, rtol=1e-6)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", x), x @ huge + bias, rtol=1e-6)


def test_small_tensors_stay_in_the_graph_at_full_precision(
    tmp_path: Path, weight: NDArray[np.float32]
) -> None:
    bias = np.full(32, 0.5, np.float32)
    store_weights({"a.onnx": product_graph("a", weight, bias)}, tmp_path, half=True)
    model = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    kinds = {tensor.name: (tensor.data_type, tensor.data_location) for tensor in model.graph.initializer}
    assert kinds["a.bias"] == (TensorProto.FLOAT, TensorProto.DEFAULT)
    assert kinds["a.weight.half"] == (TensorProto.FLOAT16, TensorProto.EXTERNAL)
    assert bias.size <= HALF_MIN_ELEMENTS < weight.size
