"""Deformable convolution in stock ONNX Runtime: the operator alone and backbones of it, against torch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.export import Dim

from export import onnx_deform, onnx_nms, onnx_ops
from export.graphs import _trace
from export.prepare import prepared_copy
from model.config import BackboneConfig
from model.detector import TwoStageDetector
from model.ops import deform_conv2d
from tests.unit.model import toy_resnet
from tests.unit.model.toys import toy_detector


def one_operator(
    name: str, strides: list[int], pads: list[int], dilations: list[int], group: int
) -> onnx.ModelProto:
    mask = ["mask"] if name == onnx_deform.MODULATED else []
    inputs = ["x", "offset", *mask, "weight"]
    geometry = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
    node = helper.make_node(name, inputs, ["y"], domain=onnx_ops.DOMAIN, **geometry)
    anything = [None] * 4
    graph = helper.make_graph(
        [node],
        "one_operator",
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, anything) for key in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, anything)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", onnx_ops.OPSET)], ir_version=10)
    onnx_ops.attach_functions(model)
    onnx_ops.register_schemas()
    onnx.checker.check_model(model)
    return model


def session_of(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", onnx_deform.NAMES)
@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "dilations", "group"),
    [
        ((3, 3), [1, 1], [1, 1], [1, 1], 1),
        ((3, 3), [2, 2], [1, 1], [1, 1], 1),
        ((3, 3), [2, 2], [1, 1], [1, 1], 4),
        ((3, 3), [1, 1], [2, 2], [2, 2], 2),
        ((1, 1), [1, 1], [0, 0], [1, 1], 1),
        ((3, 2), [1, 2], [2, 1], [1, 2], 2),  # nothing is the same in both directions
    ],
)
def test_the_body_computes_what_torch_computes(
    name: str, kernel: tuple[int, int], strides: list[int], pads: list[int], dilations: list[int], group: int
) -> None:
    session = session_of(one_operator(name, strides, pads, dilations, group))
    torch.manual_seed(0)
    # one session: batch, size and how far the offsets reach are not in the graph
    for batch, size, reach in [(1, (5, 5), 0.0), (2, (9, 6), 1.0), (3, (4, 13), 4.0), (1, (1, 1), 2.0)]:
        out = [
            (size[axis] + 2 * pads[axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
            for axis in (0, 1)
        ]
        if min(out) < 1:
            continue
        taps = kernel[0] * kernel[1]
        x, weight = torch.randn(batch, 8, *size), torch.randn(4, 8 // group, *kernel)
        offset = torch.randn(batch, 2 * taps, *out) * reach
        offset[0, 0, 0, 0] = 1e5  # as far outside as an untrained offset may point
        mask = torch.rand(batch, taps, *out) if name == onnx_deform.MODULATED else None
        feeds = {"x": x, "offset": offset, "weight": weight} | ({} if mask is None else {"mask": mask})
        (found,) = session.run(None, {key: value.numpy() for key, value in feeds.items()})
        expected = deform_conv2d(x, offset, mask, weight, strides, pads, dilations, group)
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-5, rtol=1e-4)


def test_offsets_fade_out_at_the_border_as_in_torch() -> None:
    """A single tap pushed over each edge of the map in steps of an eighth of a pixel."""
    session = session_of(one_operator(onnx_deform.PLAIN, [1, 1], [0, 0], [1, 1], 1))
    x, weight = torch.tensor([[[[2.0, 3.0], [5.0, 7.0]]]]), torch.ones(1, 1, 1, 1)
    for step in torch.arange(-20, 21) / 8:
        for direction in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]):
            offset = (step * torch.tensor(direction)).reshape(1, 2, 1, 1).expand(1, 2, 2, 2).contiguous()
            feeds = {"x": x.numpy(), "offset": offset.numpy(), "weight": weight.numpy()}
            (found,) = session.run(None, feeds)
            expected = deform_conv2d(x, offset, None, weight, (1, 1), (0, 0), (1, 1), 1)
            np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


def test_an_engine_with_plugins_still_gets_the_body() -> None:
    model = one_operator(onnx_deform.MODULATED, [1, 1], [1, 1], [1, 1], 1)
    model.graph.node.append(
        helper.make_node(onnx_nms.NMS_NAME, ["b", "s", "t"], ["k"], domain=onnx_ops.DOMAIN)
    )
    onnx_ops.attach_functions(model)
    assert {function.name for function in model.functions} == {onnx_deform.MODULATED, onnx_nms.NMS_NAME}
    assert onnx_ops.strip_functions(model) == 1
    assert [function.name for function in model.functions] == [onnx_deform.MODULATED]


def detector_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> TwoStageDetector:
    toy_resnet.add_toy_resnet(monkeypatch)
    config = BackboneConfig(toy_resnet.NAME, min_level=3, fpn_channels=16, frozen_levels=0, deformable=kind)
    detector = toy_detector(backbone=config)
    toy_resnet.stir(detector.backbone)
    return detector


class Maps(nn.Module):
    """The three maps of a backbone, as a tuple."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(images))


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_batch_norms_fold_into_deformable_convolutions(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = detector_of(kind, monkeypatch)
    prepared = prepared_copy(detector)
    assert not [m for m in prepared.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(prepared.backbone(images), detector.backbone(images), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "name"), [("v1", onnx_deform.PLAIN), ("v2", onnx_deform.MODULATED)])
def test_a_deformable_backbone_exports_with_batch_height_and_width_open(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = detector_of(kind, monkeypatch)
    dims = {"images": {0: Dim("batch"), 2: 32 * Dim("rows"), 3: 32 * Dim("columns")}}
    prepared = Maps(prepared_copy(detector).backbone)
    model = _trace(prepared, (torch.zeros(2, 3, 64, 96),), dims, ["c3", "c4", "c5"])
    assert Counter(node.op_type for node in model.graph.node if node.domain == onnx_ops.DOMAIN) == {name: 3}
    session = session_of(model)
    plain = Maps(detector_of("none", monkeypatch).backbone)
    plain.load_state_dict(Maps(detector.backbone).state_dict(), strict=False)
    for batch, height, width in [(1, 32, 32), (2, 64, 96), (3, 128, 32)]:
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            expected = Maps(detector.backbone)(images)
            unmoved = plain(images)
        for found, value, still in zip(
            session.run(None, {"images": images.numpy()}), expected, unmoved, strict=True
        ):
            np.testing.assert_allclose(found, value.numpy(), atol=2e-4, rtol=1e-3)
            assert (value - still).abs().max() > 0.1  # the offsets matter
