"""One TensorRT plan on one GPU: its buffers, streams and CUDA graphs, and batches run in them.

Executions follow each other on one stream, so all profiles share their memory: the working space, a block
of inputs and one of outputs. Batches come in through two lanes on another stream: while a batch's first part
is computed, the next one is on its way. Every part is copied in once and out once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.engines import Bucket
from hindsight.errors import DeviceLost, RuntimeFailure
from hindsight.runtime.blocks import IMAGES, BlockTensor, copied_bytes, fill, place
from hindsight.runtime.buckets import Step
from hindsight.runtime.cuda import Gpu

__all__ = ["LoadedPlan"]

Arrays = Mapping[str, NDArray[Any]]
_LANES = 2
_MORE_SHAPES = 16  # that stay ready beside the buckets' own
_LOG = logging.getLogger(__name__)


@dataclass
class _Lane:
    """A part of a batch on its way in and out. inputs: device memory, moved on when its turn comes."""

    inputs: int
    staged_inputs: NDArray[np.uint8]
    staged_outputs: NDArray[np.uint8]
    uploaded: Any
    downloaded: Any


@dataclass
class _Layout:
    """A bucket's batch of images of one height and width: where its tensors lie, and what executes it.

    The context is never changed once it is ready: a captured graph is only valid as long as its context stays
    as it was. graph: None where it could not be captured.
    """

    bucket: Bucket
    hw: tuple[int, int]
    context: Any
    inputs: tuple[BlockTensor, ...]
    outputs: tuple[BlockTensor, ...]
    graph: Any = None


class LoadedPlan:
    """A plan with all its buffers, made at once. Shapes other than the buckets' own are readied when they
    first come, and the latest stay ready.

    trt: the module. engine: deserialised. buckets: in the order of its profiles. Raises RuntimeFailure where
    the engine does not fit them or the GPU has no room. The caller makes the GPU current around every call.
    """

    def __init__(self, trt: Any, engine: Any, buckets: Sequence[Bucket], gpu: Gpu, name: str) -> None:
        self._trt, self._engine, self._gpu, self._name = trt, engine, gpu, name
        self._buckets = tuple(buckets)
        self._check_profiles()
        self._config = self._runtime_config()
        modes = trt.TensorIOMode
        names = [engine.get_tensor_name(position) for position in range(engine.num_io_tensors)]
        self._inputs = [each for each in names if engine.get_tensor_mode(each) == modes.INPUT]
        self._inputs.sort(key=lambda each: each == IMAGES)  # last: see copied_bytes
        self._outputs = [each for each in names if each not in self._inputs]
        self._dtypes = {each: np.dtype(trt.nptype(engine.get_tensor_dtype(each))) for each in names}
        self._upload, self._compute = gpu.stream(), gpu.stream()
        sizes = [engine.get_device_memory_size_for_profile_v2(index) for index in range(len(buckets))]
        self._scratch_size = max(sizes)
        self._scratch = gpu.allocate(self._scratch_size)
        largest = [self._lay_out(index, (each.height, each.width)) for index, each in enumerate(buckets)]
        size_in = max(layout.inputs[-1].end for layout in largest)
        size_out = max(layout.outputs[-1].end for layout in largest)
        self._input_block, self._output_block = gpu.allocate(size_in), gpu.allocate(size_out)
        self._lanes = [
            _Lane(
                gpu.allocate(size_in),
                gpu.pin(size_in).bytes,
                gpu.pin(size_out).bytes,
                gpu.event(),
                gpu.event(),
            )
            for _ in range(_LANES)
        ]
        self._layouts: OrderedDict[tuple[int, tuple[int, int]], _Layout] = OrderedDict()
        for index, layout in enumerate(largest):
            self._make_ready(layout)
            self._layouts[index, layout.hw] = layout

    @property
    def input_names(self) -> frozenset[str]:
        """What the graph reads."""
        return frozenset(self._inputs)

    def run(self, inputs: Arrays, steps: Sequence[Step]) -> dict[str, NDArray[Any]]:
        """The outputs of the whole batch, its parts executed as `plan_batch` cut it.

        A lane takes a new part when the outputs of its last one are here, so nothing in it is still in use.
        """
        height, width = inputs[IMAGES].shape[1:3]
        used = dict.fromkeys(step.bucket for step in steps)
        layouts = {index: self._layout(index, (height, width)) for index in used}
        pending: list[tuple[_Lane, _Layout, Step]] = []
        parts: list[dict[str, NDArray[Any]]] = []
        for turn, step in enumerate(steps):
            layout, lane = layouts[step.bucket], self._lanes[turn % _LANES]
            while any(busy is lane for busy, _, _ in pending):
                parts.append(self._collect(*pending.pop(0)))
            fill(lane.staged_inputs, layout.inputs, inputs, step, layout.bucket.batch)
            self._enqueue(lane, layout, step)
            pending.append((lane, layout, step))
        parts += [self._collect(*item) for item in pending]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Drop what TensorRT holds; memory, streams and graphs are the GPU's to free."""
        self._gpu.synchronize(self._upload)
        self._gpu.synchronize(self._compute)
        self._layouts.clear()
        self._engine = self._config = None

    def _check_profiles(self) -> None:
        count = self._engine.num_optimization_profiles
        if count != len(self._buckets):
            raise RuntimeFailure(f"{self._name} has {count} profiles, engine.json lists {len(self._buckets)}")
        for index, bucket in enumerate(self._buckets):
            largest = tuple(self._engine.get_tensor_profile_shape(IMAGES, index)[2])
            expected = (bucket.batch, bucket.height, bucket.width, 3)
            if largest != expected:
                raise RuntimeFailure(
                    f"{self._name}: engine.json says images {list(expected)}, the plan {list(largest)}"
                )

    def _layout(self, index: int, hw: tuple[int, int]) -> _Layout:
        """The layout of a shape: as it was left, or made ready in place of the one unused for longest."""
        if (index, hw) in self._layouts:
            self._layouts.move_to_end((index, hw))
            return self._layouts[index, hw]
        layout = self._lay_out(index, hw)
        self._make_ready(layout)
        self._layouts[index, hw] = layout
        own = {(place, (each.height, each.width)) for place, each in enumerate(self._buckets)}
        others = [key for key in self._layouts if key not in own]
        if len(others) > _MORE_SHAPES:
            oldest = self._layouts.pop(others[0])
            if oldest.graph is not None:
                self._gpu.forget(oldest.graph)
        return layout

    def _lay_out(self, index: int, hw: tuple[int, int]) -> _Layout:
        """A context of its own for the shape, and where its tensors lie in the blocks."""
        context = self._context()
        context.set_device_memory(self._scratch, self._scratch_size)
        if not context.set_optimization_profile_async(index, int(self._compute)):
            raise RuntimeFailure(f"{self._name}: TensorRT does not switch to profile {index}")
        inputs = {name: self._input_shape(index, name, hw) for name in self._inputs}
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                raise RuntimeFailure(f"{self._name}: input {name} does not take {list(shape)}")
        outputs = {name: tuple(context.get_tensor_shape(name)) for name in self._outputs}
        for name, shape in outputs.items():
            if min(shape, default=0) < 0:
                raise RuntimeFailure(f"{self._name}: the shape of {name} depends on the data")
        bucket = self._buckets[index]
        return _Layout(bucket, hw, context, place(inputs, self._dtypes), place(outputs, self._dtypes))

    def _input_shape(self, index: int, name: str, hw: tuple[int, int]) -> tuple[int, ...]:
        if name == IMAGES:
            return (self._buckets[index].batch, *hw, 3)
        shape = tuple(self._engine.get_tensor_shape(name))
        return tuple(self._engine.get_tensor_profile_shape(name, index)[2]) if -1 in shape else shape

    def _context(self) -> Any:
        how = self._config
        if how is None:
            how = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(how)
        if context is None:
            raise RuntimeFailure(f"{self._name}: TensorRT makes no execution context")
        return context

    def _runtime_config(self) -> Any:
        """What TensorRT for RTX makes contexts with, and leaves to us to keep; None for TensorRT.

        RTX compiles kernels while it runs. A context sees one shape only: have it compile for that at once,
        or a CUDA graph would keep the slow kernels of the first run.
        """
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return config

    def _make_ready(self, layout: _Layout) -> None:
        """Run once on blank images, which loads every kernel, and capture the execution."""
        for tensors, block in ((layout.inputs, self._input_block), (layout.outputs, self._output_block)):
            for tensor in tensors:
                if not layout.context.set_tensor_address(tensor.name, block + tensor.offset):
                    raise RuntimeFailure(f"{self._name}: TensorRT does not take the address of {tensor.name}")
        blank = {tensor.name: np.zeros((0, *tensor.shape[1:]), tensor.dtype) for tensor in layout.inputs}
        staged = self._lanes[0].staged_inputs
        fill(staged, layout.inputs, blank, Step(0, 0, 0), layout.bucket.batch)
        self._gpu.upload(self._input_block, staged[: layout.inputs[-1].end], self._compute)
        self._execute(layout)
        self._gpu.synchronize(self._compute)
        try:
            layout.graph = self._gpu.capture(self._compute, lambda: self._execute(layout))
        except DeviceLost:
            raise
        except RuntimeFailure as error:
            _LOG.warning(
                "%s, batch %d at %dx%d: no CUDA graph (%s); its kernels are launched one by one",
                self._name,
                layout.bucket.batch,
                *layout.hw,
                error,
            )

    def _enqueue(self, lane: _Lane, layout: _Layout, step: Step) -> None:
        gpu, size = self._gpu, copied_bytes(layout.inputs, step)
        gpu.upload(lane.inputs, lane.staged_inputs[:size], self._upload)
        gpu.record(lane.uploaded, self._upload)
        gpu.order(self._compute, lane.uploaded)
        gpu.move(self._input_block, lane.inputs, size, self._compute)
        if layout.graph is not None:
            gpu.launch(layout.graph, self._compute)
        else:
            self._execute(layout)
        gpu.download(lane.staged_outputs[: layout.outputs[-1].end], self._output_block, self._compute)
        gpu.record(lane.downloaded, self._compute)

    def _execute(self, layout: _Layout) -> None:
        if not layout.context.execute_async_v3(int(self._compute)):
            raise RuntimeFailure(f"{self._name}: TensorRT does not execute it")

    def _collect(self, lane: _Lane, layout: _Layout, step: Step) -> dict[str, NDArray[Any]]:
        self._gpu.wait(lane.downloaded)
        return {
            tensor.name: tensor.within(lane.staged_outputs)[: step.count].copy() for tensor in layout.outputs
        }
