"""The process that TensorRT builds in: `python -m export.tensorrt_worker JOB.json PARENT`.

TensorRT ends the whole process when a build with plugins goes wrong, so nobody builds in a process that
anyone needs. It ends with the process PARENT, however that ends. Lines of JSON on stdout say how far it is,
the last one what was built; TensorRT's log goes to stderr. Needs TensorRT and our plugins; neither onnx nor
torch.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

_LONGEST_REASON = 500
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
# TensorRT's names for the ways to hold a layer of ours
_PLUGIN_LAYERS = ("PLUGIN", "PLUGIN_V2", "PLUGIN_V3")


@dataclass(frozen=True)
class GraphJob:
    """One network: ONNX file in, plan file out. profiles: least and largest shape of every open input, in
    each profile.
    """

    graph: str
    onnx: str
    plan: str
    plugin_layers: int
    profiles: tuple[dict[str, tuple[tuple[int, ...], ...]], ...]


@dataclass(frozen=True)
class Job:
    """capabilities: those to build for ("8.9"), where the flavour can choose; empty: this machine's GPU.

    plugin_library: a compiled plugin to use and to put into the plans, in place of the Python plugins.
    """

    flavour: str
    graphs: tuple[GraphJob, ...]
    capabilities: tuple[str, ...]
    timing_cache: str | None
    plugin_library: str | None


def main() -> None:
    """Build what the job file says. Exit status 1, the reason as `refused`, where TensorRT refuses."""
    from hindsight.engine_json import build

    _end_with(int(sys.argv[2]))
    job = build(Job, json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    trt = importlib.import_module(job.flavour)
    logger = trt.Logger(trt.Logger.WARNING)
    _register(trt, job)
    cache = Path(f"{job.timing_cache}-{trt.__version__}") if job.timing_cache else None
    for graph in job.graphs:
        _say(progress=f"{graph.graph}: parsing")
        _build(trt, logger, job, graph, cache)
    _say(done=True, version=trt.__version__)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends: TensorRT may be deep in C++ for minutes."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        _refuse(f"this system does not tie the builder to its parent ({os.strerror(ctypes.get_errno())})")
    if os.getppid() != parent:  # it ended before it could be tied
        raise SystemExit(1)


def _register(trt: ModuleType, job: Job) -> None:
    if job.plugin_library is not None:
        if trt.get_plugin_registry().load_library(job.plugin_library) is None:
            _refuse(f"this TensorRT does not load {job.plugin_library}: is it compiled against its headers?")
        return
    from export.plugins.python import register_plugins
    from hindsight.errors import RuntimeFailure

    try:
        register_plugins(trt)
    except RuntimeFailure as error:
        _refuse(str(error))


def _build(trt: ModuleType, logger: Any, job: Job, graph: GraphJob, cache: Path | None) -> None:
    builder = trt.Builder(logger)
    # TensorRT 10 must be told that types come from the graph; later versions know nothing else.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(graph.onnx).read_bytes()):
        _refuse(f"{graph.graph} is not understood: {parser.get_error(0).desc()}")
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    plugins = sum(layer.type.name in _PLUGIN_LAYERS for layer in layers)
    if plugins != graph.plugin_layers:
        _refuse(f"{graph.graph} has {plugins} plugin layers after parsing, expected {graph.plugin_layers}")
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 shall mean it
    for profile in graph.profiles:
        shapes = builder.create_optimization_profile()
        for name, (least, largest) in profile.items():
            shapes.set_shape(name, least, largest, largest)
        if config.add_optimization_profile(shapes) < 0:
            _refuse(f"{graph.graph} cannot take the shapes {profile}")
    if job.capabilities:
        _target(trt, config, job.capabilities)
    if job.plugin_library is not None:
        config.plugins_to_serialize = [job.plugin_library]
    timings = None if cache is None else _timings(config, cache)  # kept for as long as the build
    monitor = _monitor(trt, graph.graph)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        _refuse(f"{graph.graph} could not be built")
    try:
        Path(graph.plan).write_bytes(plan)
    except OSError as error:
        _refuse(f"its plan of {graph.graph} cannot be written ({error.strerror})")
    if cache is not None and timings is not None:
        _keep(config.get_timing_cache().serialize(), cache, Path(graph.onnx).with_name("timings"))


def _timings(config: Any, cache: Path) -> Any:
    """Give the build the timings of earlier ones; none where there are none for this very machine."""
    for stored in (cache.read_bytes() if cache.is_file() else b"", b""):
        timings = config.create_timing_cache(stored)
        if timings is not None and config.set_timing_cache(timings, ignore_mismatch=False):
            return timings
    return None


def _keep(timings: Any, cache: Path, draft: Path) -> None:
    """draft: in the folder that is removed whatever happens."""
    try:
        draft.write_bytes(timings)
        draft.replace(cache)
    except OSError as error:
        _say(progress=f"the timings are not kept for the next build ({error.strerror})")


def _target(trt: ModuleType, config: Any, capabilities: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        name = f"SM{capability.replace('.', '')}"
        known = trt.ComputeCapability.__members__
        if name not in known:
            numbers = sorted(int(other[2:]) for other in known if other.startswith("SM"))
            there = ", ".join(f"{number // 10}.{number % 10}" for number in numbers)
            _refuse(f"--gpu: this TensorRT does not build for compute capability {capability}, only {there}")
        config.set_compute_capability(known[name], index)


def _monitor(trt: ModuleType, graph: str) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        """Tells of the outermost phases; the inner ones come and go too fast to read."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps
                _say(progress=f"{graph}: {phase_name}")

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                _say(progress=f"{graph}: {phase_name}, {step + 1} of {self._steps[phase_name]}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _refuse(reason: str) -> NoReturn:
    _say(refused=" ".join(reason.split())[:_LONGEST_REASON])
    raise SystemExit(1)


def _say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
