"""One operator alone in an ONNX graph, its sizes open, and the shapes that an engine of it shall take."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from export.onnx_domain import DOMAIN, DOMAIN_VERSION, OPSET, PLUGIN_ATTRIBUTES
from export.plugins.python.operator import Value
from export.plugins.python.register import KINDS
from tests.unit.plugins.cases import Case

ROOT = Path(__file__).parents[3]
ELEMENTS = {
    "FLOAT": TensorProto.FLOAT,
    "HALF": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "BOOL": TensorProto.BOOL,
}
Sizes = Mapping[str, int]
Inputs = Mapping[str, tuple[str, Sequence[int | str]]]
SUPPRESSIONS: dict[str, dict[str, Value]] = {
    "BatchedNms": {},
    "IouGuidedNms": {},
    "SoftNms": {"method": "gaussian", "sigma": 0.5, "min_score": 0.001, "steps": 100},
}
SMALLEST = {"B": 1, "N": 1, "h": 16, "w": 16, "G": 1, "K": 1}
USUAL = {"B": 2, "N": 100, "h": 32, "w": 48, "G": 2, "K": 3}
LARGEST = {"B": 4, "N": 5000, "h": 64, "w": 96, "G": 8, "K": 8}


@dataclass(frozen=True)
class Graph:
    """A node and its inputs: name -> (type, dimensions); dimensions are numbers or names of SMALLEST."""

    name: str
    attributes: Mapping[str, Any]
    inputs: Inputs
    outputs: Mapping[str, str]
    formats: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # of inputs; the others as TensorRT likes

    def model(self) -> onnx.ModelProto:
        node = helper.make_node(
            self.name,
            list(self.inputs),
            list(self.outputs),
            domain=DOMAIN,
            **self.attributes,
            **PLUGIN_ATTRIBUTES,
        )
        inputs = [
            helper.make_tensor_value_info(name, ELEMENTS[kind], [*shape])
            for name, (kind, shape) in self.inputs.items()
        ]
        outputs = [
            helper.make_tensor_value_info(name, ELEMENTS[kind], None) for name, kind in self.outputs.items()
        ]
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
        graph = helper.make_graph([node], "alone", inputs, outputs)
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def profile(self, *sizes: Sizes) -> dict[str, list[list[int]]]:
        """Smallest, usual and largest shape of every input that has an open size."""
        return {
            name: [[each if isinstance(each, int) else known[each] for each in shape] for known in sizes]
            for name, (_, shape) in self.inputs.items()
            if any(isinstance(each, str) for each in shape)
        }


def roi_graph(levels: int, kind: str, channels: int = 16, **wrong: Any) -> Graph:
    """The sizes of the levels are open on their own: h and w of the first, halved from level to level."""
    maps: Inputs = {
        f"feature_{level}": (kind, ["B", channels, f"h{level}", f"w{level}"]) for level in range(levels)
    }
    attributes = {
        "strides": [4 * 2**level for level in range(levels)],
        "output_size": 7,
        "sampling_ratio": 2,
        "aligned": 0,
    }
    return Graph(
        f"MultilevelRoiAlign{levels}",
        {**attributes, **wrong},
        {"rois": ("FLOAT", ["B", "N", 4]), **maps},
        {"pooled": kind},
    )


def suppression_graph(name: str, classes: int | str = 3, **wrong: Any) -> Graph:
    """Groups and boxes open; classes too where they are "K"."""
    scores = "class_scores" if name == "IouGuidedNms" else "scores"
    ious: Inputs = {"ious": ("FLOAT", ["G", "N"])} if name == "IouGuidedNms" else {}
    outputs = {
        "BatchedNms": {"keep": "BOOL"},
        "IouGuidedNms": {"keep": "BOOL", "scores": "FLOAT"},
        "SoftNms": {"decayed": "FLOAT"},
    }
    inputs: Inputs = {"boxes": ("FLOAT", ["G", "N", 4]), scores: ("FLOAT", ["G", classes, "N"]), **ious}
    return Graph(
        name, {**SUPPRESSIONS[name], **wrong}, {**inputs, "threshold": ("FLOAT", [1])}, outputs[name]
    )


def graph_of(case: Case) -> Graph:
    """A node for just the sizes of the case, its maps in the case's format."""
    (kind,) = (kind for kind in KINDS if kind.name == case.name)
    operator, described = kind.make(case.values), case.described()
    names = dict(zip(operator.inputs, described, strict=True))
    results = zip(operator.outputs, case.described_results(), strict=True)
    return Graph(
        case.name,
        {key: list(value) if isinstance(value, tuple) else value for key, value in case.values.items()},
        {name: (tensor.dtype, list(tensor.shape)) for name, tensor in names.items()},
        {name: tensor.dtype for name, tensor in results},
        {name: tensor.format for name, tensor in names.items() if tensor.format != "LINEAR"},
    )


def with_level_sizes(sizes: Sizes) -> dict[str, int]:
    """h0, w0 and so on of six levels."""
    return {
        **sizes,
        **{f"{side}{level}": max(sizes[side] >> level, 1) for side in "hw" for level in range(6)},
    }


def with_input(graph: Graph, name: str, kind: str, shape: Sequence[int | str]) -> Graph:
    """The same with another input in the place of one."""
    return dataclasses.replace(graph, inputs={**graph.inputs, name: (kind, shape)})


def every_graph(kind: str) -> dict[str, Graph]:
    """Every operator, maps of that type; the suppressions know float32 only."""
    graphs = [roi_graph(levels, kind) for levels in range(1, 7)]
    if kind == "FLOAT":
        graphs += [suppression_graph(name) for name in SUPPRESSIONS]
    assert kind != "FLOAT" or [graph.name for graph in graphs] == [each.name for each in KINDS]
    return {graph.name: graph for graph in graphs}


def tensorrt_environment(folder: Path) -> dict[str, str]:
    """For a process that parses: TensorRT-RTX's parser looks for a library by a name that the wheel lacks."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    libraries = find_spec("tensorrt_rtx_libs")
    if libraries is not None and libraries.submodule_search_locations:
        there = Path(libraries.submodule_search_locations[0])
        link = folder / "libtensorrt_rtx.so"
        if not link.is_symlink():
            link.symlink_to(there / "libtensorrt_rtx.so.1")
        environment["LD_LIBRARY_PATH"] = f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    return environment


@dataclass(frozen=True)
class Built:
    """What became of the graphs: by label, and all that was said on stderr, by label too."""

    returncode: int
    results: dict[str, dict[str, Any]]
    said: dict[str, str]


def build(
    folder: Path,
    graphs: Mapping[str, Graph],
    module: str = "tensorrt_rtx",
    library: Path | None = None,
    seconds: float = 280,
) -> Built:
    """Engines FOLDER/LABEL.engine, built in a process of their own: TensorRT ends it where a build fails."""
    jobs = []
    for label, graph in graphs.items():
        path = folder / f"{label}.onnx"
        path.write_bytes(graph.model().SerializeToString())
        profile = graph.profile(*(with_level_sizes(sizes) for sizes in (SMALLEST, USUAL, LARGEST)))
        jobs.append({"label": label, "onnx": str(path), "profile": profile, "formats": dict(graph.formats)})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tests.unit.plugins.build_engines", module, str(folder / "jobs.json")]
    done = subprocess.run(
        [*command, *([] if library is None else [str(library)])],
        cwd=ROOT,
        env=tensorrt_environment(folder),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    results = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            result = json.loads(line)
            results[result.pop("label")] = result
    said = {}
    for part in done.stderr.split("=== ")[1:]:
        label, _, text = part.partition("\n")
        said[label] = text
    return Built(done.returncode, results, said or {"": done.stderr})
