"""A module `tensorrt` whose plans name an ONNX file, which ONNX Runtime executes on fake_gpu.cpp's streams.

A plan: JSON {"onnx": PATH, "profiles": [{input: largest shape}, ...]}. It insists on what TensorRT insists
on: addresses set, shapes of the profile, memory given.
"""

from __future__ import annotations

import ctypes
import json
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import onnxruntime as ort

__version__ = "10.13.0"
registered: list[str] = []
host_code_allowed: list[bool] = []

_library: Any = ctypes.CDLL("libcuda.so.1")
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_long)


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(Enum):
    USER_MANAGED = 2


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ProfileSize(IntEnum):
    SCRATCH = 4096


def nptype(dtype: Any) -> Any:
    return dtype


def register(trt: Any) -> None:
    """The entry point of the plugins."""
    assert trt.__name__ == "tensorrt"
    registered.append("plugins")


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        host_code_allowed.append(self.engine_host_code_allowed)
        try:
            return Engine(json.loads(plan))
        except ValueError:
            self._logger.log(ILogger.ERROR, "the plan is damaged\nsomewhere")
            return None


class Engine:
    def __init__(self, plan: dict[str, Any]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(plan["onnx"], options, providers=["CPUExecutionProvider"])
        self.profiles = plan["profiles"]
        self.num_optimization_profiles = len(self.profiles)
        kinds = {"tensor(uint8)": np.uint8, "tensor(int64)": np.int64, "tensor(float)": np.float32}
        self.inputs = {node.name: kinds[node.type] for node in self.session.get_inputs()}
        self.outputs = {node.name: kinds[node.type] for node in self.session.get_outputs()}
        self._names = [*self.outputs, *self.inputs]
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, place: int) -> str:
        return self._names[place]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return (self.inputs | self.outputs)[name]

    def get_tensor_shape(self, name: str) -> list[int]:
        return [1] if name == "nms_threshold" else [-1] * len(self.profiles[0][name])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        largest = self.profiles[index][name]
        least = [largest[0], 32, 32, 3] if name == "images" else largest
        return [least, largest, largest]

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return int(ProfileSize.SCRATCH)

    def create_execution_context(self, strategy: Any) -> Context:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)


made: list[Context] = []  # all contexts there ever were


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._profile, self._memory = engine, -1, 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._calls: list[Any] = []  # kept alive: graphs hold their addresses
        self._captured = False
        made.append(self)

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= ProfileSize.SCRATCH
        self._memory = address

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert not self._captured, "a context that was captured must stay as it was"
        self._profile = index
        self._shapes.clear()
        return stream != 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self._captured, "a context that was captured must stay as it was"
        self._shapes[name] = shape
        if name == "nms_threshold":
            return shape == (1,)
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        return all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        blank = {key: np.ones(self._shapes[key], kind) for key, kind in self._engine.inputs.items()}
        outputs = self._engine.session.run([name], blank)
        return tuple(outputs[0].shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self._captured, "a context that was captured must stay as it was"
        self._addresses[name] = address
        return address % 256 == 0

    def execute_async_v3(self, stream: int) -> bool:
        if not self._memory or set(self._addresses) != {*self._engine.inputs, *self._engine.outputs}:
            return False
        addresses = dict(self._addresses)  # a later call may set others

        shapes = dict(self._shapes)

        def execute(_: int) -> None:
            feeds = {
                name: _at(addresses[name], shapes[name], kind).copy()
                for name, kind in self._engine.inputs.items()
            }
            names = list(self._engine.outputs)
            for name, value in zip(names, self._engine.session.run(names, feeds), strict=True):
                _at(addresses[name], value.shape, value.dtype)[...] = value

        self._captured = self._captured or bool(_library.fake_is_capturing(ctypes.c_void_p(stream)))
        call = _FUNCTION(execute)
        self._calls.append(call)
        _library.fake_enqueue(ctypes.c_void_p(stream), call, ctypes.c_long(0))
        return True


def _at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)
