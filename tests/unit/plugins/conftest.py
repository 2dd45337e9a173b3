"""Both forms of the plugins; g++ compiles the C++ one against our own declarations of TensorRT's API."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from model.kernels.compile import SOURCES
from tests.unit.kernels.conftest import HERE as KERNEL_TESTS
from tests.unit.kernels.conftest import OPTIONS
from tests.unit.plugins.forms import CppForm, Form, PythonForm

HERE = Path(__file__).parent
CPP = Path(__file__).parents[3] / "export" / "plugins" / "cpp"
INCLUDES = [
    f"-I{folder}" for folder in (HERE / "tensorrt_api", HERE / "host_cuda", KERNEL_TESTS, SOURCES, CPP)
]


@pytest.fixture(scope="session")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> CppForm:
    """The C++ plugins on the host grid. -Werror: nothing in them makes the compiler frown."""
    library = tmp_path_factory.mktemp("plugins") / "plugins.so"
    sources = [HERE / "host_plugins.cpp", *sorted(CPP.glob("*.cpp"))]
    command = ["g++", *OPTIONS, "-Werror", "-Wno-unknown-pragmas", *INCLUDES, "-o", str(library)]
    built = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return CppForm(ctypes.CDLL(str(library)))


@pytest.fixture(params=["python", "cpp"])
def form(request: pytest.FixtureRequest) -> Form:
    """One form after the other."""
    return PythonForm() if request.param == "python" else request.getfixturevalue("cpp")
