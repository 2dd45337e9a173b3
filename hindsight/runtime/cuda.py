"""One GPU through NVIDIA's driver: memory, streams, events and graphs, all freed together. No torch.

Everything lives in the device's primary context, which TensorRT and our kernels use too.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import OptionError, RuntimeFailure
from hindsight.extras import install_extra
from hindsight.runtime.cuda_errors import failure_kind

__all__ = ["Gpu", "PinnedMemory", "gpu_number"]

_NAME_BYTES = 256


def gpu_number(device: str) -> int:
    """0 of "cuda", N of "cuda:N". Raises OptionError for anything else."""
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", device)
    if match is None:
        raise OptionError(f"device must be cuda or cuda:N, got {device!r}")
    return int(match[1] or 0)


class PinnedMemory:
    """Host memory that the GPU copies from and to by itself; zeroed."""

    def __init__(self, address: int, size: int, release: Callable[[int], None]) -> None:
        self._address, self._release = address, release
        whole = np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(address))
        whole[:] = 0
        self.bytes: NDArray[np.uint8] = whole[:size]

    def free(self) -> None:
        """Give it back, once; nobody may look at `bytes`, or copies of that view, afterwards."""
        self.bytes = np.empty(0, np.uint8)
        self._release(self._address)


class Gpu:
    """A GPU and what was made on it; `close` frees all of that, newest first.

    Methods but `close` and `pin` need the GPU to be the current one: `with gpu.current():`. Each raises
    RuntimeFailure with what the driver says; DeviceLost where it will say so for good, OutOfMemory where it
    has no room. Not for several threads at once, but for `pin`.
    """

    def __init__(self, number: int = 0) -> None:
        self._driver = _driver()
        self.number = number
        self._handle = handle = self._call("finding the GPU", self._driver.cuDeviceGet(number))
        name = self._call("asking the GPU for its name", self._driver.cuDeviceGetName(_NAME_BYTES, handle))
        self.name: str = name.split(b"\0")[0].decode()
        self.capability = self._capability(handle)
        self._made = ExitStack()
        self._graphs: dict[int, Any] = {}
        self._pinned: set[int] = set()
        self._context = self._call("opening the GPU", self._driver.cuDevicePrimaryCtxRetain(handle))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the calling thread's GPU; the one before comes back."""
        before = self._call("asking for the context", self._driver.cuCtxGetCurrent())
        self._call("switching to the GPU", self._driver.cuCtxSetCurrent(self._context))
        try:
            yield
        finally:
            self._call("switching back", self._driver.cuCtxSetCurrent(before))

    def close(self) -> None:
        """Free everything; to be called once, when nothing runs any more."""
        with self.current():
            for graph in self._graphs.values():
                self._driver.cuGraphExecDestroy(graph)
            self._graphs.clear()
            self._made.close()
            while self._pinned:
                self._driver.cuMemFreeHost(self._pinned.pop())
        self._call("closing the GPU", self._driver.cuDevicePrimaryCtxRelease(self._handle))

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of device memory, aligned to 256."""
        address = int(self._call(f"allocating {size} bytes", self._driver.cuMemAlloc(max(size, 1))))
        self._made.callback(self._driver.cuMemFree, address)
        return address

    def pin(self, size: int) -> PinnedMemory:
        """`size` bytes of host memory, to be freed before `close` or by it."""
        with self.current():
            address = int(self._call(f"pinning {size} bytes", self._driver.cuMemHostAlloc(max(size, 1), 0)))
        self._pinned.add(address)
        return PinnedMemory(address, size, self._unpin)

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = self._call("making a stream", self._driver.cuStreamCreate(int(flags)))
        self._made.callback(self._driver.cuStreamDestroy, stream)
        return stream

    def event(self) -> Any:
        """An event that only orders, and takes no time."""
        flags = self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        event = self._call("making an event", self._driver.cuEventCreate(int(flags)))
        self._made.callback(self._driver.cuEventDestroy, event)
        return event

    def upload(self, target: int, source: NDArray[np.uint8], stream: Any) -> None:
        """Enqueue the copy of pinned bytes to the device."""
        self._call(
            "copying to the GPU",
            self._driver.cuMemcpyHtoDAsync(target, source.ctypes.data, source.nbytes, stream),
        )

    def download(self, target: NDArray[np.uint8], source: int, stream: Any) -> None:
        """Enqueue the copy from the device to pinned bytes."""
        self._call(
            "copying from the GPU",
            self._driver.cuMemcpyDtoHAsync(target.ctypes.data, source, target.nbytes, stream),
        )

    def move(self, target: int, source: int, size: int, stream: Any) -> None:
        """Enqueue a copy within the device's memory."""
        self._call("copying on the GPU", self._driver.cuMemcpyDtoDAsync(target, source, size, stream))

    def record(self, event: Any, stream: Any) -> None:
        """The event happens when all that was enqueued on the stream so far is done."""
        self._call("recording an event", self._driver.cuEventRecord(event, stream))

    def order(self, stream: Any, event: Any) -> None:
        """What comes on the stream from now on waits for the event."""
        self._call("waiting for an event", self._driver.cuStreamWaitEvent(stream, event, 0))

    def wait(self, event: Any) -> None:
        """Block the calling thread until the event has happened."""
        self._call("running on the GPU", self._driver.cuEventSynchronize(event))

    def synchronize(self, stream: Any) -> None:
        """Block the calling thread until the stream is empty."""
        self._call("running on the GPU", self._driver.cuStreamSynchronize(stream))

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """What `enqueue` puts on the stream, as a graph for `launch`; nothing is executed.

        Raises what `enqueue` raises, RuntimeFailure where something in it cannot be captured.
        """
        driver = self._driver
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("beginning a capture", driver.cuStreamBeginCapture(stream, mode))
        try:
            enqueue()
        except BaseException:
            status, graph = driver.cuStreamEndCapture(stream)
            if int(status) == 0:  # TensorRT gave up, but the capture is not void
                driver.cuGraphDestroy(graph)
            raise
        graph = self._call("ending a capture", driver.cuStreamEndCapture(stream))
        try:
            launchable = self._call("readying a graph", driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)
        self._graphs[int(launchable)] = launchable
        return launchable

    def forget(self, graph: Any) -> None:
        """Free a captured graph that nothing runs any more."""
        self._call("freeing a graph", self._driver.cuGraphExecDestroy(self._graphs.pop(int(graph))))

    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueue a captured graph."""
        self._call("launching a graph", self._driver.cuGraphLaunch(graph, stream))

    def _unpin(self, address: int) -> None:
        if address in self._pinned:
            self._pinned.remove(address)
            with self.current():
                self._call("unpinning memory", self._driver.cuMemFreeHost(address))

    def _capability(self, handle: Any) -> str:
        names = self._driver.CUdevice_attribute
        wanted = (
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
        parts = (
            self._call("asking the GPU for its kind", self._driver.cuDeviceGetAttribute(name, handle))
            for name in wanted
        )
        return ".".join(str(part) for part in parts)

    def _call(self, doing: str, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        if int(status) != 0:
            said = f"the CUDA driver says {getattr(status, 'name', status)}"
            raise failure_kind(said, int(status))(f"GPU {self.number}, {doing}: {said}")
        return values[0] if values else None


@cache
def _driver() -> ModuleType:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise RuntimeFailure(
            f"the package cuda-bindings cannot be imported ({error}): {install_extra('gpu')}"
        ) from error
    try:
        status = driver.cuInit(0)[0]
    except (RuntimeError, OSError) as error:
        raise RuntimeFailure(
            "no NVIDIA GPU can be used here: its driver (libcuda.so.1) was not found"
        ) from error
    if int(status) != 0:
        raise RuntimeFailure(
            f"no NVIDIA GPU can be used here: its driver says {getattr(status, 'name', status)}"
        )
    return driver  # type: ignore[no-any-return]
