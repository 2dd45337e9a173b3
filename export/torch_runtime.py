"""Artifacts in torch: the detector itself, rebuilt from the graphs' weights, on the CPU or a GPU.

The same inputs, outputs and names as model.onnx and rescore.onnx. On a GPU the operators are our CUDA kernels
and a batch takes one copy there, one CUDA graph, one copy back: torch_cuda.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.rebuild import rebuilt_detector
from export.torch_cuda import CudaExecutor
from export.torch_dense import dense_context, made_ready
from export.torch_failures import failure_of
from export.torch_graphs import Function
from export.torch_options import TorchOptions, parse_options
from export.torch_packing import tensor_of
from export.torch_preprocess import TorchPreprocessor
from hindsight.artifact import Artifact
from hindsight.errors import OptionError, RuntimeFailure
from model.detector import TwoStageDetector
from model.kernels.compile import KernelError

Arrays = Mapping[str, NDArray[Any]]
DETECT_INPUTS = ("images", "image_sizes", "class_threshold", "score_threshold", "iou_weight", "nms_threshold")
_RESCORE_INPUTS = ("images", "image_sizes", "boxes", "num_boxes")
_RESCORED = ("ious", "purities", "integrities", "class_scores")
_MULTIPLE = 32  # of height and width


def open_torch(artifact: Artifact, *, device: str, threads: int | None, argument: str) -> TorchRuntime:
    """The runtime `torch`; see hindsight.runtime.RuntimeFactory. argument: torch_options.py.

    threads: of torch in this whole process, on the CPU. Raises OptionError, RuntimeFailure, ArtifactError.
    """
    options, where = parse_options(argument), _device(device)
    if threads is not None and where.type == "cpu":
        torch.set_num_threads(threads)
    return TorchRuntime(artifact, where, options)


class TorchRuntime:
    """See hindsight.runtime.Runtime. Methods may be called from several threads; on a GPU one thread's copies
    then overlap the other's computation.
    """

    def __init__(self, artifact: Artifact, device: torch.device, options: TorchOptions) -> None:
        self._artifact = artifact
        self._options, self._device = options, device
        detector = made_ready(rebuilt_detector(artifact), device, options)
        self._functions: dict[str, Function] = {"detect": _detection(detector)}
        if artifact.rescore_path is not None:
            self._functions["rescore"] = _rescoring(detector)
        self._executor = (
            CudaExecutor(device, self._functions, self._context, options.graphs)
            if device.type == "cuda"
            else None
        )
        # on the CPU Pillow is the faster one
        self.preprocessor = None if self._executor is None else self._preprocessor(self._executor)

    @property
    def graphs(self) -> int:
        """How many CUDA graphs are captured now."""
        return 0 if self._executor is None else self._executor.captured

    def detect(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the detector. Raises RuntimeFailure."""
        return self._run("detect", _checked(inputs, DETECT_INPUTS))

    def rescore(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Judge given boxes. Raises RuntimeFailure, OptionError where the model has no such head."""
        self._artifact.require_rescoring()
        return self._run("rescore", _checked(inputs, _RESCORE_INPUTS))

    def close(self) -> None:
        """Drop the detector and all GPU memory that it took."""
        self._functions.clear()
        if self._options.compile:
            torch.compiler.reset()  # compiled code keeps the weights it was compiled for
        if self._executor is not None:
            self._executor.close()

    def _run(
        self, what: str, inputs: Arrays, on_device: Mapping[str, Tensor] | None = None
    ) -> dict[str, NDArray[Any]]:
        function = self._functions.get(what)
        if function is None:
            raise RuntimeFailure("the runtime is closed")
        try:
            if self._executor is not None:
                return self._executor.run(what, inputs, on_device)
            with self._context():
                outputs = function({name: tensor_of(values) for name, values in inputs.items()})
                return {name: values.numpy() for name, values in outputs.items()}
        except (RuntimeError, ValueError, KernelError) as error:
            raise failure_of(error, "torch failed") from error

    def _preprocessor(self, executor: CudaExecutor) -> TorchPreprocessor:
        def run(inputs: dict[str, NDArray[Any]], on_device: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
            return self._run("detect", inputs, on_device)

        rule, nvjpeg = self._artifact.manifest.resize, self._options.nvjpeg
        return TorchPreprocessor(
            self._device, rule, run, executor.to_device, executor.enqueuing, nvjpeg=nvjpeg
        )

    def _context(self) -> AbstractContextManager[None]:
        return dense_context(self._device, self._options)


def _detection(detector: TwoStageDetector) -> Function:
    def detect(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        output = detector(*(inputs[name] for name in DETECT_INPUTS))
        return {name: values for name, values in output._asdict().items() if values is not None}

    return detect


def _rescoring(detector: TwoStageDetector) -> Function:
    def rescore(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = zip(_RESCORED, detector.rescore(*(inputs[name] for name in _RESCORE_INPUTS)), strict=True)
        return {name: values for name, values in named if values is not None}

    return rescore


def _checked(inputs: Arrays, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The inputs in their order, whole. Raises RuntimeFailure where one is missing or misshapen."""
    missing = [name for name in names if name not in inputs]
    if missing:
        raise RuntimeFailure(f"inputs lack {', '.join(missing)}")
    images = inputs["images"]
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise RuntimeFailure(f"images must be uint8 [B, H, W, 3], got {images.dtype} {list(images.shape)}")
    if images.shape[1] % _MULTIPLE or images.shape[2] % _MULTIPLE or not all(images.shape):
        raise RuntimeFailure(
            f"height and width of images must be multiples of {_MULTIPLE}, got {list(images.shape)}"
        )
    for name in names:
        first, expected = inputs[name].shape[:1], (1,) if name == "nms_threshold" else images.shape[:1]
        if first != expected:
            raise RuntimeFailure(f"{name} must have {expected[0]} rows, got {list(inputs[name].shape)}")
    return {name: inputs[name] for name in names}


def _device(device: str) -> torch.device:
    if device == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise OptionError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if not torch.cuda.is_available():
        raise OptionError(
            "torch finds no CUDA device: it needs an NVIDIA GPU, its driver, and a CUDA build of torch"
        )
    index, count = int(match.group(1) or 0), torch.cuda.device_count()
    if index >= count:
        raise OptionError(f"device {device} does not exist: this machine has {count} (cuda:0 .. )")
    return torch.device("cuda", index)
