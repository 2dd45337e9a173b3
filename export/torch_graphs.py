"""CUDA graphs: one a bucket (what is run, and the shapes of its inputs), for the buckets that keep coming.

A graph replays a batch's few hundred kernels with one call. It needs fixed addresses: inputs are copied into
buffers of its own, outputs come packed in one (torch_packing.py). Intermediates lie in a memory pool that all
graphs share: they never run at the same time, and what one leaves there is read before the next one runs. So
sixteen graphs take little more than the largest of them. The pool goes back with the last graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from export.torch_packing import Layout, packed
from hindsight.runtime.recurring import RecurringCache

Function = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
MEETINGS, MEETINGS_WHEN_FULL = 2, 16
_log = logging.getLogger("hindsight.torch")


class Replayable(Protocol):
    """A bucket that was captured. pool: of its intermediates, for other graphs to share."""

    @property
    def pool(self) -> Any: ...

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Layout]:
        """Enqueue it on the current stream; the packed outputs are good until the next `run`."""
        ...

    def drop(self) -> None:
        """Free its memory; nothing of it may be running."""
        ...


class CapturedGraph:
    """`function` on inputs of the shapes of `inputs`, captured on `stream`, which is the current one.

    It is run once before: kernels are loaded, workspaces allocated and cuDNN's algorithms chosen by a first
    run, and no capture may contain that. pool: of another graph that never runs at the same time. Raises
    RuntimeError where the function cannot be captured.
    """

    def __init__(
        self, function: Function, inputs: Mapping[str, Tensor], stream: torch.cuda.Stream, pool: Any = None
    ) -> None:
        self._inputs = {name: values.clone() for name, values in inputs.items()}
        function(self._inputs)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may allocate pinned memory meanwhile
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._outputs, self._layout = packed(function(self._inputs))

    @property
    def pool(self) -> Any:
        """See Replayable."""
        return self._graph.pool()

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
    of any shape many come once; recurring.py says when it takes another one's place, since a capture costs as
    much as several batches.

    before_drop: makes sure that nothing is running. after_drop: hands freed memory back.
    """

    def __init__(
        self, limit: int, *, before_drop: Callable[[], None], after_drop: Callable[[], None]
    ) -> None:
        self._graphs: RecurringCache[Replayable] = RecurringCache(
            limit, meetings=MEETINGS, proof=MEETINGS_WHEN_FULL
        )
        self._before_drop, self._after_drop = before_drop, after_drop
        self._refused = False

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def pool(self) -> Any:
        """The memory pool of the graphs that are kept; None where there is none."""
        kept = self._graphs.any()
        return None if kept is None else kept.pool

    def get(self, bucket: Hashable, capture: Callable[[], Replayable]) -> Replayable | None:
        """The bucket's graph, captured now if it is time; None: run without one."""
        graph = self._graphs.get(bucket)
        if graph is not None or self._refused or not self._graphs.earns(bucket):
            return graph
        while self._graphs.is_full():
            self._drop(1)
        graph = self._captured(capture)
        if graph is not None:
            self._graphs.put(bucket, graph)
        return graph

    def clear(self) -> bool:
        """Drop all of them; whether there were any."""
        return self._drop(len(self._graphs))

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
            self._graphs.limit = 0
            _log.warning("batches run without CUDA graphs, more slowly: too little GPU memory for one")
            return None
        return self._captured(capture)

    def _drop(self, count: int) -> bool:
        if count:
            self._before_drop()
            for _ in range(count):
                self._graphs.pop_oldest().drop()
            self._after_drop()
        return count > 0
