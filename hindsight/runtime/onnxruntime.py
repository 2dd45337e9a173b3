"""ONNX Runtime, on the CPU or through its CUDA provider (there with IO binding: onnxruntime_binding.py)."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

# From 1.31 on ONNX Runtime keeps a record of use in the user's cache folder and sends it to Microsoft, unless
# this is set before the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.errors import OptionError, OutOfMemory, RuntimeFailure
from hindsight.extras import install_extra
from hindsight.runtime.cuda_errors import failure_kind
from hindsight.runtime.onnxruntime_binding import BoundSession, host_allocator

__all__ = ["OnnxRuntime"]

_ERRORS_ONLY = 3  # severity: 0 verbose .. 4 fatal
_CUDA = "CUDAExecutionProvider"


class OnnxRuntime:
    """See hindsight.runtime.Runtime. The rescoring session is opened by the first `rescore`, so detection
    alone does not pay for it.

    spinning: let idle threads of the pool burn their core while they wait; faster alone on a machine, harmful
    beside anything else. tf32: convolutions and products on a GPU may round their inputs to it.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "cpu",
        threads: int | None = None,
        spinning: bool = False,
        tf32: bool = False,
    ) -> None:
        self._artifact = artifact
        self._providers = _providers(device, tf32=tf32)
        self._threads = threads
        self._spinning = spinning
        self._opening = threading.Lock()
        number = device.partition(":")[2] or "0"
        self._allocate = None if device == "cpu" else host_allocator(int(number))
        self._rescore: ort.InferenceSession | BoundSession | None = None
        self._detect: ort.InferenceSession | BoundSession | None = None
        try:
            self._detect = self._open(artifact.model_path)
        except BaseException:
            with suppress(RuntimeFailure):  # a lost GPU refuses that as well
                self.close()  # it keeps the GPU's context open
            raise

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
        if self._allocate is not None:
            self._allocate.close()

    def _open(self, path: Path) -> ort.InferenceSession | BoundSession:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERRORS_ONLY
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        try:
            # Unless told otherwise it goes on without a GPU that it cannot use, now or in a later run.
            session = ort.InferenceSession(str(path), options, providers=self._providers, enable_fallback=0)
            session.disable_fallback()  # versions that do not know the argument
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            kind = failure_kind(str(error))
            raise kind(f"ONNX Runtime cannot load {path.name}: {_first_line(error)}") from error
        # A provider whose libraries are not found is left out without an error.
        if any(_name(provider) not in session.get_providers() for provider in self._providers):
            raise RuntimeFailure(_why_not_on_the_gpu())
        return session if self._allocate is None else BoundSession(session, self._allocate)


def _run(
    session: ort.InferenceSession | BoundSession, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    try:
        return session.run(inputs) if isinstance(session, BoundSession) else _run_plain(session, inputs)
    except Exception as error:  # as above
        kind = OutOfMemory if isinstance(error, MemoryError) else failure_kind(str(error))
        raise kind(f"ONNX Runtime failed: {_first_line(error)}") from error


def _run_plain(session: ort.InferenceSession, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    # Some exporters drop an input that a graph does not use; passing it then would be an error.
    taken = {node.name for node in session.get_inputs()}
    values = session.run(names, {name: value for name, value in inputs.items() if name in taken})
    return dict(zip(names, values, strict=True))


def _providers(device: str, *, tf32: bool) -> list[Any]:
    if device == "cpu":
        if tf32:
            raise OptionError("tf32 is a precision of GPUs: device cuda or cuda:N")
        return ["CPUExecutionProvider"]
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise OptionError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    _load_cuda_libraries()
    if _CUDA not in ort.get_available_providers():
        raise OptionError(
            "this onnxruntime has no CUDA provider; in place of the extra cpu: " + install_extra("gpu")
        )
    options = {
        "device_id": match.group(1) or "0",
        # ONNX Runtime's own default is TF32, which is no float32: parity would fail.
        "use_tf32": "1" if tf32 else "0",
        # Its default tries all algorithms of every convolution at each new shape of input: seconds, and
        # photos have many shapes.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    return [(_CUDA, options), "CPUExecutionProvider"]


def _load_cuda_libraries() -> str:
    """Load cuBLAS, cuDNN and the others out of NVIDIA's Python packages, where the system's loader would not
    find them (torch does the same when it is imported); what ONNX Runtime says of those that it did not find.
    """
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:  # before 1.21
        return ""
    printed = io.StringIO()
    with redirect_stdout(printed), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        preload()
    return " ".join([*printed.getvalue().split(), *(str(warning.message) for warning in caught)])


def _why_not_on_the_gpu() -> str:
    said = _load_cuda_libraries()
    return (
        "ONNX Runtime does not use the GPU: it needs the CUDA and cuDNN that it was built for, and a driver "
        f"for them ({said[:600] or 'its own messages on stderr say what is missing'})"
    )


def _name(provider: str | tuple[str, dict[str, str]]) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
