"""Engines with our plugins on a GPU, against the torch operators on the CPU.

python -m pytest -m gpu tests/unit/plugins

With `tensorrt` where it is installed, else with `tensorrt_rtx`. The C++ library is tested where TENSORRT_ROOT
names a TensorRT SDK and nvcc and cmake are on the PATH.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from export.plugins.python import adapter, register_plugins
from export.plugins.python.register import KINDS
from model.kernels import driver
from model.ops import multilevel_roi_align
from tests.unit.kernels.lists import crowd
from tests.unit.kernels.test_host_roi_align import some_boxes
from tests.unit.plugins.cases import Case, nms_cases, roi_cases, suppression_lists
from tests.unit.plugins.conftest import CPP
from tests.unit.plugins.engines import Engine, flavour
from tests.unit.plugins.graphs import Graph, build, graph_of, roi_graph, suppression_graph

FLAVOUR = flavour()
BUILD_SECONDS = 1700  # TensorRT, unlike TensorRT for RTX, times what it builds: thirty engines in one test
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.tensorrt,
    pytest.mark.timeout(BUILD_SECONDS + 100),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
    pytest.mark.skipif(FLAVOUR is None, reason="needs tensorrt, or tensorrt_rtx and a GPU that it supports"),
]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that the Python plugins launched."""
    names: list[str] = []

    def counted(source: str, kernel: str, *args: Any) -> None:
        names.append(kernel)
        driver.launch(source, kernel, *args)

    monkeypatch.setattr(adapter, "launch", counted)
    return names


@pytest.fixture(params=["python", "cpp"])
def library(request: pytest.FixtureRequest) -> Path | None:
    """None for the Python plugins, the compiled library for the others."""
    return None if request.param == "python" else request.getfixturevalue("compiled_library")


@pytest.fixture(scope="session")
def compiled_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not os.environ.get("TENSORRT_ROOT") or not shutil.which("nvcc") or not shutil.which("cmake"):
        pytest.skip("needs TENSORRT_ROOT, the folder of a TensorRT SDK, and nvcc and cmake")
    folder = tmp_path_factory.mktemp("library")
    major, minor = torch.cuda.get_device_capability()
    flags = ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_CUDA_ARCHITECTURES={major}{minor}-real"]
    subprocess.run(["cmake", "-S", str(CPP), "-B", str(folder), *flags], check=True)
    subprocess.run(["cmake", "--build", str(folder), "-j", "4"], check=True)
    return folder / "libhindsight_plugins.so"


def engines(
    folder: Path, graphs: Mapping[str, Graph], library: Path | None = None
) -> Iterator[tuple[str, Engine]]:
    """Built in a process of their own, loaded in this one."""
    assert FLAVOUR is not None
    built = build(folder, graphs, FLAVOUR, library, BUILD_SECONDS)
    assert built.returncode == 0, built.said
    for label in graphs:
        assert built.results[label]["layers"] == ["PLUGIN_V3"], built.said[label]
        assert built.results[label]["bytes"], built.said[label]
        if library is None:
            register_plugins(importlib.import_module(FLAVOUR))
        yield label, Engine(FLAVOUR, folder / f"{label}.engine", embedded=library is not None)


def run(engine: Engine, case: Case) -> list[torch.Tensor]:
    (kind,) = (kind for kind in KINDS if kind.name == case.name)
    operator = kind.make(case.values)
    memory = {name: each.cuda() for name, each in zip(operator.inputs, case.memory(), strict=True)}
    shapes = {name: tuple(each.shape) for name, each in zip(operator.inputs, case.inputs, strict=True)}
    found = engine(memory, shapes)
    return [found[name] for name in operator.outputs]


def test_roi_align_in_every_type_format_and_convention(
    tmp_path: Path, library: Path | None, launched: list[str]
) -> None:
    cases = {f"case {index}": make() for index, make in enumerate(roi_cases().values())}
    for label, engine in engines(tmp_path, {label: graph_of(case) for label, case in cases.items()}, library):
        case = cases[label]
        case.check(run(engine, case))
        if library is None:
            assert launched[-1].split("_")[3:] == case.kernel.split("_")[3:]
            if case.inputs[1].dtype != torch.float32 and case.inputs[1].shape[1] % 8 == 0:
                assert "vector" in launched[-1]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_suppression_of_every_kind_of_list(tmp_path: Path, library: Path | None, method: str) -> None:
    """One engine a kind, its sizes open, for all lists."""
    graphs = {
        "BatchedNms": suppression_graph("BatchedNms", classes="K"),
        "IouGuidedNms": suppression_graph("IouGuidedNms", classes="K"),
        "SoftNms": suppression_graph("SoftNms", classes="K", method=method, min_score=0.001953125, steps=50),
    }
    made = dict(engines(tmp_path, graphs, library))
    for make in suppression_lists().values():
        for case in make():
            if case.values.get("method") in (None, method):
                case.check(run(made[case.name], case))
    boxes, scores = crowd(5, 1, 2, 4200, side=4000.0)  # past shared memory
    for case in nms_cases(boxes, scores, 0.5):
        if case.values.get("method") in (None, method) and method == "linear":
            case.check(run(made[case.name], case))


def roi_inputs(batch: int, count: int, height: int, width: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = [
        torch.randn(batch, 16, height >> level, width >> level, generator=generator).half()
        for level in range(2)
    ]
    return {
        "rois": some_boxes(seed, count, batch),
        **{f"feature_{level}": feature for level, feature in enumerate(features)},
    }


def expected(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    rois, *features = inputs.values()
    pooled: torch.Tensor = multilevel_roi_align(features, rois, [4, 8], 7, 2, False)
    return pooled


def shapes_of(inputs: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in inputs.items()}


def test_one_engine_takes_every_size_of_its_profile(tmp_path: Path, library: Path | None) -> None:
    ((_, engine),) = engines(tmp_path, {"dynamic": roi_graph(2, "HALF")}, library)
    for seed, sizes in enumerate([(1, 1, 16, 16), (2, 100, 32, 48), (4, 900, 64, 96), (2, 7, 18, 40)]):
        inputs = roi_inputs(*sizes, seed)
        on_gpu = {name: tensor.cuda() for name, tensor in inputs.items()}
        found = engine(on_gpu, shapes_of(inputs))["pooled"]
        torch.testing.assert_close(found.float(), expected(inputs).float(), rtol=1e-3, atol=1e-4)


def replay_of(engine: Engine, inputs: dict[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
    """A CUDA graph of one call of the engine on these very tensors."""
    engine.bind(inputs, shapes_of(inputs))
    engine.stream.wait_stream(torch.cuda.current_stream())
    engine.enqueue()  # after new sizes TensorRT must run once before it can be captured
    engine.stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    # TensorRT-RTX compiles on threads of its own, which a capture in the default mode would forbid
    with torch.cuda.graph(graph, stream=engine.stream, capture_error_mode="thread_local"):
        engine.enqueue()

    def replay() -> dict[str, torch.Tensor]:
        graph.replay()
        torch.cuda.synchronize()
        return {name: tensor.cpu() for name, tensor in engine.outputs.items()}

    return replay


def test_a_graph_captures_every_plugin_and_replays_on_new_inputs(
    tmp_path: Path, library: Path | None
) -> None:
    graphs = {
        "RoiAlign": roi_graph(2, "HALF"),
        **{name: suppression_graph(name, classes="K") for name in ("BatchedNms", "IouGuidedNms", "SoftNms")},
    }
    for label, engine in engines(tmp_path, graphs, library):
        first, second = some_inputs(label, 1), some_inputs(label, 2)
        inputs = {name: tensor.cuda() for name, tensor in first.items()}
        replay = replay_of(engine, inputs)
        for name, tensor in second.items():
            inputs[name].copy_(tensor)
        found = {name: tensor.clone() for name, tensor in replay().items()}
        wanted = engine({name: tensor.cuda() for name, tensor in second.items()}, shapes_of(second))
        other = engine({name: tensor.cuda() for name, tensor in first.items()}, shapes_of(first))
        for name, tensor in found.items():
            assert torch.equal(tensor, wanted[name]) and not torch.equal(tensor, other[name])


def some_inputs(label: str, seed: int) -> dict[str, torch.Tensor]:
    if label == "RoiAlign":
        return roi_inputs(2, 100, 32, 48, seed)
    (case,) = (
        each
        for each in nms_cases(*crowd(seed, 2, 3, 100), 0.5, seed)
        if each.name == label and each.values.get("method") != "linear"
    )
    (kind,) = (kind for kind in KINDS if kind.name == label)
    return dict(zip(kind.make(case.values).inputs, case.inputs, strict=True))


def test_kernels_are_loaded_when_a_context_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def counted(source: str, kernel: str, device: int) -> None:
        loaded.append(kernel)
        driver.load(source, kernel, device)

    monkeypatch.setattr(adapter, "load", counted)
    ((_, engine),) = engines(tmp_path, {"nms": suppression_graph("BatchedNms")})
    assert "batched_nms" in loaded and engine.engine.num_io_tensors == 4


def test_an_engine_with_the_library_inside_runs_where_no_plugin_is_registered(
    tmp_path: Path, compiled_library: Path
) -> None:
    """In a fresh process, from the engine file alone."""
    case = nms_cases(*crowd(1, 2, 3, 60), 0.5)[0]
    for _ in engines(tmp_path, {"nms": graph_of(case)}, compiled_library):
        pass
    torch.save([[*case.inputs], [*case.expected]], tmp_path / "case.pt")
    program = f"""
import torch
from pathlib import Path
from tests.unit.plugins.engines import Engine
inputs, expected = torch.load({str(tmp_path / "case.pt")!r}, weights_only=True)
engine = Engine({FLAVOUR!r}, Path({str(tmp_path / "nms.engine")!r}), embedded=True)
named = dict(zip(("boxes", "scores", "threshold"), (each.cuda() for each in inputs)))
found = engine(named, {{name: tuple(each.shape) for name, each in named.items()}})
assert torch.equal(found["keep"], expected[0])
print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CPP.parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.endswith("equal\n"), done.stderr
