"""The C++ library as a user builds it: CMake's complaint without an SDK; with one, engines that carry it."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.unit.plugins.conftest import CPP
from tests.unit.plugins.graphs import build, every_graph

pytestmark = pytest.mark.tensorrt


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_without_the_headers_cmake_names_the_variable_to_set(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TENSORRT_ROOT"}
    command = ["cmake", "-S", str(CPP), "-B", str(tmp_path), "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY"]
    command += [f"-DCMAKE_FIND_ROOT_PATH={tmp_path}"]  # whatever this machine has installed
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "NvInferRuntime.h was not found. Set TENSORRT_ROOT" in " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled for one architecture, to be quick; none of its code runs here."""
    if not os.environ.get("TENSORRT_ROOT") or not shutil.which("cmake") or not shutil.which("nvcc"):
        pytest.skip("needs TENSORRT_ROOT, the folder of a TensorRT SDK, and cmake and nvcc")
    folder = tmp_path_factory.mktemp("library")
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CUDA_ARCHITECTURES=90-real"]
    for command in (
        ["cmake", "-S", str(CPP), "-B", str(folder), *flags],
        ["cmake", "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    return folder / "libhindsight_plugins.so"


def test_the_library_shows_two_symbols_and_needs_no_cuda_or_tensorrt(library: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    listed = subprocess.run(
        ["readelf", "--dyn-syms", "--dynamic", "-W", str(library)], check=True, capture_output=True, text=True
    )
    defined = [
        line.split()[7].partition("@")[0]
        for line in listed.stdout.splitlines()
        if " FUNC " in line and " GLOBAL " in line and " UND " not in line
    ]
    assert sorted(defined) == ["getCreators", "setLoggerFinder"]
    needed = [line for line in listed.stdout.splitlines() if "(NEEDED)" in line]
    assert needed and not any("cuda" in line or "nvinfer" in line or "tensorrt" in line for line in needed)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
@pytest.mark.parametrize("kind", ["FLOAT", "HALF"])
def test_engines_carry_the_library(tmp_path: Path, library: Path, kind: str) -> None:
    graphs = every_graph(kind)
    built = build(tmp_path, graphs, library=library)
    assert built.returncode == 0 and built.results.keys() == graphs.keys(), built.said
    for label, result in built.results.items():
        assert result["layers"] == ["PLUGIN_V3"], built.said[label]
        assert result["bytes"] > library.stat().st_size, built.said[label]
