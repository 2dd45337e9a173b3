"""One TensorRT plan on one GPU: its buffers and streams, and batches run in it.

Executions follow each other on one stream. Batches come in through two lanes on another stream: while a
batch's first part is computed, the next one is on its way. Every part is copied in once and out once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.engines import Bucket
from hindsight.errors import RuntimeFailure
from hindsight.runtime.blocks import IMAGES, copied_bytes, fill
from hindsight.runtime.buckets import Step
from hindsight.runtime.cuda import Gpu
from hindsight.runtime.tensorrt_contexts import Contexts, Execution

__all__ = ["LoadedPlan"]

Arrays = Mapping[str, NDArray[Any]]
_LANES = 2


@dataclass
class _Lane:
    """A part of a batch on its way in and out. inputs: device memory, moved on when its turn comes."""

    inputs: int
    staged_inputs: NDArray[np.uint8]
    staged_outputs: NDArray[np.uint8]
    uploaded: Any
    downloaded: Any


class LoadedPlan:
    """A plan with all its buffers, made at once, and contexts, made as they are needed.

    trt: the module. engine: deserialised. buckets: in the order of its profiles. warm_up_seconds: how long
    buckets may be made ready now, beyond one run that shows that it runs at all. Raises RuntimeFailure where
    the engine does not fit them or the GPU has no room. The caller makes the GPU current around every call.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        buckets: Sequence[Bucket],
        gpu: Gpu,
        name: str,
        *,
        warm_up_seconds: float,
    ) -> None:
        self._engine, self._gpu, self._name = engine, gpu, name
        self._buckets = tuple(buckets)
        self._check_profiles()
        modes = trt.TensorIOMode
        names = [engine.get_tensor_name(position) for position in range(engine.num_io_tensors)]
        self._inputs = [each for each in names if engine.get_tensor_mode(each) == modes.INPUT]
        self._inputs.sort(key=lambda each: each == IMAGES)  # last: see copied_bytes
        outputs = [each for each in names if each not in self._inputs]
        dtypes = {each: np.dtype(trt.nptype(engine.get_tensor_dtype(each))) for each in names}
        self._upload, self._compute = gpu.stream(), gpu.stream()
        self._contexts = Contexts(
            trt, engine, self._buckets, gpu, name, self._compute, self._inputs, outputs, dtypes
        )
        size_in, size_out = self._contexts.input_bytes, self._contexts.output_bytes
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
        self._contexts.warm_up(self._lanes[0].staged_inputs, warm_up_seconds)

    @property
    def input_names(self) -> frozenset[str]:
        """What the graph reads."""
        return frozenset(self._inputs)

    def run(self, inputs: Arrays, steps: Sequence[Step]) -> dict[str, NDArray[Any]]:
        """The outputs of the whole batch, its parts executed as `plan_batch` cut it.

        A lane takes a new part when the outputs of its last one are here, so nothing in it is still in use.
        """
        try:
            parts = self._run(inputs, steps)
        except BaseException:
            with suppress(RuntimeFailure):  # a lost GPU, which will never touch the lanes again
                self._settle()
            raise
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, inputs: Arrays, steps: Sequence[Step]) -> list[dict[str, NDArray[Any]]]:
        height, width = inputs[IMAGES].shape[1:3]
        used = dict.fromkeys(step.bucket for step in steps)
        executions = self._contexts.executions(used, (height, width), self._lanes[0].staged_inputs)
        pending: list[tuple[_Lane, Execution, Step]] = []
        parts: list[dict[str, NDArray[Any]]] = []
        for turn, step in enumerate(steps):
            execution, lane = executions[step.bucket], self._lanes[turn % _LANES]
            while any(busy is lane for busy, _, _ in pending):
                parts.append(self._collect(*pending.pop(0)))
            layout = execution.layout
            fill(lane.staged_inputs, layout.inputs, inputs, step, layout.bucket.batch)
            self._enqueue(lane, execution, step)
            pending.append((lane, execution, step))
        return [*parts, *(self._collect(*item) for item in pending)]

    def close(self) -> None:
        """Drop what TensorRT holds; memory, streams and graphs are the GPU's to free."""
        self._settle()
        self._contexts.close()
        self._engine = None

    def _settle(self) -> None:
        """Wait until nothing reads or writes the lanes any more."""
        self._gpu.synchronize(self._upload)
        self._gpu.synchronize(self._compute)

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

    def _enqueue(self, lane: _Lane, execution: Execution, step: Step) -> None:
        gpu, contexts = self._gpu, self._contexts
        size = copied_bytes(execution.layout.inputs, step)
        gpu.upload(lane.inputs, lane.staged_inputs[:size], self._upload)
        gpu.record(lane.uploaded, self._upload)
        gpu.order(self._compute, lane.uploaded)
        gpu.move(contexts.input_block, lane.inputs, size, self._compute)
        contexts.enqueue(execution)
        answered = lane.staged_outputs[: execution.layout.outputs[-1].end]
        gpu.download(answered, contexts.output_block, self._compute)
        gpu.record(lane.downloaded, self._compute)

    def _collect(self, lane: _Lane, execution: Execution, step: Step) -> dict[str, NDArray[Any]]:
        self._gpu.wait(lane.downloaded)
        return {
            tensor.name: tensor.within(lane.staged_outputs)[: step.count].copy()
            for tensor in execution.layout.outputs
        }
