"""One TensorRT plan on one GPU: buffers, streams and CUDA graphs of every bucket, and batches run in them.

A bucket has two lanes, each with its own buffers, so that the copy of a batch's next part to the GPU overlaps
with the computation of the part before. All inputs of a lane are one block of memory, and all outputs: a part
is copied in once and out once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.engines import Bucket
from hindsight.errors import RuntimeFailure
from hindsight.runtime.buckets import Step
from hindsight.runtime.cuda import Gpu

__all__ = ["LoadedPlan"]

Arrays = Mapping[str, NDArray[Any]]
_LANES = 2
_ALIGNMENT = 256  # of tensors in device memory
_LAST_INPUT = "images"  # at the end of the block, so that the padding of a batch need not be copied
# What stands in for an image that a batch lacks: one pixel, and thresholds that no detection passes.
_BLANK = {"image_sizes": 1, "class_threshold": 2, "score_threshold": 2}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Tensor:
    """An input or output of a bucket, at `offset` bytes of its block."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def within(self, block: NDArray[np.uint8]) -> NDArray[Any]:
        return block[self.offset : self.end].view(self.dtype).reshape(self.shape)


@dataclass
class _Lane:
    """Buffers of one execution, and what orders it. graph: None where it could not be captured."""

    inputs: int
    outputs: int
    staged_inputs: NDArray[np.uint8]
    staged_outputs: NDArray[np.uint8]
    uploaded: Any
    downloaded: Any
    graph: Any = None


@dataclass
class _Profile:
    """One bucket, ready to run."""

    bucket: Bucket
    context: Any
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]
    lanes: list[_Lane] = field(default_factory=list)


class LoadedPlan:
    """A plan with everything it needs, made at once: no request waits for a buffer or a capture.

    trt: the module. engine: deserialised. buckets: in the order of its profiles. Raises RuntimeFailure where
    the engine does not fit them or the GPU has no room. The caller makes the GPU current around every call.
    """

    def __init__(self, trt: Any, engine: Any, buckets: Sequence[Bucket], gpu: Gpu, name: str) -> None:
        self._trt, self._engine, self._gpu, self._name = trt, engine, gpu, name
        if engine.num_optimization_profiles != len(buckets):
            raise RuntimeFailure(
                f"{name} has {engine.num_optimization_profiles} profiles, engine.json lists {len(buckets)}"
            )
        self._upload, self._compute = gpu.stream(), gpu.stream()
        # The profiles run one after the other: they share the memory that is needed while one runs.
        sizes = [engine.get_device_memory_size_for_profile_v2(index) for index in range(len(buckets))]
        self._scratch_size = max(sizes)
        self._scratch = gpu.allocate(self._scratch_size)
        self._profiles = [self._open(index, bucket) for index, bucket in enumerate(buckets)]

    @property
    def input_names(self) -> frozenset[str]:
        """What the graph reads."""
        return frozenset(tensor.name for tensor in self._profiles[0].inputs)

    def run(self, inputs: Arrays, steps: Sequence[Step]) -> dict[str, NDArray[Any]]:
        """The outputs of the whole batch, its parts executed as `plan_batch` cut it.

        A lane takes a new part when the outputs of its last one are here, so nothing in it is still in use.
        """
        pending: list[tuple[_Profile, _Lane, Step]] = []
        parts: list[dict[str, NDArray[Any]]] = []
        for turn, step in enumerate(steps):
            profile = self._profiles[step.bucket]
            lane = profile.lanes[turn % _LANES]
            while any(busy is lane for _, busy, _ in pending):
                parts.append(self._collect(*pending.pop(0)))
            self._fill(profile, lane, inputs, step)
            self._enqueue(profile, lane, step)
            pending.append((profile, lane, step))
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
        context = self._context()
        context.set_device_memory(self._scratch, self._scratch_size)
        if not context.set_optimization_profile_async(index, int(self._compute)):
            raise RuntimeFailure(f"{self._name}: TensorRT does not switch to profile {index}")
        modes = self._trt.TensorIOMode
        names = [self._engine.get_tensor_name(place) for place in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == modes.INPUT]
        shapes: dict[str, tuple[int, ...]] = {}
        for name in inputs:
            shapes[name] = tuple(self._engine.get_tensor_profile_shape(name, index)[2])
            if not context.set_input_shape(name, shapes[name]):
                raise RuntimeFailure(f"{self._name}: input {name} does not take {list(shapes[name])}")
        _check_images(shapes, bucket, self._name)
        inputs.sort(key=lambda name: name == _LAST_INPUT)
        outputs = [name for name in names if name not in shapes]
        for name in outputs:
            shapes[name] = tuple(context.get_tensor_shape(name))
            if min(shapes[name], default=0) < 0:
                raise RuntimeFailure(f"{self._name}: the shape of {name} depends on the data")
        profile = _Profile(bucket, context, self._lay_out(inputs, shapes), self._lay_out(outputs, shapes))
        profile.lanes = [self._lane(profile) for _ in range(_LANES)]
        self._warm_up(profile)
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

    def _lay_out(self, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[_Tensor, ...]:
        tensors: list[_Tensor] = []
        for name in names:
            offset = -(-tensors[-1].end // _ALIGNMENT) * _ALIGNMENT if tensors else 0
            dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
            tensors.append(_Tensor(name, shapes[name], dtype, offset))
        return tuple(tensors)

    def _lane(self, profile: _Profile) -> _Lane:
        inputs, outputs = (tensors[-1].end for tensors in (profile.inputs, profile.outputs))
        gpu = self._gpu
        return _Lane(
            inputs=gpu.allocate(inputs),
            outputs=gpu.allocate(outputs),
            staged_inputs=gpu.pinned(inputs),
            staged_outputs=gpu.pinned(outputs),
            uploaded=gpu.event(),
            downloaded=gpu.event(),
        )

    def _warm_up(self, profile: _Profile) -> None:
        """Run each lane once on blank images, which loads every kernel, and capture it."""
        blank = {tensor.name: np.zeros((0, *tensor.shape[1:]), tensor.dtype) for tensor in profile.inputs}
        for lane in profile.lanes:
            self._fill(profile, lane, blank, Step(0, 0, 0))
            self._gpu.upload(lane.inputs, lane.staged_inputs, self._compute)
            self._execute(profile, lane)
            self._gpu.synchronize(self._compute)
            try:
                lane.graph = self._gpu.capture(self._compute, partial(self._execute, profile, lane))
            except RuntimeFailure as error:
                _LOG.warning(
                    "%s, batch %d at %dx%d: no CUDA graph (%s); its kernels are launched one by one",
                    self._name,
                    profile.bucket.batch,
                    profile.bucket.height,
                    profile.bucket.width,
                    error,
                )

    def _fill(self, profile: _Profile, lane: _Lane, inputs: Arrays, step: Step) -> None:
        """Copy the step's images into the lane's staging block, blank ones after them."""
        rows = slice(step.first, step.first + step.count)
        for tensor in profile.inputs:
            target, given = tensor.within(lane.staged_inputs), inputs[tensor.name]
            if tensor.shape[:1] != (profile.bucket.batch,) or tensor.name == "nms_threshold":
                if len(given):
                    target[:] = given
                continue
            given = given[rows]
            # The graph blanks pixels beyond image_sizes, so what lies in the padding of images is of no
            # consequence; of boxes the padding counts for nothing, but must be finite.
            target[(slice(0, step.count), *(slice(0, side) for side in given.shape[1:]))] = given
            if tensor.name != _LAST_INPUT:
                target[step.count :] = _BLANK.get(tensor.name, 0)
                for axis, side in enumerate(given.shape[1:], start=1):
                    target[(slice(None),) * axis + (slice(side, None),)] = 0

    def _enqueue(self, profile: _Profile, lane: _Lane, step: Step) -> None:
        gpu = self._gpu
        end = profile.inputs[-1].end
        if profile.inputs[-1].name == _LAST_INPUT:
            images = profile.inputs[-1]
            end = images.offset + (images.end - images.offset) // images.shape[0] * step.count
        gpu.upload(lane.inputs, lane.staged_inputs[:end], self._upload)
        gpu.record(lane.uploaded, self._upload)
        gpu.order(self._compute, lane.uploaded)
        if lane.graph is not None:
            gpu.launch(lane.graph, self._compute)
        else:
            self._execute(profile, lane)
        gpu.download(lane.staged_outputs, lane.outputs, self._compute)
        gpu.record(lane.downloaded, self._compute)

    def _execute(self, profile: _Profile, lane: _Lane) -> None:
        for tensors, block in ((profile.inputs, lane.inputs), (profile.outputs, lane.outputs)):
            for tensor in tensors:
                if not profile.context.set_tensor_address(tensor.name, block + tensor.offset):
                    raise RuntimeFailure(f"{self._name}: TensorRT does not take the address of {tensor.name}")
        if not profile.context.execute_async_v3(int(self._compute)):
            raise RuntimeFailure(f"{self._name}: TensorRT does not execute it")

    def _collect(self, profile: _Profile, lane: _Lane, step: Step) -> dict[str, NDArray[Any]]:
        self._gpu.wait(lane.downloaded)
        return {
            tensor.name: tensor.within(lane.staged_outputs)[: step.count].copy() for tensor in profile.outputs
        }


def _check_images(shapes: Mapping[str, tuple[int, ...]], bucket: Bucket, name: str) -> None:
    expected = (bucket.batch, bucket.height, bucket.width, 3)
    if shapes.get("images") != expected:
        raise RuntimeFailure(f"{name}: engine.json says images {list(expected)}, got {shapes.get('images')}")
