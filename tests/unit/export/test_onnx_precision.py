"""A graph's dense part in a narrow type: which nodes, how many casts, and what the answers lose."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export import onnx_ops
from export.errors import ExportError
from export.onnx_precision import TYPES, Lowered, lower_precision
from export.parity import Comparison, Filters, Tolerance, compare_detections, detections_of, merge
from export.parity_inputs import parity_inputs
from hindsight.artifact import Artifact, find_artifact
from hindsight.preprocess import decode_image

# What float16 costs: the box of a detection, and any of its scores.
TOLERANCE = Tolerance(pixels=1.0, score=0.02, iou=0.02)


@pytest.fixture(scope="module")
def cells() -> Artifact:
    return find_artifact("cells")


def loaded(artifact: Artifact, graph: str = "model.onnx") -> onnx.ModelProto:
    onnx_ops.register_schemas()
    model = onnx.load(artifact.path / graph)
    onnx_ops.strip_functions(model)
    return model


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    onnx_ops.attach_functions(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every value, as onnx infers it; refuses a node whose inputs it does not allow."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(("graph", "casts"), [("model.onnx", 15), ("rescore.onnx", 4)])
def test_products_are_narrow_and_casts_stand_at_the_borders_alone(
    cells: Artifact, precision: str, graph: str, casts: int
) -> None:
    model = loaded(cells, graph)
    outputs = [(value.name, value.type.tensor_type.elem_type) for value in model.graph.output]
    lowered = lower_precision(model, precision)
    # the image in; of each level objectness and deltas out, and what each branch of a head answers
    assert lowered.casts == casts and lowered.narrow_nodes > 100
    onnx.checker.check_model(model, full_check=True)
    types, narrow = types_of(model), TYPES[precision]
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    seen = set()
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            kinds = {weights.get(name) or types[name] for name in [*node.input, *node.output]}
            assert kinds == {narrow}, node.name
        elif node.op_type.startswith("MultilevelRoiAlign"):
            rois, *features = node.input
            assert types[rois] == TensorProto.FLOAT
            assert {types[name] for name in [*features, *node.output]} == {narrow}
        elif node.op_type in ("Softmax", "TopK", "BatchedNms", "Exp", "Sigmoid", "Log", "Pow", "Div"):
            assert narrow not in {types[name] for name in node.input if name in types}, node.name
        else:
            continue
        seen.add(node.op_type.rstrip("3"))
    assert {"Conv", "Gemm", "MultilevelRoiAlign", "Sigmoid"} <= seen
    assert [(value.name, value.type.tensor_type.elem_type) for value in model.graph.output] == outputs


def test_no_weight_is_kept_twice(cells: Artifact) -> None:
    model = loaded(cells)
    before = sum(len(numpy_helper.to_array(tensor).tobytes()) for tensor in model.graph.initializer)
    lower_precision(model, "fp16")
    after = sum(len(numpy_helper.to_array(tensor).tobytes()) for tensor in model.graph.initializer)
    assert after <= before
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(set(names)) == len(names)


def test_the_fp16_graph_of_a_shipped_model_answers_as_its_fp32_graph(cells: Artifact) -> None:
    wide, narrow = loaded(cells), loaded(cells)
    lower_precision(narrow, "fp16")
    sessions = [session(wide), session(narrow)]
    names = [output.name for output in sessions[0].get_outputs()]
    photos = [decode_image(path.read_bytes()) for path in cells.samples[:3]]
    parts: list[Comparison] = []
    for item in parity_inputs(cells.manifest.resize, cells.manifest.defaults, photos)[:4]:
        feeds = item.detect_feeds()
        expected, found = (dict(zip(names, each.run(names, feeds), strict=True)) for each in sessions)
        for image in range(item.batch):
            filters = Filters(
                float(feeds["class_threshold"][image]),
                float(feeds["score_threshold"][image]),
                float(feeds["nms_threshold"][0]),
            )
            own, other = detections_of(expected, image), detections_of(found, image)
            limit = cells.manifest.max_detections
            parts.append(compare_detections(own, other, filters, limit, TOLERANCE, featureless=False))
    result = merge(parts)
    assert result.matched > 60
    assert result.outliers(TOLERANCE) <= 0.05 * result.matched
    assert 0 < result.pixel_differences.mean() < 0.1  # not 0: something was rounded
    assert result.score_differences.mean() < 2e-3


def chain(
    nodes: list[onnx.NodeProto], outputs: list[str], constants: dict[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def weight(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def test_only_what_lies_between_products_is_narrow() -> None:
    model = chain(
        [
            helper.make_node("Mul", ["x", "scale"], ["before"]),
            helper.make_node("Conv", ["before", "w1"], ["a"]),
            helper.make_node("Relu", ["a"], ["between"]),
            helper.make_node("Conv", ["between", "w2"], ["b"]),
            helper.make_node("Shape", ["b"], ["shape"]),
            helper.make_node("Relu", ["b"], ["after"]),
            helper.make_node("Exp", ["between"], ["aside"]),
            helper.make_node("Cast", ["shape"], ["shape_out"], to=TensorProto.FLOAT),
        ],
        ["after", "aside", "shape_out", "a"],
        {"scale": weight(0, 1), "w1": weight(1, 4, 4, 1, 1), "w2": weight(2, 4, 4, 1, 1)},
    )
    reference = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    # in: before; out: a as an output of the graph, between for Exp, b for the last Relu
    assert lower_precision(model, "fp16") == Lowered(narrow_nodes=3, casts=4)
    types = types_of(model)
    narrow = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    assert narrow == {"before.narrow", "a.narrow", "between.narrow", "b.narrow"}
    x = weight(3, 1, 4, 8, 8)
    found = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for expected, got in zip(reference.run(None, {"x": x}), found.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-3)


def test_a_batch_norm_becomes_a_product_and_a_sum() -> None:
    statistics = {
        name: np.abs(weight(seed, 4)) * size
        for seed, (name, size) in enumerate({"g": 1.0, "b": 1.0, "m": 1.0, "v": 1e-6}.items())
    }
    model = chain(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"]),
            helper.make_node("BatchNormalization", ["a", "g", "b", "m", "v"], ["n"], epsilon=1e-5),
            helper.make_node("Conv", ["n", "w2"], ["y"]),
        ],
        ["y"],
        {"w1": weight(8, 4, 4, 1, 1) / 100, "w2": weight(9, 4, 4, 1, 1), **statistics},
    )
    x = weight(3, 1, 4, 8, 8)
    (expected,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )
    assert lower_precision(model, "fp16").casts == 2
    assert [node.op_type for node in model.graph.node] == ["Cast", "Conv", "Mul", "Add", "Conv", "Cast"]
    (found,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )
    np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())


def test_bfloat16_weights_are_rounded_to_the_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.1415927, 1e-30, 3e38], np.float32)
    model = chain(
        [helper.make_node("Conv", ["x", "w"], ["y"])], ["y"], {"w": np.resize(values, (3, 4, 1, 1))}
    )
    lower_precision(model, "bf16")
    (tensor,) = model.graph.initializer
    assert tensor.data_type == TensorProto.BFLOAT16
    bits = np.frombuffer(tensor.raw_data, "<u2")[: len(values)]
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    assert list(rounded[:3]) == [1.0, 1.0, 1.015625]  # ties go to the even neighbour
    np.testing.assert_allclose(rounded, values, rtol=2**-8)
    assert model.opset_import[0].version == 22


def test_what_cannot_be_narrow_is_refused() -> None:
    huge = chain(
        [helper.make_node("Conv", ["x", "w"], ["y"])], ["y"], {"w": np.full((1, 4, 1, 1), 7e4, np.float32)}
    )
    with pytest.raises(ExportError, match="w does not fit into float16: build with bf16 or fp32"):
        lower_precision(huge, "fp16")
    with pytest.raises(ExportError, match="no convolution and no matrix product"):
        lower_precision(chain([helper.make_node("Relu", ["x"], ["y"])], ["y"], {}), "fp16")
    with pytest.raises(ValueError, match="fp16, bf16, got 'fp32'"):
        lower_precision(huge, "fp32")
