"""The execution contexts of one TensorRT plan: a loose one for any shape, others for the shapes that keep
coming.

A context can be captured as a CUDA graph once it has run a shape, and must stay as it was from then on. To
make one takes TensorRT a tenth of a second, and TensorRT for RTX, which compiles kernels for it, seconds. So
a shape earns a context of its own by coming again (recurring.py); all others are run in the loose one, which
is told the shape before it runs and never compiles: it costs launches, no waiting. No call makes more than
one.

All contexts share one working space, and one block of inputs and one of outputs: executions follow each other
on one stream.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hindsight.engines import Bucket
from hindsight.errors import DeviceLost, RuntimeFailure
from hindsight.runtime.blocks import IMAGES, BlockTensor, fill, place
from hindsight.runtime.buckets import Step
from hindsight.runtime.cuda import Gpu
from hindsight.runtime.recurring import RecurringCache

__all__ = ["Contexts", "Execution"]

READY_SHAPES = 32  # at most; each holds a context and a graph
# How often a shape comes before it gets a context, and before it takes another's.
_MEETINGS, _MEETINGS_OF_RTX, _MEETINGS_WHEN_FULL = 2, 8, 16
_LAYOUTS_REMEMBERED = 1024
_LOG = logging.getLogger(__name__)
Hw = tuple[int, int]


@dataclass(frozen=True)
class _Layout:
    """A bucket's batch of images of one height and width: where its tensors lie in the blocks."""

    index: int
    bucket: Bucket
    hw: Hw
    inputs: tuple[BlockTensor, ...]
    outputs: tuple[BlockTensor, ...]


@dataclass(frozen=True)
class Execution:
    """What runs a layout. graph: captured; where there is none `context` runs it. loose: the context is
    shared, and has to be told the shape first.
    """

    layout: _Layout
    context: Any
    graph: Any
    loose: bool


class Contexts:
    """engine: deserialised, its buckets in the order of its profiles, its work going to `stream`.

    inputs, outputs: names of its tensors, as they lie in the blocks; dtypes: of all of them. The caller makes
    the GPU current around every call. Raises RuntimeFailure.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        buckets: Sequence[Bucket],
        gpu: Gpu,
        name: str,
        stream: Any,
        inputs: Sequence[str],
        outputs: Sequence[str],
        dtypes: dict[str, np.dtype[Any]],
    ) -> None:
        self._trt, self._engine, self._gpu, self._name, self._stream = trt, engine, gpu, name, stream
        self._buckets, self._inputs, self._outputs, self._dtypes = buckets, inputs, outputs, dtypes
        self._configs = {specialised: self._runtime_config(specialised) for specialised in (False, True)}
        self._is_rtx = self._configs[True] is not None
        sizes = [engine.get_device_memory_size_for_profile_v2(index) for index in range(len(buckets))]
        self._scratch_size = max(sizes)
        self._scratch = gpu.allocate(self._scratch_size)
        self._loose = self._context(specialised=False)
        self._loose_at: tuple[int, Hw] | None = None
        self._layouts: OrderedDict[tuple[int, Hw], _Layout] = OrderedDict()
        largest = [self._layout(index, (each.height, each.width)) for index, each in enumerate(buckets)]
        self.input_bytes = max(layout.inputs[-1].end for layout in largest)
        self.output_bytes = max(layout.outputs[-1].end for layout in largest)
        self._input_block, self._output_block = (
            gpu.allocate(self.input_bytes),
            gpu.allocate(self.output_bytes),
        )
        meetings = _MEETINGS_OF_RTX if self._is_rtx else _MEETINGS
        self._ready: RecurringCache[Execution] = RecurringCache(
            READY_SHAPES, meetings=meetings, proof=_MEETINGS_WHEN_FULL
        )

    @property
    def input_block(self) -> int:
        """Where an execution reads."""
        return self._input_block

    @property
    def output_block(self) -> int:
        """Where it writes."""
        return self._output_block

    def warm_up(self, staged: Any, seconds: float) -> None:
        """Run once, which shows that the engine runs here; then make buckets ready at their own size, the
        smallest batches first, until the time is over. staged: pinned bytes, for blank inputs.
        """
        order = sorted(range(len(self._buckets)), key=lambda index: (self._buckets[index].batch, index))
        deadline = time.monotonic() + seconds
        first = self._buckets[order[0]]
        self._run_blank(Execution(self._layout(order[0], _own(first)), self._loose, None, loose=True), staged)
        for index in order:
            if time.monotonic() >= deadline or self._ready.is_full():
                return
            self._make_ready(self._layout(index, _own(self._buckets[index])), staged)

    def executions(self, indices: Iterable[int], hw: Hw, staged: Any) -> dict[int, Execution]:
        """For images of that height and width in each of the buckets; nothing may be running."""
        found: dict[int, Execution] = {}
        may_make = True
        for index in indices:
            execution = self._ready.get((index, hw))
            if execution is None and self._ready.earns((index, hw)) and may_make:
                may_make = False
                execution = self._make_ready(self._layout(index, hw), staged)
            found[index] = execution or Execution(self._layout(index, hw), self._loose, None, loose=True)
        return found

    def enqueue(self, execution: Execution) -> None:
        """Put it on the stream."""
        if execution.graph is not None:
            self._gpu.launch(execution.graph, self._stream)
            return
        if execution.loose:
            self._turn(execution.layout.index, execution.layout.hw)
            self._aim(self._loose, execution.layout)
        self._execute(execution.context)

    def close(self) -> None:
        """Drop what TensorRT holds."""
        while len(self._ready):
            self._ready.pop_oldest()
        self._loose = self._engine = None
        self._configs.clear()

    def _layout(self, index: int, hw: Hw) -> _Layout:
        if (index, hw) not in self._layouts:
            self._turn(index, hw)
            shapes = {name: tuple(self._loose.get_tensor_shape(name)) for name in self._outputs}
            for name, shape in shapes.items():
                if min(shape, default=0) < 0:
                    raise RuntimeFailure(f"{self._name}: the shape of {name} depends on the data")
            inputs = place(self._input_shapes(index, hw), self._dtypes)
            self._layouts[index, hw] = _Layout(
                index, self._buckets[index], hw, inputs, place(shapes, self._dtypes)
            )
            if len(self._layouts) > _LAYOUTS_REMEMBERED:
                self._layouts.popitem(last=False)
        return self._layouts[index, hw]

    def _turn(self, index: int, hw: Hw) -> None:
        """Tell the loose context the shape, where it had another one. What runs goes on with that."""
        if self._loose_at != (index, hw):
            profile = None if self._loose_at is None else self._loose_at[0]
            self._loose_at = None  # until it is told all of it
            self._tell(self._loose, index, hw, switch=profile != index)
            self._loose_at = index, hw

    def _tell(self, context: Any, index: int, hw: Hw, *, switch: bool) -> None:
        if switch and not context.set_optimization_profile_async(index, int(self._stream)):
            raise RuntimeFailure(f"{self._name}: TensorRT does not switch to profile {index}")
        for name, shape in self._input_shapes(index, hw).items():
            if not context.set_input_shape(name, shape):
                raise RuntimeFailure(f"{self._name}: input {name} does not take {list(shape)}")

    def _aim(self, context: Any, layout: _Layout) -> None:
        for tensors, block in ((layout.inputs, self._input_block), (layout.outputs, self._output_block)):
            for tensor in tensors:
                if not context.set_tensor_address(tensor.name, block + tensor.offset):
                    raise RuntimeFailure(f"{self._name}: TensorRT does not take the address of {tensor.name}")

    def _input_shapes(self, index: int, hw: Hw) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self._inputs:
            shape = tuple(self._engine.get_tensor_shape(name))
            if name == IMAGES:
                shape = (self._buckets[index].batch, *hw, 3)
            elif -1 in shape:
                shape = tuple(self._engine.get_tensor_profile_shape(name, index)[2])
            shapes[name] = shape
        return shapes

    def _make_ready(self, layout: _Layout, staged: Any) -> Execution | None:
        """A context and a graph for the layout; None where there is too little memory for more of them."""
        while self._ready.is_full():
            self._drop_oldest()
        try:
            execution = self._readied(layout, staged)
        except DeviceLost:
            raise
        except RuntimeFailure as error:
            self._ready.limit = len(self._ready)
            _LOG.warning(
                "%s: no more than %d shapes are made ready (%s); others run without a CUDA graph",
                self._name,
                self._ready.limit,
                error,
            )
            return None
        self._ready.put((layout.index, layout.hw), execution)
        return execution

    def _drop_oldest(self) -> None:
        """Its context and graph are gone on return: there may be no room for others beside them."""
        self._gpu.synchronize(self._stream)
        dropped = self._ready.pop_oldest()
        if dropped.graph is not None:
            self._gpu.forget(dropped.graph)

    def _readied(self, layout: _Layout, staged: Any) -> Execution:
        context = self._context(specialised=True)
        self._tell(context, layout.index, layout.hw, switch=True)
        self._aim(context, layout)
        self._run_blank(Execution(layout, context, None, loose=False), staged)
        try:
            graph = self._gpu.capture(self._stream, lambda: self._execute(context))
        except DeviceLost:
            raise
        except RuntimeFailure as error:
            graph = None
            _LOG.warning(
                "%s, batch %d at %dx%d: no CUDA graph (%s); its kernels are launched one by one",
                self._name,
                layout.bucket.batch,
                *layout.hw,
                error,
            )
        return Execution(layout, context, graph, loose=False)

    def _run_blank(self, execution: Execution, staged: Any) -> None:
        """Run on blank images, which loads every kernel: no capture may contain that."""
        layout = execution.layout
        blank = {tensor.name: np.zeros((0, *tensor.shape[1:]), tensor.dtype) for tensor in layout.inputs}
        fill(staged, layout.inputs, blank, Step(0, 0, 0), layout.bucket.batch)
        self._gpu.upload(self._input_block, staged[: layout.inputs[-1].end], self._stream)
        self.enqueue(execution)
        self._gpu.synchronize(self._stream)

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(int(self._stream)):
            raise RuntimeFailure(f"{self._name}: TensorRT does not execute it")

    def _context(self, *, specialised: bool) -> Any:
        how = self._configs[specialised]
        if how is None:
            how = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(how)
        if context is None:
            raise RuntimeFailure(f"{self._name}: TensorRT makes no execution context")
        context.set_device_memory(self._scratch, self._scratch_size)
        return context

    def _runtime_config(self, specialised: bool) -> Any:
        """What TensorRT for RTX makes contexts with, and leaves to us to keep; None for TensorRT.

        RTX compiles kernels while it runs. A context of one shape shall compile for that at once, or a CUDA
        graph would keep the slow kernels of the first run; the loose one shall never wait for a compiler.
        """
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        chosen = strategies.EAGER if specialised else strategies.NONE
        config.dynamic_shapes_kernel_specialization_strategy = chosen
        return config


def _own(bucket: Bucket) -> Hw:
    return bucket.height, bucket.width
