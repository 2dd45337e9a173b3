"""One GPU's share of the torch runtime: staging, streams, graphs, and a single wait of the host per batch.

A batch goes through these steps, and while the host waits in the last one for one batch, another thread's
batch is in the first two:
    host memory -> pinned buffer                       the calling thread
    pinned buffer -> GPU, one copy                      copy stream
    detector: a CUDA graph's replay, or its kernels     compute stream
    outputs, packed -> pinned buffer, one copy          compute stream
    wait, unpack                                        the calling thread
"""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.torch_graphs import CapturedGraph, Function, GraphCache
from export.torch_packing import Layout, layout_of, packed, tensor_of

Arrays = Mapping[str, NDArray[Any]]
_SLOTS = 2  # one batch computes while the next is staged
_STAGED = "staged"  # the packed inputs' name among a graph's inputs


class CudaExecutor:
    """Runs functions of tensors on `device`; safe to call from several threads.

    context: entered around every run of a function. graphs: how many CUDA graphs are kept.
    """

    def __init__(
        self,
        device: torch.device,
        functions: Mapping[str, Function],
        context: Callable[[], AbstractContextManager[None]],
        graphs: int,
    ) -> None:
        self._functions, self._context = dict(functions), context
        self._device = device
        lane = lane_of(device)
        self._copies, self.stream, self._lock = lane.copies, lane.compute, lane.lock
        self._graphs = GraphCache(
            graphs, before_drop=self.stream.synchronize, after_drop=torch.cuda.empty_cache
        )
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(_SLOTS):
            self._slots.put(_Slot(device))

    @property
    def captured(self) -> int:
        """How many graphs are kept now."""
        return len(self._graphs)

    def run(
        self, what: str, inputs: Arrays, on_device: Mapping[str, Tensor] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one batch and wait for it.

        on_device: inputs that lie on the GPU already, written by work of `stream`.
        """
        return self.submit(what, inputs, on_device).result()

    def submit(
        self, what: str, inputs: Arrays, on_device: Mapping[str, Tensor] | None = None
    ) -> PendingBatch:
        """Enqueue one batch. Two may be under way: a third waits until the result of one has been taken."""
        slot = self._slots.get()
        try:
            layout = slot.stage(inputs)
            with self._lock:
                self._enqueue(slot, what, layout, dict(on_device or {}))
        except BaseException:
            self._slots.put(slot)
            raise
        return PendingBatch(slot, self._slots)

    def to_device(self, arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
        """Copies of `arrays` for the work of `stream`, made on the copy stream."""
        pinned = [tensor_of(values).pin_memory() for values in arrays]
        with self._lock:
            with torch.cuda.stream(self._copies):
                copies = [values.to(self._device, non_blocking=True) for values in pinned]
                arrived = torch.cuda.Event()
                arrived.record(self._copies)
            self.stream.wait_event(arrived)
            for values in copies:
                # whoever drops one early must not let the copy stream write there while it is being read
                values.record_stream(self.stream)
        return copies

    @contextmanager
    def enqueuing(self) -> Iterator[None]:
        """Within it, torch's work goes to the compute stream, and nobody captures a graph there meanwhile."""
        with self._lock, torch.cuda.stream(self.stream), torch.no_grad():
            yield

    def close(self) -> None:
        """Wait for what runs, then free graphs, buffers and functions."""
        with self._lock:
            self._copies.synchronize()
            self.stream.synchronize()
            self._graphs.clear()
            self._functions.clear()
            while not self._slots.empty():
                self._slots.get().free()
            gc.collect()  # what torch.compile has wrapped refers to itself
            # under the lock: the allocator may not wait for events while another model captures a graph
            torch.cuda.empty_cache()

    def _enqueue(self, slot: _Slot, what: str, layout: Layout, on_device: dict[str, Tensor]) -> None:
        with torch.cuda.stream(self._copies):
            staged = slot.upload(layout)
            slot.arrived.record(self._copies)
        with torch.cuda.stream(self.stream), self._context():
            self.stream.wait_event(slot.arrived)
            outputs, out_layout = self._execute(what, layout, {_STAGED: staged, **on_device})
            slot.download(outputs, out_layout)
            slot.done.record(self.stream)

    def _execute(self, what: str, layout: Layout, inputs: dict[str, Tensor]) -> tuple[Tensor, Layout]:
        """Outputs, packed, by a graph where the bucket has one."""
        function = self._functions[what]

        def of_staged(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            rest = {name: values for name, values in given.items() if name != _STAGED}
            return function({**layout.tensors(given[_STAGED]), **rest})

        shapes = tuple((name, values.dtype, tuple(values.shape)) for name, values in inputs.items())
        graph = self._graphs.get(
            (what, layout, shapes),
            lambda: CapturedGraph(of_staged, inputs, self.stream, self._graphs.pool),
        )
        if graph is not None:
            return graph.run(inputs)
        try:
            return packed(of_staged(inputs))
        except torch.OutOfMemoryError:
            if not len(self._graphs):
                raise
        # out of the except block: its traceback holds tensors
        self._graphs.clear()
        return packed(of_staged(inputs))


class PendingBatch:
    """A batch on its way through the GPU."""

    def __init__(self, slot: _Slot, home: queue.SimpleQueue[_Slot]) -> None:
        self._slot: _Slot | None = slot
        self._home = home

    def result(self) -> dict[str, NDArray[Any]]:
        """Wait for the batch, the only time that the host waits, and read it. To be called once."""
        slot, self._slot = self._slot, None
        if slot is None:
            raise ValueError("the result was taken already")
        try:
            slot.done.synchronize()
            return slot.read()
        finally:
            self._home.put(slot)


class _Slot:
    """The buffers and events of one batch under way. Buffers grow to the largest batch met."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned_in, self._pinned_out = (_pinned(0) for _ in range(2))
        self._on_device = torch.empty(0, dtype=torch.uint8, device=device)
        self._out_layout = Layout(())
        self.arrived, self.done = torch.cuda.Event(), torch.cuda.Event()

    def stage(self, inputs: Arrays) -> Layout:
        """Copy `inputs` into pinned memory."""
        layout = layout_of(inputs)
        if self._pinned_in.numel() < layout.bytes:
            self._pinned_in = _pinned(layout.bytes)
        for name, place in layout.arrays(self._pinned_in.numpy()).items():
            np.copyto(place, inputs[name])
        return layout

    def upload(self, layout: Layout) -> Tensor:
        """Begin the copy of what was staged; the current stream is the copy stream."""
        if self._on_device.numel() < layout.bytes:
            self._on_device = torch.empty(layout.bytes, dtype=torch.uint8, device=self._device)
        target = self._on_device[: layout.bytes]
        target.copy_(self._pinned_in[: layout.bytes], non_blocking=True)
        return target

    def download(self, outputs: Tensor, layout: Layout) -> None:
        """Begin the copy of packed outputs; the current stream is the compute stream."""
        if self._pinned_out.numel() < layout.bytes:
            self._pinned_out = _pinned(layout.bytes)
        self._pinned_out[: layout.bytes].copy_(outputs, non_blocking=True)
        self._out_layout = layout

    def read(self) -> dict[str, NDArray[Any]]:
        """The outputs, in memory of their own: the pinned buffer is the next batch's."""
        views = self._out_layout.arrays(self._pinned_out.numpy())
        return {name: values.copy() for name, values in views.items()}

    def free(self) -> None:
        """Drop the buffers."""
        self._pinned_in, self._pinned_out = (_pinned(0) for _ in range(2))
        self._on_device = torch.empty(0, dtype=torch.uint8, device=self._device)


def _pinned(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8, pin_memory=True)


@dataclass(frozen=True)
class Lane:
    """A GPU's two streams, and who may hand them work now."""

    copies: torch.cuda.Stream
    compute: torch.cuda.Stream
    lock: threading.Lock


@cache
def lane_of(device: torch.device) -> Lane:
    """One a GPU for all runtimes of the process. Libraries keep a workspace for each stream that has ever
    called them: new streams for each model loaded would cost memory for good. And what anybody enqueues while
    a graph is being captured would become part of it.
    """
    return Lane(torch.cuda.Stream(device), torch.cuda.Stream(device), threading.Lock())
