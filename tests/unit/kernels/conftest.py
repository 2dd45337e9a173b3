"""The CUDA sources, compiled by g++ and run on host_grid.h, in place of a GPU."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.kernels.compile import KERNELS, SOURCES
from model.kernels.driver import Queue
from model.kernels.params import Launch, Params
from model.ops import launchers

HERE = Path(__file__).parent
# As the GPU computes: no fused multiply-add but those spelled out. The fortified longjmp refuses fibers.
OPTIONS = [
    "-std=c++17",
    "-O2",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
]
GUARD = 64  # bytes on either side of what a kernel writes to
PATTERN = 0xA5


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Every kernel as a function `run_NAME`; CI has a g++, and so must whoever runs these tests."""
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    command = ["g++", *OPTIONS, "-Werror", "-Wno-unknown-pragmas", f"-I{HERE}", f"-I{SOURCES}"]
    command += ["-o", str(library), str(HERE / "host_library.cpp")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(str(library))


class HostGrid:
    """What `launchers` launches on: runs the kernel at once, and looks whether it wrote beside its tensors.

    `order`: which threads run first, host_grid.h.
    """

    queue = Queue(device=-1, stream=0)

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.order = 0
        self.launched: list[str] = []
        self._guarded: list[Tensor] = []

    def launch(self, source: str, kernel: str, params: Params, shape: Launch, queue: Queue) -> None:
        assert queue is self.queue and kernel in KERNELS[source]
        assert 0 < shape.shared_bytes <= 48 * 1024, "more needs an attribute set"
        self.launched.append(kernel)
        run = getattr(self.library, f"run_{kernel}")
        run(ctypes.byref(params), shape.blocks, shape.threads, shape.shared_bytes, self.order)
        for memory in self._guarded:
            edges = torch.cat([memory[:GUARD], memory[-GUARD:]])
            assert (edges == PATTERN).all(), f"{kernel} wrote outside its tensors"
        self._guarded.clear()

    def empty(self, shape: int | tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """torch.empty, filled with rubbish and with guards around it."""
        size = torch.Size([shape] if isinstance(shape, int) else shape)
        memory = torch.full((size.numel() * dtype.itemsize + 2 * GUARD,), PATTERN, dtype=torch.uint8)
        self._guarded.append(memory)
        return memory[GUARD:-GUARD].view(dtype).view(size)


class _TorchOf:
    """torch, but for `empty`."""

    def __init__(self, grid: HostGrid) -> None:
        self.empty = grid.empty

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@pytest.fixture
def grid(host_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> HostGrid:
    """`launchers` on CPU tensors: pass `grid.queue`."""
    host = HostGrid(host_library)
    monkeypatch.setattr(launchers, "launch", host.launch)
    monkeypatch.setattr(launchers, "torch", _TorchOf(host))
    return host
