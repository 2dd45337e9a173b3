"""The fakes, compiled once, and a model to build engines of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hindsight.artifact import Artifact
from tests.factories import make_tiny_artifact
from tests.unit.runtime.pretend import HERE


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module tensorrt and NVIDIA's driver in it."""
    folder = tmp_path_factory.mktemp("fakes")
    (folder / "tensorrt.py").write_text((HERE / "fake_tensorrt.py").read_text())
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    command += ["-o", str(folder / "libcuda.so.1"), str(HERE / "fake_gpu.cpp")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "tiny")
