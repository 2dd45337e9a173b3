"""ONNX Runtime on a GPU with inputs and outputs bound: page-locked host memory on both sides, so that copies
are plain DMA, and the host waits for the outputs of a batch together.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hindsight.errors import RuntimeFailure
from hindsight.runtime.cuda import Gpu

__all__ = ["BoundSession", "HostAllocator", "HostMemory", "host_allocator"]

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
_log = logging.getLogger("hindsight.onnxruntime")


class HostMemory(Protocol):
    """A piece of host memory."""

    bytes: NDArray[np.uint8]

    def free(self) -> None:
        """Give it back; nobody may look at `bytes` afterwards."""
        ...


class BoundSession:
    """Runs a session through IO binding. `allocate` makes host memory of a size.

    Buffers grow to the largest batch and are kept; calls from several threads take turns.
    """

    def __init__(self, session: ort.InferenceSession, allocate: Callable[[int], HostMemory]) -> None:
        self._session, self._allocate = session, allocate
        self._buffers: dict[str, HostMemory] = {}
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch. Raises what ONNX Runtime raises; KeyError for an input that is missing."""
        with self._lock:
            binding = self._session.io_binding()
            extents: dict[str, int] = {}
            for node in self._session.get_inputs():
                values = inputs[node.name]
                place = self._place(node.name, values.dtype, values.shape)
                np.copyto(place, values)
                extents |= {
                    axis: extent
                    for axis, extent in zip(node.shape, values.shape, strict=True)
                    if isinstance(axis, str)
                }
                binding.bind_input(node.name, "cpu", 0, place.dtype.type, place.shape, place.ctypes.data)
            binding.synchronize_inputs()
            places = {}
            for node in self._session.get_outputs():
                shape = _shape(node.shape, extents)
                if shape is None:  # ONNX Runtime finds it out, and allocates
                    binding.bind_output(node.name, "cpu")
                    continue
                places[node.name] = place = self._place(node.name, np.dtype(_TYPES[node.type]), shape)
                binding.bind_output(node.name, "cpu", 0, place.dtype.type, shape, place.ctypes.data)
            self._session.run_with_iobinding(binding)  # waits for the outputs
            named = zip(self._session.get_outputs(), binding.get_outputs(), strict=True)
            return {
                node.name: places[node.name].copy() if node.name in places else value.numpy()
                for node, value in named
            }

    def close(self) -> None:
        """Free the buffers."""
        with self._lock:
            for buffer in self._buffers.values():
                buffer.free()
            self._buffers.clear()

    def _place(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        size = math.prod(shape) * dtype.itemsize
        held = self._buffers.get(name)
        if held is None or held.bytes.size < size:
            if held is not None:
                self._buffers.pop(name).free()
            held = self._buffers[name] = self._allocate(max(size, 1))
        return held.bytes[:size].view(dtype).reshape(shape)


def _shape(axes: list[int | str | None], extents: Mapping[str, int]) -> tuple[int, ...] | None:
    """An output's shape where its open axes are those of inputs."""
    known = [extents.get(axis) if isinstance(axis, str) else axis for axis in axes]
    whole = tuple(extent for extent in known if extent is not None)
    return whole if len(whole) == len(axes) else None


class _Pageable:
    def __init__(self, size: int) -> None:
        self.bytes = np.empty(size, np.uint8)

    def free(self) -> None:
        pass


class HostAllocator:
    """Makes host memory: page-locked by the GPU whose context it keeps open; ordinary where there is none."""

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu

    def __call__(self, size: int) -> HostMemory:
        return _Pageable(size) if self._gpu is None else self._gpu.pin(size)

    def close(self) -> None:
        """Free what was not given back."""
        gpu, self._gpu = self._gpu, None
        if gpu is not None:
            gpu.close()


def host_allocator(device: int) -> HostAllocator:
    """For copies to and from the GPU of that number; where memory cannot be page-locked (cuda-bindings is not
    installed, say) it is ordinary, and the log says so.
    """
    gpu = None
    try:
        gpu = Gpu(device)
        gpu.pin(1).free()
    except RuntimeFailure as error:
        _log.warning("copies to the GPU go through pageable memory, more slowly: %s", error)
        if gpu is not None:
            with suppress(RuntimeFailure):  # a lost GPU refuses that as well
                gpu.close()
        return HostAllocator(None)
    return HostAllocator(gpu)
