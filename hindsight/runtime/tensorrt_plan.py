"""One TensorRT plan on one GPU: buffers, streams and CUDA graphs of every bucket, and batches run in them.

A bucket has two lanes, each with its own buffers, so that the copy of a batch's next part to the GPU overlaps
with the computation of the part before. All inputs of a lane are one block of memory, and all outputs: a part
is copied in once and out once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.engines import Bucket
from hindsight.errors import RuntimeFailure
from hindsight.runtime.blocks import IMAGES, BlockTensor, copied_bytes, fill, place
from hindsight.runtime.buckets import Step
from hindsight.runtime.cuda import Gpu

__all__ = ["LoadedPlan"]

Arrays = Mapping[str, NDArray[Any]]
_LANES = 2
_MAX_SHAPES = 32  # of a profile that stay ready: a resize rule and multiples of 32 leave some 20
_LOG = logging.getLogger(__name__)


@dataclass
class _Lane:
    """Buffers of one execution, large enough for every shape of its profile, and what orders it."""

    inputs: int
    outputs: int
    staged_inputs: NDArray[np.uint8]
    staged_outputs: NDArray[np.uint8]
    uploaded: Any
    downloaded: Any


@dataclass
class _Layout:
    """Where tensors lie when images have this height and width. graphs: one a lane; empty where nothing
    could be captured.
    """

    hw: tuple[int, int]
    inputs: tuple[BlockTensor, ...]
    outputs: tuple[BlockTensor, ...]
    graphs: list[Any] = field(default_factory=list)


@dataclass
class _Profile:
    """A bucket and the layouts it was used with, the latest last. hw: what the context is set to."""

    index: int
    bucket: Bucket
    context: Any
    lanes: list[_Lane] = field(default_factory=list)
    layouts: OrderedDict[tuple[int, int], _Layout] = field(default_factory=OrderedDict)
    hw: tuple[int, int] = (0, 0)


class LoadedPlan:
    """A plan with all its buffers, made at once. Shapes other than the buckets' own are readied when they
    first come, and the latest stay ready.

    trt: the module. engine: deserialised. buckets: in the order of its profiles. Raises RuntimeFailure where
    the engine does not fit them or the GPU has no room. The caller makes the GPU current around every call.
    """

    def __init__(self, trt: Any, engine: Any, buckets: Sequence[Bucket], gpu: Gpu, name: str) -> None:
        self._trt, self._engine, self._gpu, self._name = trt, engine, gpu, name
        if engine.num_optimization_profiles != len(buckets):
            raise RuntimeFailure(
                f"{name} has {engine.num_optimization_profiles} profiles, engine.json lists {len(buckets)}"
            )
        modes = trt.TensorIOMode
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        self._inputs = [each for each in names if engine.get_tensor_mode(each) == modes.INPUT]
        self._inputs.sort(key=lambda each: each == IMAGES)  # last: see copied_bytes
        self._outputs = [each for each in names if each not in self._inputs]
        self._dtypes = {each: np.dtype(trt.nptype(engine.get_tensor_dtype(each))) for each in names}
        self._upload, self._compute = gpu.stream(), gpu.stream()
        # The profiles run one after the other: they share the memory that is needed while one runs.
        sizes = [engine.get_device_memory_size_for_profile_v2(index) for index in range(len(buckets))]
        self._scratch_size = max(sizes)
        self._scratch = gpu.allocate(self._scratch_size)
        self._profiles = [self._open(index, bucket) for index, bucket in enumerate(buckets)]

    @property
    def input_names(self) -> frozenset[str]:
        """What the graph reads."""
        return frozenset(self._inputs)

    def run(self, inputs: Arrays, steps: Sequence[Step]) -> dict[str, NDArray[Any]]:
        """The outputs of the whole batch, its parts executed as `plan_batch` cut it.

        A lane takes a new part when the outputs of its last one are here, so nothing in it is still in use.
        """
        height, width = inputs["images"].shape[1:3]
        layouts = {index: self._layout(self._profiles[index], (height, width)) for index in _used(steps)}
        pending: list[tuple[_Lane, _Layout, Step]] = []
        parts: list[dict[str, NDArray[Any]]] = []
        for turn, step in enumerate(steps):
            profile, layout = self._profiles[step.bucket], layouts[step.bucket]
            lane = profile.lanes[turn % _LANES]
            while any(busy is lane for busy, _, _ in pending):
                parts.append(self._collect(*pending.pop(0)))
            fill(lane.staged_inputs, layout.inputs, inputs, step, profile.bucket.batch)
            self._enqueue(profile, turn % _LANES, layout, step)
            pending.append((lane, layout, step))
        parts += [self._collect(*item) for item in pending]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Drop what TensorRT holds; the buffers are the GPU's to free."""
        self._gpu.synchronize(self._upload)
        self._gpu.synchronize(self._compute)
        for profile in self._profiles:
            profile.context = None
        self._profiles = []
        self._engine = None

    def _open(self, index: int, bucket: Bucket) -> _Profile:
        """A profile with its buffers, ready for the bucket's own shape."""
        context = self._context()
        context.set_device_memory(self._scratch, self._scratch_size)
        if not context.set_optimization_profile_async(index, int(self._compute)):
            raise RuntimeFailure(f"{self._name}: TensorRT does not switch to profile {index}")
        largest = tuple(self._engine.get_tensor_profile_shape("images", index)[2])
        expected = (bucket.batch, bucket.height, bucket.width, 3)
        if largest != expected:
            raise RuntimeFailure(
                f"{self._name}: engine.json says images {list(expected)}, the plan {list(largest)}"
            )
        profile = _Profile(index, bucket, context)
        hw = (bucket.height, bucket.width)
        inputs, outputs = self._lay_out(profile, hw)
        profile.lanes = [self._lane(inputs[-1].end, outputs[-1].end) for _ in range(_LANES)]
        self._layout(profile, hw)
        return profile

    def _context(self) -> Any:
        user_managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self._engine, "create_runtime_config"):
            # TensorRT for RTX compiles kernels while it runs. A context sees one shape only: have it compile
            # for that at once, or a CUDA graph would keep the slow kernels of the first run.
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(user_managed)
            strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
            if strategies is not None:
                config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(user_managed)
        if context is None:
            raise RuntimeFailure(f"{self._name}: TensorRT makes no execution context")
        return context

    def _layout(self, profile: _Profile, hw: tuple[int, int]) -> _Layout:
        """The layout of a shape: as it was left, or made, tried on blank images, and captured."""
        if hw in profile.layouts:
            profile.layouts.move_to_end(hw)
            return profile.layouts[hw]
        layout = _Layout(hw, *self._lay_out(profile, hw))
        self._warm_up(profile, layout)
        profile.layouts[hw] = layout
        if len(profile.layouts) > _MAX_SHAPES:
            _, oldest = profile.layouts.popitem(last=False)
            for graph in oldest.graphs:
                self._gpu.forget(graph)
        return layout

    def _lay_out(
        self, profile: _Profile, hw: tuple[int, int]
    ) -> tuple[tuple[BlockTensor, ...], tuple[BlockTensor, ...]]:
        self._set_shapes(profile, hw)
        shapes = {name: tuple(profile.context.get_tensor_shape(name)) for name in self._outputs}
        for name, shape in shapes.items():
            if min(shape, default=0) < 0:
                raise RuntimeFailure(f"{self._name}: the shape of {name} depends on the data")
        inputs = {name: self._input_shape(profile, name, hw) for name in self._inputs}
        return place(inputs, self._dtypes), place(shapes, self._dtypes)

    def _set_shapes(self, profile: _Profile, hw: tuple[int, int]) -> None:
        if profile.hw == hw:
            return
        for name in self._inputs:
            shape = self._input_shape(profile, name, hw)
            if not profile.context.set_input_shape(name, shape):
                raise RuntimeFailure(f"{self._name}: input {name} does not take {list(shape)}")
        profile.hw = hw

    def _input_shape(self, profile: _Profile, name: str, hw: tuple[int, int]) -> tuple[int, ...]:
        if name == "images":
            return (profile.bucket.batch, *hw, 3)
        shape = tuple(self._engine.get_tensor_shape(name))
        if -1 in shape:
            shape = tuple(self._engine.get_tensor_profile_shape(name, profile.index)[2])
        return shape

    def _lane(self, inputs: int, outputs: int) -> _Lane:
        gpu = self._gpu
        return _Lane(
            inputs=gpu.allocate(inputs),
            outputs=gpu.allocate(outputs),
            staged_inputs=gpu.pinned(inputs),
            staged_outputs=gpu.pinned(outputs),
            uploaded=gpu.event(),
            downloaded=gpu.event(),
        )

    def _warm_up(self, profile: _Profile, layout: _Layout) -> None:
        """Run once on blank images, which loads every kernel, and capture the execution of each lane."""
        blank = {tensor.name: np.zeros((0, *tensor.shape[1:]), tensor.dtype) for tensor in layout.inputs}
        first = profile.lanes[0]
        fill(first.staged_inputs, layout.inputs, blank, Step(0, 0, 0), profile.bucket.batch)
        self._gpu.upload(first.inputs, first.staged_inputs[: layout.inputs[-1].end], self._compute)
        self._execute(profile, first, layout)
        self._gpu.synchronize(self._compute)
        try:
            for lane in profile.lanes:
                execute = partial(self._execute, profile, lane, layout)
                layout.graphs.append(self._gpu.capture(self._compute, execute))
        except RuntimeFailure as error:
            for graph in layout.graphs:
                self._gpu.forget(graph)
            layout.graphs.clear()
            _LOG.warning(
                "%s, batch %d at %dx%d: no CUDA graph (%s); its kernels are launched one by one",
                self._name,
                profile.bucket.batch,
                *layout.hw,
                error,
            )

    def _enqueue(self, profile: _Profile, lane_number: int, layout: _Layout, step: Step) -> None:
        gpu, lane = self._gpu, profile.lanes[lane_number]
        end = copied_bytes(layout.inputs, step)
        gpu.upload(lane.inputs, lane.staged_inputs[:end], self._upload)
        gpu.record(lane.uploaded, self._upload)
        gpu.order(self._compute, lane.uploaded)
        if layout.graphs:
            gpu.launch(layout.graphs[lane_number], self._compute)
        else:
            self._execute(profile, lane, layout)
        gpu.download(lane.staged_outputs[: layout.outputs[-1].end], lane.outputs, self._compute)
        gpu.record(lane.downloaded, self._compute)

    def _execute(self, profile: _Profile, lane: _Lane, layout: _Layout) -> None:
        self._set_shapes(profile, layout.hw)
        for tensors, block in ((layout.inputs, lane.inputs), (layout.outputs, lane.outputs)):
            for tensor in tensors:
                if not profile.context.set_tensor_address(tensor.name, block + tensor.offset):
                    raise RuntimeFailure(f"{self._name}: TensorRT does not take the address of {tensor.name}")
        if not profile.context.execute_async_v3(int(self._compute)):
            raise RuntimeFailure(f"{self._name}: TensorRT does not execute it")

    def _collect(self, lane: _Lane, layout: _Layout, step: Step) -> dict[str, NDArray[Any]]:
        self._gpu.wait(lane.downloaded)
        return {
            tensor.name: tensor.within(lane.staged_outputs)[: step.count].copy() for tensor in layout.outputs
        }


def _used(steps: Sequence[Step]) -> list[int]:
    return list(dict.fromkeys(step.bucket for step in steps))
