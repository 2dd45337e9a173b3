"""TensorRT on an NVIDIA GPU, from the engines that `hindsight export --to tensorrt` built on this machine."""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.engines import FLAVOURS, PRECISIONS, Engine, Plan, find_engine, read_plan, rebuild_command
from hindsight.errors import OptionError, OutOfMemory, RuntimeFailure
from hindsight.extras import install_extra
from hindsight.runtime.buckets import plan_batch
from hindsight.runtime.cuda import Gpu, gpu_number
from hindsight.runtime.cuda_errors import failure_kind
from hindsight.runtime.tensorrt_plan import LoadedPlan

__all__ = ["EMBEDDED", "UNCHECKED", "TensorRtRuntime"]

UNCHECKED = "unchecked"  # argument: load an engine although its recorded parity failed
EMBEDDED = "embedded"  # argument: load an engine that carries machine code of plugins
_PLUGINS = "hindsight.tensorrt_plugins"  # entry points: functions (trt) -> None
_DETECT, _RESCORE = "model.onnx", "rescore.onnx"
# Of a start, beyond the time that loading takes; a request that needs the other plan must not wait for that.
_WARM_UP_SECONDS = 15.0
_LOG = logging.getLogger(__name__)


class TensorRtRuntime:
    """See hindsight.runtime.Runtime. The rescoring plan is loaded by the first `rescore`.

    argument: what followed "tensorrt:", a precision, `unchecked`, `embedded`, with commas or colons between.
    One execution at a time; calls from several threads take turns.
    """

    def __init__(self, artifact: Artifact, *, device: str, argument: str = "") -> None:
        precision, words = _options(argument)
        if device == "cpu":
            raise OptionError("runtime tensorrt needs a GPU: device cuda or cuda:N; onnxruntime does not")
        number = gpu_number(device)
        self._artifact = artifact
        self._turn = threading.Lock()
        self._trt = _tensorrt()
        self._gpu: Gpu | None = Gpu(number)
        self._plans: dict[str, LoadedPlan] = {}
        self._failures: dict[str, str] = {}
        try:
            self._engine = find_engine(
                artifact,
                self._trt.__name__,
                self._trt.__version__,
                self._gpu.name,
                precision,
                capability=self._gpu.capability,
                allow_failed_parity=UNCHECKED in words,
            )
            if not self._engine.record.plugins_embedded:
                _register_plugins(self._trt)
            elif EMBEDDED not in words:
                # The manifest of a model says nothing of engines, so this one may be anybody's.
                raise RuntimeFailure(
                    f"the engine {self._engine.folder.name} carries machine code, which runs when it is "
                    f"loaded: if you built it, say tensorrt:{EMBEDDED}"
                )
            with self._gpu.current():
                self._plan(_DETECT)
        except BaseException:
            with suppress(RuntimeFailure):  # a lost GPU refuses that as well
                self._free()
            raise

    @property
    def engine(self) -> Engine:
        """The engine that is loaded."""
        return self._engine

    def detect(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run model.onnx. Raises RuntimeFailure."""
        with self._turn, self._open().current():
            return self._run(_DETECT, inputs, None)

    def rescore(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run rescore.onnx. Raises RuntimeFailure, OptionError where the model has none."""
        self._artifact.require_rescoring()
        boxes = inputs["boxes"].shape[1]
        with self._turn, self._open().current():
            outputs = self._run(_RESCORE, inputs, boxes)
        return {name: np.ascontiguousarray(values[:, :boxes]) for name, values in outputs.items()}

    def close(self) -> None:
        """Free everything on the GPU."""
        with self._turn:
            self._free()

    def _run(self, graph: str, inputs: Mapping[str, NDArray[Any]], boxes: int | None) -> dict[str, Any]:
        count, height, width, _ = inputs["images"].shape
        plan, loaded = self._plan(graph)
        missing = sorted(loaded.input_names - set(inputs))
        if missing or count == 0:
            lacking = f"the inputs {', '.join(missing)}" if missing else "at least one image"
            raise RuntimeFailure(f"{graph} needs {lacking}")
        try:
            steps = plan_batch(count, height, width, plan.buckets, boxes=boxes)
        except OptionError as error:
            command = rebuild_command(self._artifact, self._engine.record.precision)
            raise RuntimeFailure(f"{error}; build it for more: {command} --size ...") from error
        with self._last_words():
            return loaded.run(inputs, steps)

    def _plan(self, graph: str) -> tuple[Plan, LoadedPlan]:
        plan = self._engine.record.plan_of(graph)
        if plan is None:
            command = rebuild_command(self._artifact, self._engine.record.precision, self._engine.record)
            raise RuntimeFailure(
                f"the engine {self._engine.folder.name} has no plan of {graph}; build it again: {command}"
            )
        if graph in self._failures:  # what was allocated until then is freed by close alone
            raise RuntimeFailure(self._failures[graph])
        if graph not in self._plans:
            assert self._gpu is not None  # the caller has made it current
            engine = self._deserialise(plan)
            try:
                with self._last_words():
                    self._plans[graph] = LoadedPlan(
                        self._trt,
                        engine,
                        plan.buckets,
                        self._gpu,
                        plan.file,
                        warm_up_seconds=_WARM_UP_SECONDS if graph == _DETECT else 0,
                    )
            except RuntimeFailure as error:
                # as text: the exception's frames would keep TensorRT's contexts longer than their memory
                self._failures[graph] = str(error)
                raise
        return plan, self._plans[graph]

    @contextmanager
    def _last_words(self) -> Iterator[None]:
        """Adds what TensorRT's log last said to a failure."""
        log = _logger(self._trt)
        log.error = ""
        try:
            yield
        except RuntimeFailure as error:
            # TensorRT's calls only say that they failed; why is in its log.
            no_room = type(error) is RuntimeFailure and failure_kind(log.error) is OutOfMemory
            kind = OutOfMemory if no_room else type(error)
            raise kind(f"{error}{log.last()}") from error

    def _deserialise(self, plan: Plan) -> Any:
        log = _logger(self._trt)
        log.error = ""
        runtime = self._trt.Runtime(log)
        runtime.engine_host_code_allowed = self._engine.record.plugins_embedded
        engine = runtime.deserialize_cuda_engine(read_plan(self._engine, plan, self._artifact))
        if engine is None:
            command = rebuild_command(self._artifact, self._engine.record.precision, self._engine.record)
            raise RuntimeFailure(
                f"TensorRT does not load {self._engine.folder.name}/{plan.file}{log.last()}; "
                f"build it again: {command}"
            )
        return engine

    def _open(self) -> Gpu:
        if self._gpu is None:
            raise RuntimeFailure("the runtime is closed")
        return self._gpu

    def _free(self) -> None:
        gpu, self._gpu = self._gpu, None
        if gpu is None:
            return
        plans, self._plans = self._plans, {}
        with ExitStack() as freeing:  # a GPU in error still gives back what it can
            freeing.callback(gpu.close)
            freeing.enter_context(gpu.current())
            for plan in plans.values():
                freeing.callback(plan.close)


def _options(argument: str) -> tuple[str | None, frozenset[str]]:
    words = [word for word in re.split("[,:]", argument) if word]
    precisions = [word for word in words if word in PRECISIONS]
    unknown = [word for word in words if word not in (*PRECISIONS, UNCHECKED, EMBEDDED)]
    if unknown or len(precisions) > 1:
        raise OptionError(
            f"runtime tensorrt takes one of {', '.join(PRECISIONS)}, as in tensorrt:fp16; got {argument!r}"
        )
    return (precisions[0] if precisions else None), frozenset(words)


def _tensorrt() -> ModuleType:
    """The module tensorrt; tensorrt_rtx where that is what is installed."""
    for flavour in FLAVOURS:
        try:
            return importlib.import_module(flavour)
        except ModuleNotFoundError as error:
            if error.name != flavour:
                raise RuntimeFailure(f"{flavour} cannot be imported: {error}") from error
        except (ImportError, OSError) as error:  # a library it links to or loads is missing
            raise RuntimeFailure(f"{flavour} cannot be imported: {error}") from error
    raise RuntimeFailure(f"TensorRT is not installed: {install_extra('gpu', 'tensorrt')}")


def _register_plugins(trt: ModuleType) -> None:
    found = entry_points(group=_PLUGINS)
    if not found:
        raise RuntimeFailure(f"no installed package offers our TensorRT plugins (entry points {_PLUGINS})")
    for entry in found:
        try:
            register: Callable[[ModuleType], object] = entry.load()
        except ImportError as error:
            raise RuntimeFailure(
                f"the TensorRT plugins of {entry.value} cannot be imported: {error}"
            ) from error
        register(trt)


@cache
def _logger(trt: ModuleType) -> Any:
    """One for the process: TensorRT keeps the first that it is given, for whatever comes later."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,
        trt.ILogger.VERBOSE: logging.DEBUG,
    }

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        """TensorRT's log into Python's, its last error kept for the message of an exception."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.error = ""

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level >= logging.ERROR:
                self.error = " ".join(msg.split())
            _LOG.log(level, "TensorRT: %s", msg)

        def last(self) -> str:
            """ ": " and the last error, or nothing."""
            return f": {self.error}" if self.error else ""

    return Log()
