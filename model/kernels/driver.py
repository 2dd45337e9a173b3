"""Load compiled kernels into a GPU and launch them, through cuda.bindings; no torch.

Everything happens in the device's primary context, which torch and TensorRT use too. A kernel is loaded at
its first launch on a device, which no CUDA graph capture may contain: run an operator once before, or `load`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from model.kernels.compile import KernelError, KernelsUnavailable, compiled, target
from model.kernels.params import MAX_BLOCKS, Launch, Params

_loading = threading.Lock()


@dataclass(frozen=True)
class Queue:
    """Where a kernel runs: the number of the GPU and the handle of the stream (torch: stream.cuda_stream)."""

    device: int
    stream: int


def launch(source: str, kernel: str, params: Params, shape: Launch, queue: Queue) -> None:
    """Enqueue one kernel of SOURCE.cu; returns at once. The driver copies `params` before it returns.

    Raises KernelError, KernelsUnavailable.
    """
    if shape.blocks > MAX_BLOCKS:
        raise KernelError(f"{kernel}: {shape.blocks} blocks are more than a grid holds ({MAX_BLOCKS})")
    with _bound(queue.device) as driver:
        function = _function(source, kernel, queue.device)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        answer = driver.cuLaunchKernel(
            function,
            *(shape.blocks, 1, 1),
            *(shape.threads, 1, 1),
            shape.shared_bytes,
            queue.stream,
            ctypes.addressof(pointers),
            0,
        )
    _checked(answer, f"launching {kernel}")


def load(source: str, kernel: str, device: int) -> None:
    """Compile and load one kernel of SOURCE.cu now: a CUDA graph may capture its first launch.

    Raises KernelError, KernelsUnavailable.
    """
    with _bound(device) as driver:
        function = _function(source, kernel, device)
        try:
            # the driver may put off loading to the first launch
            answer = driver.cuFuncLoad(function)
        except RuntimeError:
            return  # how the binding says that a driver, older than CUDA 12.4, lacks the call
    _checked(answer, f"loading {kernel} into GPU {device}")


def current_device() -> int:
    """Number of the GPU whose context is current in this thread; where none is, 0, as CUDA's runtime has it.

    Raises KernelError, KernelsUnavailable.
    """
    driver = _driver()
    if int(_checked(driver.cuCtxGetCurrent(), "asking for the CUDA context")) == 0:
        return 0
    return int(_checked(driver.cuCtxGetDevice(), "asking for the current GPU"))


@cache
def _driver() -> ModuleType:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise KernelsUnavailable(f"the package cuda-bindings is not installed ({error})") from error
    try:
        answer = driver.cuInit(0)
    except (RuntimeError, OSError) as error:
        raise KernelsUnavailable(f"NVIDIA's driver was not found ({error})") from error
    if int(answer[0]) != 0:
        raise KernelsUnavailable(f"the NVIDIA driver does not start: cuInit gives {answer[0]!r}")
    return driver  # type: ignore[no-any-return]


@cache
def _primary_context(device: int) -> Any:
    driver = _driver()
    handle = _checked(driver.cuDeviceGet(device), f"finding GPU {device}")
    return _checked(driver.cuDevicePrimaryCtxRetain(handle), f"opening GPU {device}")


@contextmanager
def _bound(device: int) -> Iterator[ModuleType]:
    """The driver, with the device's context current. Threads that have called nothing of CUDA yet have none;
    where there is another it comes back, since torch takes its current device from it.
    """
    driver = _driver()
    wanted = _primary_context(device)
    before = _checked(driver.cuCtxGetCurrent(), "asking for the CUDA context")
    if int(before) == int(wanted):
        yield driver
        return
    _checked(driver.cuCtxSetCurrent(wanted), f"switching to GPU {device}")
    try:
        yield driver
    finally:
        _checked(driver.cuCtxSetCurrent(before), "switching back")


@cache
def _capability(device: int) -> tuple[int, int]:
    driver = _driver()
    handle = _checked(driver.cuDeviceGet(device), f"finding GPU {device}")
    names = driver.CUdevice_attribute
    wanted = (
        names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )
    major, minor = (
        _checked(driver.cuDeviceGetAttribute(name, handle), f"asking GPU {device} for its capability")
        for name in wanted
    )
    return major, minor


def _function(source: str, kernel: str, device: int) -> Any:
    with _loading:  # two threads would load the same module twice
        return _loaded_function(source, kernel, device)


@cache
def _loaded_function(source: str, kernel: str, device: int) -> Any:
    module = _loaded_module(source, device)
    return _checked(
        _driver().cuModuleGetFunction(module, kernel.encode()), f"finding {kernel} in {source}.cu"
    )


@cache
def _loaded_module(source: str, device: int) -> Any:
    """Never unloaded: a process runs a handful of sources."""
    image = compiled(source, *target(_capability(device)))
    buffer = ctypes.create_string_buffer(image, len(image))
    return _checked(
        _driver().cuModuleLoadData(ctypes.addressof(buffer)), f"loading {source}.cu into GPU {device}"
    )


def _checked(answer: tuple[Any, ...], doing: str) -> Any:
    """What a call of the driver returned after its status. Raises KernelError."""
    status, *values = answer
    if int(status) != 0:
        raise KernelError(f"{doing}: the CUDA driver says {getattr(status, 'name', status)}")
    return values[0] if values else None
