"""ONNX Runtime, on the CPU or through its CUDA provider (there with IO binding: onnxruntime_binding.py)."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.errors import DeviceLost, OptionError, OutOfMemory, RuntimeFailure
from hindsight.runtime.onnxruntime_binding import BoundSession, pinned_memory

__all__ = ["OnnxRuntime"]

_OUT_OF_MEMORY = "2"  # of CUDA's errors the one that a smaller batch gets over
# How its arenas, on the CPU and on the GPU, and the libraries beneath say that an allocation failed.
_NO_ROOM = re.compile(
    r"failed to allocate memory|available memory of \d+ is smaller than|bad allocation|bad_alloc"
    r"|out of memory|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_ERRORS_ONLY = 3  # severity: 0 verbose .. 4 fatal


class OnnxRuntime:
    """See hindsight.runtime.Runtime. The rescoring session is opened by the first `rescore`, so detection
    alone does not pay for it.

    spinning: let idle threads of the pool burn their core while they wait; faster alone on a machine, harmful
    beside anything else.
    """

    def __init__(
        self, artifact: Artifact, *, device: str = "cpu", threads: int | None = None, spinning: bool = False
    ) -> None:
        self._artifact = artifact
        self._providers = _providers(device)
        self._threads = threads
        self._spinning = spinning
        self._opening = threading.Lock()
        number = device.partition(":")[2] or "0"
        self._allocate = None if device == "cpu" else pinned_memory(int(number))
        self._rescore: ort.InferenceSession | BoundSession | None = None
        self._detect: ort.InferenceSession | BoundSession | None = self._open(artifact.model_path)

    def detect(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run model.onnx. Raises RuntimeFailure."""
        if self._detect is None:
            raise RuntimeFailure("the runtime is closed")
        return _run(self._detect, inputs)

    def rescore(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run rescore.onnx. Raises RuntimeFailure, OptionError where the model has none."""
        if self._detect is None:
            raise RuntimeFailure("the runtime is closed")
        path = self._artifact.require_rescoring()
        with self._opening:
            if self._rescore is None:
                self._rescore = self._open(path)
        return _run(self._rescore, inputs)

    def close(self) -> None:
        """Drop both sessions."""
        sessions = (self._detect, self._rescore)
        self._detect = self._rescore = None
        for session in sessions:
            if isinstance(session, BoundSession):
                session.close()

    def _open(self, path: Path) -> ort.InferenceSession | BoundSession:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERRORS_ONLY
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        try:
            session = ort.InferenceSession(str(path), options, providers=self._providers)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise RuntimeFailure(f"ONNX Runtime cannot load {path.name}: {_first_line(error)}") from error
        return session if self._allocate is None else BoundSession(session, self._allocate)


def _run(
    session: ort.InferenceSession | BoundSession, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    try:
        return session.run(inputs) if isinstance(session, BoundSession) else _run_plain(session, inputs)
    except Exception as error:  # as above
        raise _kind_of(error)(f"ONNX Runtime failed: {_first_line(error)}") from error


def _kind_of(error: Exception) -> type[RuntimeFailure]:
    """A message tells: ONNX Runtime has no exceptions of its own for these."""
    number = re.search(r"CUDA failure (\d+)", str(error))
    if number is not None and number.group(1) != _OUT_OF_MEMORY:
        return DeviceLost
    if number is not None or isinstance(error, MemoryError) or _NO_ROOM.search(str(error)):
        return OutOfMemory
    return RuntimeFailure


def _run_plain(session: ort.InferenceSession, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    # Some exporters drop an input that a graph does not use; passing it then would be an error.
    taken = {node.name for node in session.get_inputs()}
    values = session.run(names, {name: value for name, value in inputs.items() if name in taken})
    return dict(zip(names, values, strict=True))


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise OptionError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise OptionError(
            "this onnxruntime has no CUDA provider: install hindsight-detector[gpu] in place of [cpu]"
        )
    return [("CUDAExecutionProvider", {"device_id": match.group(1) or "0"}), "CPUExecutionProvider"]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
