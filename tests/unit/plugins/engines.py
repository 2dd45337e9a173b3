"""Engines at work on a GPU: which TensorRT is here, and one engine called with torch tensors."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tests.unit.plugins.forms import DTYPES

FLAVOURS = ("tensorrt", "tensorrt_rtx")


def flavour() -> str | None:
    """The module to test with; None where there is none. TensorRT-RTX does not know the H100's generation."""
    for name in FLAVOURS:
        if find_spec(name) is None:
            continue
        hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
        if not (name == "tensorrt_rtx" and hopper):
            return name
    return None


class Engine:
    """An engine and one execution context, on a stream of its own (TensorRT dislikes the default stream)."""

    def __init__(self, module: str, path: Path, *, embedded: bool = False) -> None:
        self.trt: Any = importlib.import_module(module)
        self.logger = self.trt.Logger(self.trt.Logger.WARNING)
        self.runtime = self.trt.Runtime(self.logger)
        self.runtime.engine_host_code_allowed = embedded
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        assert self.engine is not None, "the engine could not be loaded; TensorRT's reason is on stderr"
        self.context = self.engine.create_execution_context()
        assert self.context is not None, "no execution context; TensorRT's reason is on stderr"
        self.stream = torch.cuda.Stream()
        self.outputs: dict[str, torch.Tensor] = {}

    def bind(self, inputs: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Addresses and sizes. `shapes`: as the network sees them; the memory may be laid out otherwise."""
        for name, tensor in inputs.items():
            assert self.context.set_input_shape(name, shapes[name]), f"{name} cannot be {shapes[name]}"
            self.context.set_tensor_address(name, tensor.data_ptr())
        self.outputs = {}
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            if self.engine.get_tensor_mode(name) == self.trt.TensorIOMode.OUTPUT:
                shape = tuple(self.context.get_tensor_shape(name))
                dtype = DTYPES[self.engine.get_tensor_dtype(name).name]
                # an address of its own even where there is nothing to write
                room = torch.zeros(max(torch.Size(shape).numel(), 16), dtype=dtype, device="cuda")
                self.context.set_tensor_address(name, room.data_ptr())
                self.outputs[name] = room[: torch.Size(shape).numel()].view(shape)

    def enqueue(self) -> None:
        """Once, on the engine's stream, which torch must be told to wait for."""
        assert self.context.execute_async_v3(self.stream.cuda_stream), "the engine could not be run"

    def __call__(
        self, inputs: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, torch.Tensor]:
        """Results on the CPU."""
        self.bind(inputs, shapes)
        self.stream.wait_stream(torch.cuda.current_stream())
        self.enqueue()
        self.stream.synchronize()
        return {name: tensor.cpu() for name, tensor in self.outputs.items()}
