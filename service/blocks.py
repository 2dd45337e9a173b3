"""Tensors in shared memory: how arrays are laid out in one block, by both sides of a worker's pipe.

A layout is JSON, `[[name, dtype, shape, offset], ...]`; only layouts travel through the pipe, pixels never
do.
"""

import contextlib
import math
import os
from collections.abc import Mapping
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from numpy.typing import NDArray

Layout = list[list[Any]]
_ALIGNMENT = 64
_GRANULE = 2**20


class BlockFullError(Exception):
    """The arrays need more bytes than the block holds."""


def packed_size(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Bytes that `write_arrays` needs for these arrays."""
    return sum(_aligned(array.nbytes) for array in arrays.values())


def write_arrays(buffer: memoryview, arrays: Mapping[str, NDArray[Any]]) -> Layout:
    """Copy the arrays into `buffer` one after the other; BlockFullError when they do not fit."""
    if packed_size(arrays) > len(buffer):
        raise BlockFullError(f"{packed_size(arrays)} bytes of tensors for a block of {len(buffer)}")
    layout: Layout = []
    offset = 0
    for name, array in arrays.items():
        target = np.ndarray(array.shape, array.dtype, buffer=buffer, offset=offset)
        target[...] = array
        layout.append([name, array.dtype.str, list(array.shape), offset])
        offset += _aligned(array.nbytes)
    return layout


def read_arrays(buffer: memoryview, layout: Layout, *, copy: bool) -> dict[str, NDArray[Any]]:
    """The arrays of a layout; views into `buffer` unless `copy`."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype, shape, offset in layout:
        view: NDArray[Any] = np.ndarray(tuple(shape), np.dtype(dtype), buffer=buffer, offset=offset)
        arrays[name] = view.copy() if copy else view
    return arrays


class OwnedBlock:
    """A block this process created and will unlink; replaced by a larger one when it must grow."""

    def __init__(self) -> None:
        self._memory: SharedMemory | None = None

    @property
    def name(self) -> str:
        assert self._memory is not None, "ensure() comes first"
        return self._memory.name

    @property
    def buffer(self) -> memoryview:
        assert self._memory is not None and self._memory.buf is not None, "ensure() comes first"
        return self._memory.buf

    def ensure(self, size: int) -> None:
        """Hold at least `size` bytes. OSError when the machine has no room for them."""
        if self._memory is not None and self._memory.size >= size:
            return
        self.close()
        memory = SharedMemory(create=True, size=math.ceil(size / _GRANULE) * _GRANULE)
        try:
            _reserve_pages(memory)
        except OSError:
            memory.close()
            memory.unlink()
            raise
        self._memory = memory

    def close(self) -> None:
        """Give the memory back to the system; the block may be ensured again."""
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None


class AttachedBlock:
    """The worker's view of the block that the server named last."""

    def __init__(self) -> None:
        self._memory: SharedMemory | None = None

    def attach(self, name: str) -> memoryview:
        """The buffer of block `name`; the one attached before is let go."""
        if self._memory is None or self._memory.name != name:
            self.close()
            self._memory = SharedMemory(name=name)
        buffer = self._memory.buf
        assert buffer is not None, "an attached block is mapped"
        return buffer

    def close(self) -> None:
        if self._memory is not None:
            # A runtime may still hold a view of its last input; the mapping then lives until that view dies.
            with contextlib.suppress(BufferError):
                self._memory.close()
            self._memory = None


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _reserve_pages(memory: SharedMemory) -> None:
    """Back the block with real pages now: a full /dev/shm is then an OSError here, not a SIGBUS in the middle
    of a copy.
    """
    path = f"/dev/shm/{memory.name}"
    if not hasattr(os, "posix_fallocate") or not os.path.exists(path):
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, memory.size)
    finally:
        os.close(descriptor)
