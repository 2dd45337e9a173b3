"""TensorRT-RTX takes every plugin on a machine without a GPU: parse, count the layers, build an engine."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from tests.unit.kernels.lists import crowd
from tests.unit.plugins.cases import nms_cases, roi_cases
from tests.unit.plugins.graphs import (
    Built,
    build,
    every_graph,
    graph_of,
    roi_graph,
    suppression_graph,
    with_input,
)

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="TensorRT-RTX has no wheel for this machine",
)
SHAPES = {
    "BatchedNms": [[-1, 3, -1]],
    "IouGuidedNms": [[-1, 3, -1], [-1, 3, -1]],
    "SoftNms": [[-1, 3, -1]],
}
TYPES = {"BatchedNms": ["BOOL"], "IouGuidedNms": ["BOOL", "FLOAT"], "SoftNms": ["FLOAT"]}


@pytest.mark.parametrize("kind", ["FLOAT", "HALF", "BF16"])
def test_every_operator_parses_and_builds_as_one_plugin_layer(tmp_path: Path, kind: str) -> None:
    graphs = every_graph(kind)
    built = build(tmp_path, graphs)
    assert built.returncode == 0, built.said
    assert built.results.keys() == graphs.keys()
    for name, result in built.results.items():
        assert result["layers"] == ["PLUGIN_V3"], name
        assert result["types"] == TYPES.get(name, [kind]), name
        assert result["shapes"] == SHAPES.get(name, [[-1, 16, 7, 7]]), name
        assert result["bytes"] == (tmp_path / f"{name}.engine").stat().st_size > 1000, built.said[name]


def test_what_the_gpu_tests_run_builds_here(tmp_path: Path) -> None:
    cases = [make() for make in roi_cases().values()] + nms_cases(*crowd(1, 2, 3, 60), 0.5)
    graphs = {f"case {index}": graph_of(case) for index, case in enumerate(cases)}
    for name in ("BatchedNms", "IouGuidedNms", "SoftNms"):
        graphs[name] = suppression_graph(name, classes="K")
    built = build(tmp_path, graphs)
    assert built.returncode == 0 and built.results.keys() == graphs.keys(), built.said
    for label, result in built.results.items():
        assert result["layers"] == ["PLUGIN_V3"] and result["bytes"], built.said[label]
    for index, case in enumerate(cases):
        assert built.results[f"case {index}"]["shapes"] == [list(each.shape) for each in case.expected]


GRAPH = roi_graph(2, "FLOAT")
# label -> a graph that is wrong, and what the user must be able to read
WRONG = {
    "output size": (roi_graph(2, "FLOAT", output_size=0), "expected output_size of 1 or more, got 0"),
    "strides": (roi_graph(2, "FLOAT", strides=[4, 8, 16]), "expected 2 positive strides, got [4, 8, 16]"),
    "kind": (
        roi_graph(2, "FLOAT", output_size=7.5),
        "expected attribute 'output_size' to be an integer, got 7.5",
    ),
    "method": (
        suppression_graph("SoftNms", method="cubic"),
        "expected method to be linear or gaussian, got 'cubic'",
    ),
    "rois": (
        with_input(GRAPH, "rois", "FLOAT", ["B", "N", 5]),
        "expected the last size of rois to be 4, got 5",
    ),
    "rank": (
        with_input(GRAPH, "feature_1", "FLOAT", ["B", 16]),
        "expected feature_1 [B, C, h, w], got 2 dimensions",
    ),
    "channels": (
        with_input(GRAPH, "feature_1", "FLOAT", ["B", 8, "h1", "w1"]),
        "channels of feature_0 and feature_1 differ: 16 and 8",
    ),
    "types": (
        with_input(GRAPH, "feature_1", "HALF", ["B", 16, "h1", "w1"]),
        "expected maps of one type, FLOAT, HALF or BF16, got FLOAT, HALF",
    ),
    "half boxes": (with_input(GRAPH, "rois", "HALF", ["B", "N", 4]), "expected rois of type FLOAT, got HALF"),
    "scalar": (
        with_input(suppression_graph("BatchedNms"), "threshold", "FLOAT", []),
        "expected threshold [1], got 0 dimensions",
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wrong graphs, one after the other in one process, and a right one at the end."""
    graphs = {label: graph for label, (graph, _) in WRONG.items()}
    return build(tmp_path_factory.mktemp("wrong"), {**graphs, "right": GRAPH})


@pytest.mark.parametrize("label", WRONG)
def test_a_wrong_graph_is_refused_with_a_reason(refused: Built, label: str) -> None:
    assert not refused.results[label]["parsed"]
    assert WRONG[label][1] in refused.said[label]


def test_the_process_that_refused_goes_on(refused: Built) -> None:
    assert refused.returncode == 0 and refused.results["right"]["bytes"] > 1000
