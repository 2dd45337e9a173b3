"""The Python plugins behind TensorRT's own classes, called as it calls them; kernels on the host grid."""

from __future__ import annotations

import ctypes
import importlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from export.plugins.python import adapter, attributes, register_plugins
from export.plugins.python.adapter import creator_class
from export.plugins.python.operator import Tensor, Value
from export.plugins.python.register import KINDS
from hindsight.errors import RuntimeFailure
from model.kernels.compile import KERNELS
from model.kernels.driver import Queue
from model.kernels.params import Launch, Params
from tests.unit.kernels.lists import crowd
from tests.unit.plugins.cases import Case, nms_cases, roi_case, roi_cases, suppression_lists
from tests.unit.plugins.forms import CppForm

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="TensorRT-RTX has no wheel for this machine",
)
STREAM, DEVICE = 5, 3


@pytest.fixture(scope="module")
def trt() -> Any:
    module = importlib.import_module("tensorrt_rtx")
    register_plugins(module)
    return module


class Grid:
    """What the adapter loads and launches on."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.loaded: set[tuple[str, str, int]] = set()
        self.launched: list[str] = []

    def load(self, source: str, kernel: str, device: int) -> None:
        self.loaded.add((source, kernel, device))

    def launch(self, source: str, kernel: str, params: Params, shape: Launch, queue: Queue) -> None:
        assert queue == Queue(DEVICE, STREAM) and (source, kernel, DEVICE) in self.loaded
        self.launched.append(kernel)
        run = getattr(self.library, f"run_{kernel}")
        run(ctypes.byref(params), shape.blocks, shape.threads, shape.shared_bytes, 0)


@pytest.fixture
def grid(cpp: CppForm, monkeypatch: pytest.MonkeyPatch) -> Grid:
    found = Grid(cpp.library)
    monkeypatch.setattr(adapter, "load", found.load)
    monkeypatch.setattr(adapter, "launch", found.launch)
    monkeypatch.setattr(adapter, "current_device", lambda: DEVICE)
    return found


def made(trt: Any, case: Case) -> Any:
    """A plugin made as an engine makes it: from the fields that another one stored."""
    (kind,) = (kind for kind in KINDS if kind.name == case.name)
    first = adapter.plugin_class(trt)(kind.make(case.values))
    stored = first.get_fields_to_serialize()
    return creator_class(trt)(kind).create_plugin("node", stored, trt.TensorRTPhase.RUNTIME)


def described(trt: Any, tensors: Sequence[Tensor]) -> list[Any]:
    found = []
    for tensor in tensors:
        each = trt.PluginTensorDesc()
        each.dims = trt.Dims(tensor.shape)
        each.type = getattr(trt.DataType, tensor.dtype)
        each.format = getattr(trt.TensorFormat, tensor.format)
        found.append(each)
    return found


def dynamic(trt: Any, descriptions: Sequence[Any]) -> list[Any]:
    """As while building: the sizes open, the largest known."""
    found = []
    for description in descriptions:
        each = trt.DynamicPluginTensorDesc()
        each.max = trt.Dims(tuple(description.dims))
        description.dims = trt.Dims([-1] * len(description.dims))
        each.desc = description
        found.append(each)
    return found


def run(trt: Any, case: Case, memory: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
    inputs = case.memory() if memory is None else memory
    found = [torch.full_like(each, True if each.dtype == torch.bool else 77) for each in case.expected]
    plugin = made(trt, case)
    attached = plugin.attach_to_context(None)
    ins, outs = described(trt, case.described()), described(trt, case.described_results())
    size = attached.get_workspace_size(dynamic(trt, described(trt, case.described())), [])
    workspace = torch.empty(size + 16, dtype=torch.uint8)
    attached.set_tactic(0)
    attached.on_shape_change(ins, outs)
    clone = attached.clone()
    clone.enqueue(
        *(ins, outs, [each.data_ptr() for each in inputs], [each.data_ptr() for each in found]),
        *(workspace.data_ptr(), STREAM),
    )
    return found


@pytest.mark.parametrize("label", roi_cases())
def test_roi_align(trt: Any, grid: Grid, label: str) -> None:
    case = roi_cases()[label]()
    case.check(run(trt, case))
    assert grid.launched == [case.kernel]


@pytest.mark.parametrize("label", suppression_lists())
def test_suppression(trt: Any, grid: Grid, label: str) -> None:
    cases = suppression_lists()[label]()
    for case in cases:
        case.check(run(trt, case))
    assert grid.launched == [case.kernel for case in cases]


def test_long_lists_use_the_workspace(trt: Any, grid: Grid) -> None:
    boxes, scores = crowd(5, 1, 2, 4200, side=4000.0)
    for case in nms_cases(boxes, scores, 0.5):
        if case.values.get("method") != "gaussian":
            case.check(run(trt, case))


def test_no_boxes_no_launch(trt: Any, grid: Grid) -> None:
    for case in [
        roi_case(torch.float16, "HWC8", 16, 7, False, 2, count=0),
        *nms_cases(*crowd(0, 2, 3, 0), 0.5),
    ]:
        assert all(each.numel() == 0 for each in run(trt, case))
    assert not grid.launched


def test_a_context_loads_every_kernel_it_may_need(trt: Any, grid: Grid) -> None:
    made(trt, roi_case(torch.float16, "HWC8", 16, 7, False, 2, count=1)).attach_to_context(None)
    assert grid.loaded == {("roi_align", kernel, DEVICE) for kernel in KERNELS["roi_align"]}


def test_addresses_that_a_kernel_cannot_read_are_refused(trt: Any, grid: Grid) -> None:
    for case, name in [
        (roi_case(torch.float32, "HWC", 16, 3, False, 2), "rois"),
        (nms_cases(*crowd(0, 1, 2, 9), 0.5)[0], "boxes"),
    ]:
        shifted = torch.empty(case.inputs[0].numel() + 1)[1:]
        with pytest.raises(
            ValueError, match=rf"{case.name}: {name} lies at 0x\w+, which is no multiple of 16"
        ):
            run(trt, case, [shifted, *case.memory()[1:]])
    assert not grid.launched


def test_attributes_are_read_by_name_and_kind(trt: Any) -> None:
    (kind,) = (kind for kind in KINDS if kind.name == "SoftNms")
    values: dict[str, Value] = {"method": "linear", "sigma": 0.5, "min_score": 0.25, "steps": 3}
    mistakes: list[tuple[dict[str, Value], str]] = [
        ({"steps": 1.5}, "expected attribute 'steps' to be an integer, got 1.5"),
        ({"sigma": "wide"}, "expected attribute 'sigma' to be a number, got 'wide'"),
        ({"method": 4}, "expected attribute 'method' to be a text"),
    ]
    for wrong, message in mistakes:
        fields, _kept = attributes.serialised(trt, {**values, **wrong})
        with pytest.raises(ValueError, match=f"^SoftNms: {message}"):
            creator_class(trt)(kind).create_plugin("node", fields, trt.TensorRTPhase.BUILD)
    fields, _kept = attributes.serialised(trt, {"method": "linear"})
    with pytest.raises(ValueError, match=r"^SoftNms: the node lacks the attribute 'min_score'"):
        creator_class(trt)(kind).create_plugin("node", fields, trt.TensorRTPhase.BUILD)


def test_registering_twice_gives_the_same_names(trt: Any) -> None:
    names = register_plugins(trt)
    assert names == register_plugins(trt) == tuple(kind.name for kind in KINDS)
    registered = [each.name for each in trt.get_plugin_registry().all_creators if each.name in names]
    assert sorted(registered) == sorted(names)


def test_plugins_need_no_torch() -> None:
    program = """
import sys
from export.plugins.python import register_plugins
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr


def test_bindings_that_misread_lists_are_refused() -> None:
    """TensorRT 10.13 to 10.15 beside numpy 2, as seen with their wheels: every value is the first."""

    class Field:
        def __init__(self, name: str, data: Any, kind: Any) -> None:
            self.data = np.full(len(data), data[0])

    old = SimpleNamespace(
        PluginField=Field,
        PluginFieldCollection=list,
        PluginFieldType=SimpleNamespace(INT32=3),
        __name__="tensorrt",
        __version__="10.13.3.9",
    )
    with pytest.raises(RuntimeFailure, match=r"tensorrt 10.13.3.9 misread lists.*install TensorRT 10.16"):
        attributes.check_lists(old)
