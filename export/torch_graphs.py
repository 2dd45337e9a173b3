"""CUDA graphs: one a bucket (what is run, and the shapes of its inputs), the least recently used dropped.

A graph replays a batch's few hundred kernels with one call. It needs fixed addresses: inputs are copied into
buffers of its own, outputs come packed in one (torch_packing.py). Its intermediates live in a memory pool of
its own, so that dropping it gives all of its memory back.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from export.torch_packing import Layout, packed

Function = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
MEETINGS, MEETINGS_WHEN_FULL = 2, 8
_BUCKETS_REMEMBERED = 1024
_log = logging.getLogger("hindsight.torch")


class Replayable(Protocol):
    """A bucket that was captured."""

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Layout]:
        """Enqueue it on the current stream; the packed outputs are good until the next `run`."""
        ...

    def drop(self) -> None:
        """Free its memory; nothing of it may be running."""
        ...


class CapturedGraph:
    """`function` on inputs of the shapes of `inputs`, captured on `stream`, which is the current one.

    It is run once before: kernels are loaded, workspaces allocated and cuDNN's algorithms chosen by a first
    run, and no capture may contain that. Raises RuntimeError where the function cannot be captured.
    """

    def __init__(self, function: Function, inputs: Mapping[str, Tensor], stream: torch.cuda.Stream) -> None:
        self._inputs = {name: values.clone() for name, values in inputs.items()}
        function(self._inputs)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may allocate pinned memory meanwhile
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._outputs, self._layout = packed(function(self._inputs))

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Layout]:
        """See Replayable."""
        for name, values in self._inputs.items():
            values.copy_(inputs[name], non_blocking=True)
        self._graph.replay()
        return self._outputs, self._layout

    def drop(self) -> None:
        """See Replayable."""
        self._graph.reset()
        self._inputs.clear()
        del self._outputs


class GraphCache:
    """At most `limit` captured buckets. One is captured when it comes for the second time, since on photos
    of any shape many come once; where another has to make room for it, when it has come more often, since a
    capture costs as much as several batches.

    before_drop: makes sure that nothing is running. after_drop: hands freed memory back.
    """

    def __init__(
        self, limit: int, *, before_drop: Callable[[], None], after_drop: Callable[[], None]
    ) -> None:
        self._limit = limit
        self._before_drop, self._after_drop = before_drop, after_drop
        self._graphs: OrderedDict[Hashable, Replayable] = OrderedDict()
        self._met: OrderedDict[Hashable, int] = OrderedDict()  # how often, since it had a graph
        self._refused = False

    def __len__(self) -> int:
        return len(self._graphs)

    def get(self, bucket: Hashable, capture: Callable[[], Replayable]) -> Replayable | None:
        """The bucket's graph, captured now if it is time; None: run without one."""
        if bucket in self._graphs:
            self._graphs.move_to_end(bucket)
            return self._graphs[bucket]
        if not self._limit or self._refused:
            return None
        is_full = len(self._graphs) >= self._limit
        if self._meet(bucket) < (MEETINGS_WHEN_FULL if is_full else MEETINGS):
            return None
        del self._met[bucket]
        while len(self._graphs) >= self._limit:
            self._drop(1)
        graph = self._captured(capture)
        if graph is not None:
            self._graphs[bucket] = graph
        return graph

    def clear(self) -> bool:
        """Drop all of them; whether there were any."""
        return self._drop(len(self._graphs))

    def _meet(self, bucket: Hashable) -> int:
        self._met[bucket] = self._met.pop(bucket, 0) + 1
        if len(self._met) > _BUCKETS_REMEMBERED:
            self._met.popitem(last=False)
        return self._met[bucket]

    def _captured(self, capture: Callable[[], Replayable]) -> Replayable | None:
        try:
            return capture()
        except torch.OutOfMemoryError:
            out_of_memory = True
        except RuntimeError as error:
            self._refused = True
            _log.warning("batches run without CUDA graphs, more slowly: capture failed with %s", error)
            return None
        assert out_of_memory  # out of the except block: its traceback holds tensors
        self._after_drop()
        if not self.clear():
            self._limit = 0
            _log.warning("batches run without CUDA graphs, more slowly: too little GPU memory for one")
            return None
        return self._captured(capture)

    def _drop(self, count: int) -> bool:
        if count:
            self._before_drop()
            for _ in range(count):
                self._graphs.popitem(last=False)[1].drop()
            self._after_drop()
        return count > 0
