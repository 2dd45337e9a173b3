"""What executes a model: one Protocol, and the runtimes by name.

A runtime takes and gives numpy arrays under exactly the names of model.onnx and rescore.onnx. Others than
those below join through the entry-point group `hindsight.runtimes` (name -> "module:function" with the
signature of `RuntimeFactory`), so importing this costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.errors import OptionError, RuntimeFailure
from hindsight.extras import install_extra

if TYPE_CHECKING:
    import numpy as np

    from hindsight.preprocess import ImageLimits, Placement

__all__ = [
    "Preprocessor",
    "Runtime",
    "RuntimeFactory",
    "check_runtime_name",
    "open_runtime",
    "preprocessor_of",
    "runtime_names",
]

Arrays = Mapping[str, NDArray[Any]]
_GROUP = "hindsight.runtimes"
_INSTALL = {"torch": f"{install_extra('gpu')} (export on a CPU)"}  # ours that are registered


class Runtime(Protocol):
    """Executes the graphs of one artifact. Methods raise RuntimeFailure, of which DeviceLost says that this
    process will not execute anything more; `rescore` OptionError where the model has no such head.
    """

    def detect(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """model.onnx: images uint8 [B, H, W, 3], image_sizes int64 [B, 2], thresholds float32 [B],
        nms_threshold float32 [1].
        """
        ...

    def rescore(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """rescore.onnx: images, image_sizes, boxes float32 [B, N, 4] in input pixels, num_boxes int64 [B]."""
        ...

    def close(self) -> None:
        """Free what the runtime holds. Nothing may be called afterwards."""
        ...


class Preprocessor(Protocol):
    """What a runtime may offer beside, as its attribute `preprocessor`: letterboxing on its own device, so
    that photos cross to it as they are. See `preprocessor_of`.
    """

    def detect(
        self, photos: Sequence[bytes | NDArray[np.uint8]], thresholds: Arrays, limits: ImageLimits
    ) -> tuple[list[Placement], dict[str, NDArray[Any]]]:
        """`Runtime.detect` from encoded photos, or pixels uint8 [h, w, 3] RGB, of ONE padded shape (as
        hindsight.preprocess.padded_hw gives it) by the model's own resize rule.

        thresholds: the inputs of model.onnx but images and image_sizes. Raises ImageError, RuntimeFailure;
        ValueError where the padded shapes differ.
        """
        ...


def preprocessor_of(runtime: Runtime) -> Preprocessor | None:
    """The runtime's preprocessor; None where it has none, and photos are letterboxed on the CPU."""
    found: Preprocessor | None = getattr(runtime, "preprocessor", None)
    return found


class RuntimeFactory(Protocol):
    """Makes a runtime. argument: what followed the colon in `name:argument`, else empty."""

    def __call__(self, artifact: Artifact, *, device: str, threads: int | None, argument: str) -> Runtime: ...


def _onnxruntime(artifact: Artifact, *, device: str, threads: int | None, argument: str) -> Runtime:
    try:
        from hindsight.runtime.onnxruntime import OnnxRuntime
    except ImportError as error:
        raise RuntimeFailure(
            f"onnxruntime cannot be imported ({error}): {install_extra('cpu')} (gpu on a GPU)"
        ) from error
    if argument not in ("", "fp32", "tf32"):
        raise OptionError(f"runtime onnxruntime takes fp32 (the default) or tf32, got {argument!r}")
    return OnnxRuntime(artifact, device=device, threads=threads, tf32=argument == "tf32")


def _tensorrt(artifact: Artifact, *, device: str, threads: int | None, argument: str) -> Runtime:
    from hindsight.runtime.tensorrt import TensorRtRuntime

    return TensorRtRuntime(artifact, device=device, argument=argument)


def _sleep(artifact: Artifact, *, device: str, threads: int | None, argument: str) -> Runtime:
    from hindsight.runtime.sleep import SleepRuntime

    return SleepRuntime(artifact, argument)


_BUILT_IN: dict[str, Callable[..., Runtime]] = {
    "onnxruntime": _onnxruntime,
    "sleep": _sleep,
    "tensorrt": _tensorrt,
}


def open_runtime(
    name: str, artifact: Artifact, *, device: str = "cpu", threads: int | None = None
) -> Runtime:
    """Open `artifact` with the runtime `name`: "onnxruntime", "onnxruntime:tf32", "tensorrt",
    "tensorrt:PRECISION", "sleep:MS", or one that an installed package registers.

    device: "cpu", "cuda" or "cuda:N", as far as the runtime knows it. threads: of one execution; None leaves
    it to the runtime. Raises OptionError for an unknown runtime, device or thread count; RuntimeFailure where
    the model does not load.
    """
    if threads is not None and threads < 1:
        raise OptionError(f"threads must be at least 1, got {threads}")
    kind, _, argument = name.partition(":")
    factory = _BUILT_IN.get(kind) or _registered(kind)
    if factory is None:
        raise _unknown(kind)
    return factory(artifact, device=device, threads=threads, argument=argument)


def runtime_names() -> tuple[str, ...]:
    """The runtimes that can be asked for, sorted."""
    return tuple(sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=_GROUP))}))


def check_runtime_name(name: str) -> None:
    """Raises OptionError unless `open_runtime` knows the runtime; what follows the colon is not looked at."""
    kind = name.partition(":")[0]
    if kind not in runtime_names():
        raise _unknown(kind)


def _unknown(kind: str) -> OptionError:
    return OptionError(f"unknown runtime {kind!r}; there are: {', '.join(runtime_names())}")


def _registered(kind: str) -> Callable[..., Runtime] | None:
    for entry in entry_points(group=_GROUP, name=kind):
        try:
            factory: Callable[..., Runtime] = entry.load()
        except ImportError as error:
            raise RuntimeFailure(
                f"runtime {kind} cannot be imported ({error}): {_INSTALL.get(kind, 'install what it needs')}"
            ) from error
        return factory
    return None
